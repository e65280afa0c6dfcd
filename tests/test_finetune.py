"Fine-tuning: what is frozen stays, steps are the papers', and a run that was stopped or died ends with the same bits"
import copy, math, re, numpy as np, pytest, torch
from functools import partial
from timm.optim import muon
from types import SimpleNamespace
from fastai.callback.core import Callback
from torch.overrides import TorchFunctionMode
from astropy.table import Table
from astromask.core import InputError, RunDir, Unfinished
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.models.answers import Bins, Classes, Mixture, Point
from astromask.models.heads import Predictor
from astromask.models.mae import MAE
from astromask.models.networks import CNN
from astromask.models.simmim import SimMIM
from astromask.models.weights import load_model
from astromask.train import frozen, targets
from astromask.units import Measure
from astromask.train.finetune import TableOnly, finetune_learner, freeze, predict_cutouts
from astromask.train.options import LARS, NAdaMuon, QUINTIC, RECIPES, decay_groups, orthogonalised, recipe_options

N = 96

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Noisy blobs of two sizes, some pixels, bands, magnitudes and answers missing"
    rng = np.random.default_rng(0)
    y,grid = rng.integers(0, 3, N),np.mgrid[-16:16,-16:16]
    x = np.exp(-(grid**2).sum(0)/(2*(2+3*y[:,None,None])**2))[:,None]*np.array([1.,.5])[:,None,None] + rng.normal(0, .1, (N,2,32,32))
    x[3],x[5,1],x[7,:,:9] = np.nan,np.nan,np.nan
    t = Table(dict(id=[f'o{i}' for i in range(N)], mag_g=20.+y+rng.normal(0, .3, N), mag_r=rng.normal(19, 1, N)))
    t['mag_g'][3::7],t['mag_r'][3] = np.nan,np.nan
    path = tmp_path_factory.mktemp('data')/'toy.h5'
    Cutouts.write(path, x.astype(np.float32), bands=('g','r'), catalog=t)
    labels = np.where(np.arange(N)%11 == 0, -1, y)
    return Cutouts.open(path), labels, np.where(labels < 0, np.nan, .1+.3*y+rng.normal(0, .02, N))

def encoder(kind='mae'):
    torch.manual_seed(1)
    if kind == 'cnn': return CNN(('g','r'), 32, 'resnet10t')
    return MAE.preset('tiny', bands=('g','r'), **(dict(block='vitae') if kind == 'vitae' else {}))

def learner(data, out, recipe='finetune', m=None, answer=None, y=None, head='linear', bs=16, more={}, **kw):
    c,labels,_ = data
    p = Predictor(encoder() if m is None else m, answer or Classes(['a','b','c']), head, **more)
    return finetune_learner(cutout_dls(c, 32, bs=bs, valid=.25, device='cpu'), p, labels if y is None else y, out, recipe=recipe, **kw)

def saved(out): return load_model(out).state_dict()
def same(a, b): assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def losses(out): return [row.split(',')[:6] for row in (out/'history.csv').read_text().splitlines()]

class At(Callback):
    "Do something at a step"
    order = 66
    def __init__(self, step, f): self.at,self.f = step,f
    def after_batch(self):
        if self.training and self.learn.step == self.at: self.f(self.learn)

# what is frozen

@pytest.mark.parametrize('kind,frozen', [('mae','encoder'), ('vitae','encoder'), ('cnn','encoder'), ('vitae',1), ('mae',2)])
def test_frozen_parts_and_their_buffers_stay(data, tmp_path, kind, frozen):
    learn = learner(data, tmp_path/'run', m=encoder(kind), frozen=frozen, band_dropout=.1)       # so that nothing is kept
    p = learn.model
    def still(k): return frozen == 'encoder' or re.match(r'patch_embed|cls_token|fill|pos_embed', k) or any(k.startswith(f'blocks.{i}.') for i in range(frozen))
    before = {k: v.clone() for k,v in p.encoder.state_dict().items()}
    learn.fit(2)
    after = learn.model.encoder.state_dict()
    for k,v in before.items(): assert torch.equal(v, after[k]) == bool(still(k)), k
    buffers = [k for k,_ in p.encoder.named_buffers() if 'running' in k]
    assert bool(buffers) == (kind != 'mae')

def test_thawed_buffers_move(data, tmp_path):
    learn = learner(data, tmp_path/'run', m=encoder('cnn'), recipe='cnn')
    before = {k: v.clone() for k,v in learn.model.named_buffers() if 'running' in k}
    learn.fit(1)
    assert before and all(not torch.equal(v, dict(learn.model.named_buffers())[k]) for k,v in before.items())

def test_parts_are_frozen_by_name(data, tmp_path):
    "The stem and the first stages of a CNN, with their running means, while later ones learn"
    learn = learner(data, tmp_path/'run', m=encoder('cnn'), recipe='cnn', frozen='net.conv1, net.bn1, net.layer[12]*')
    e = learn.model.encoder
    before = {k: v.clone() for k,v in e.state_dict().items() if not k.endswith('num_batches_tracked')}
    learn.fit(1)
    for k,v in before.items(): assert torch.equal(v, e.state_dict()[k]) == bool(re.match(r'net\.(conv1|bn1|layer[12])\.', k)), k
    assert any('layer1' in k and 'running_mean' in k for k in before) and any('layer4' in k and 'running_mean' in k for k in before)
    with pytest.raises(InputError, match="no module of the encoder is called 'layer9'; there are net"): freeze(learn.model, 'net.conv1,layer9')
    freeze(p := Predictor(swin(), Classes('ab')), 'patch_embed, *layers.0*')
    assert not any(v.requires_grad for v in p.encoder.patch_embed.parameters()) and p.encoder.norm.weight.requires_grad

def test_frozen_blocks_are_not_left_out_at_random(data, tmp_path):
    learn = learner(data, tmp_path/'run', frozen=1, drop_path=.5, m=MAE.preset('tiny', bands=('g','r'), depth=3))
    assert learn.prepare.rates.tolist() == [0,.25,.5]
    assert learner(data, tmp_path/'run', frozen=2, drop_path=.5, m=MAE.preset('tiny', bands=('g','r'), depth=3)).prepare.rates.tolist() == [0,0,.5]

def test_freezing_again_thaws(data):
    p = Predictor(encoder(), Classes('ab'))
    freeze(p, 'encoder')
    assert {k.split('.')[0] for k,v in p.named_parameters() if v.requires_grad} == {'head'}
    freeze(p, '')
    assert all(v.requires_grad for v in p.parameters())
    with pytest.raises(InputError, match="frozen is 3; it must be 'encoder', a number of this encoder's 2 blocks"): freeze(p, 3)

@pytest.mark.parametrize('recipe,head', [('probe','linear'), ('attentive','attentive'), pytest.param('probe', 'astromae', marks=pytest.mark.slow)])
def test_kept_features_are_those_that_are_computed_in_every_step(data, tmp_path, monkeypatch, recipe, head):
    more = dict(magnitudes=('mag_g','mag_r'))
    kept = learner(data, tmp_path/'kept', recipe, head=head, more=more)
    kept.fit(8)
    assert kept.prepare.features is not None and kept.dls.train.dataset is kept.frozen_features.original
    monkeypatch.setattr(frozen, 'feature_bytes', lambda *a: 1<<40)
    other = learner(data, tmp_path/'other', recipe, head=head, more=more)
    other.fit(8)
    assert other.prepare.features is None
    a,b = saved(tmp_path/'kept'),saved(tmp_path/'other')
    assert all(torch.allclose(a[k].float(), b[k].float(), atol=1e-3, rtol=1e-3) for k in a)
    fresh = learner(data, tmp_path/'x', recipe, head=head, more=more).model.state_dict()
    assert any(not torch.equal(v, fresh[k]) for k,v in a.items())

# the learning rate

class Rates(Callback):
    order = 40
    def __init__(self): self.seen = []
    def before_step(self): self.seen.append([g['lr'] for g in self.opt.opt.param_groups])

def rates(learn):
    watch = Rates()
    learn.add_cb(watch)
    learn.fit(1)
    return watch.seen

def test_the_first_step_has_the_learning_rate_that_was_asked_for(data, tmp_path):
    seen = rates(learner(data, tmp_path/'a', lr=3e-4, warmup=0, layer_decay=1.))
    assert set(seen[0]) == {3e-4} and all(v < 3e-4 for v in seen[1])
    seen = rates(learner(data, tmp_path/'b', lr=3e-4, warmup=0, layer_decay=.5))
    assert max(seen[0]) == 3e-4 and min(seen[0]) == 3e-4*.5**3
    seen = rates(learner(data, tmp_path/'c', base_lr=1e-2, warmup=0, schedule='constant', layer_decay=1.))
    assert all(set(o) == {1e-2*16**.5/16} for o in seen)
    seen = rates(learner(data, tmp_path/'d', lr=1., warmup=.5, layer_decay=1., recipe='probe'))
    assert np.allclose([o[0] for o in seen[:2]], [.25,.75])                                     # 4 steps: 1/8 and 3/8 of the run, over a half

def mae_rule(name, n_blocks):
    "get_layer_id_for_vit of the MAE paper's code"
    if name in ('cls_token','pos_embed') or name.startswith('patch_embed'): return 0
    return int(name.split('.')[1])+1 if name.startswith('blocks') else n_blocks+1

def test_layer_decay_is_the_papers(data, tmp_path):
    m = MAE.preset('tiny', bands=('g','r'), depth=5, positions='learned')
    learn = learner(data, tmp_path/'run', 'mae', m, more=dict(norm='layer'), lr=1e-3, warmup=0)
    seen = rates(learn)[0]
    group = {id(p): (lr,g['weight_decay']) for lr,g in zip(seen, learn.opt.opt.param_groups) for p in g['params']}
    names = dict(learn.model.named_parameters())
    assert len(group) == len(names)
    for k,p in names.items():
        k = k.removeprefix('encoder.')
        depth = 0 if k == 'fill' else mae_rule(k, 5)                   # ours: what stands for missing pixels
        assert math.isclose(group[id(p)][0], 1e-3*.65**(6-depth), rel_tol=1e-9), k
        assert group[id(p)][1] == (0. if p.ndim == 1 or k in ('cls_token','pos_embed','fill') else .05), k

# steps

def test_lars_is_plain_numpy(rng=np.random.default_rng(0)):
    w,b = rng.normal(size=(4,6)),rng.normal(size=5)
    W,B = (torch.nn.Parameter(torch.tensor(o)) for o in (w,b))
    opt = LARS([dict(params=[W], weight_decay=.1), dict(params=[B], weight_decay=.1)], lr=.5)
    mw = mb = 0
    for _ in range(5):
        gw,gb = rng.normal(size=w.shape),rng.normal(size=b.shape)
        W.grad,B.grad = torch.tensor(gw),torch.tensor(gb)
        opt.step()
        d = gw + .1*w
        mw = .9*mw + .001*np.sqrt((w**2).sum())/np.sqrt((d**2).sum())*d
        mb = .9*mb + gb
        w,b = w - .5*mw, b - .5*mb
    assert np.allclose(W.detach(), w, rtol=1e-12) and np.allclose(B.detach(), b, rtol=1e-12)

def test_lars_moves_from_zero_and_skips(rng=np.random.default_rng(0)):
    W = torch.nn.Parameter(torch.zeros(2,3))
    opt = LARS([W], lr=1.)
    W.grad = torch.ones(2,3)
    opt.step()
    assert (W == -1).all()
    state = {k: v.clone() for k,v in opt.state[W].items()}
    opt.found_inf,W.grad = torch.ones(()),torch.full((2,3), torch.inf)
    opt.step()
    assert (W == -1).all() and torch.equal(opt.state[W]['mu'], state['mu'])

def muon_steps(optimizer, m, groups, rng):
    "Five steps with gradients of noise"
    opt = optimizer(groups, lr=.02)
    for k in range(5):
        for g in opt.param_groups: g['lr'] = .02/(k+1)*g['lr_scale']
        for name,p in sorted(m.named_parameters()): p.grad = torch.tensor(rng.normal(size=p.shape), dtype=torch.float32) if p.requires_grad else None
        opt.step()
    return opt

def test_nadamuon_is_timms(monkeypatch):
    "All kinds of parameters, decayed or not, with a learning rate for each depth; timm computes in float32, too"
    monkeypatch.setattr(muon, 'zeropower_via_newtonschulz', partial(muon.zeropower_via_newtonschulz, dtype=torch.float32))
    torch.manual_seed(0)
    ours = MAE.preset('tiny', bands='griz', sky_token=True)
    theirs = copy.deepcopy(ours)
    opt = muon_steps(NAdaMuon, ours, decay_groups(ours, .1, .7), np.random.default_rng(0))
    groups = [g | dict(use_fallback=not g['matrices']) for g in decay_groups(theirs, .1, .7)]
    muon_steps(partial(muon.Muon, algo='adamuon', nesterov=True), theirs, groups, np.random.default_rng(0))
    for (k,a),b in zip(ours.named_parameters(), theirs.parameters()): torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5, msg=lambda s: f'{k}: {s}')
    before = [o.clone() for p in ours.parameters() for o in (p.detach(), *opt.state[p].values())]
    opt.found_inf = torch.ones(())
    for p in ours.parameters(): p.grad = torch.full_like(p, torch.nan)
    opt.step()
    assert all(torch.equal(a, b) for a,b in zip(before, [o for p in ours.parameters() for o in (p.detach(), *opt.state[p].values())], strict=True))
    opt.found_inf.zero_()
    opt.step()
    assert not ours.norm.weight.isfinite().any()

@pytest.mark.parametrize('shape', [(6,9), (9,6), (8,8)])
def test_singular_values_follow_the_polynomials(shape):
    "U p(S) V^T in double precision: the same vectors, and values that five polynomials give"
    M = np.random.default_rng(0).normal(size=shape)
    U,s,V = np.linalg.svd(M, full_matrices=False)
    s = s/np.sqrt((s**2).sum())
    for a,b,c in QUINTIC: s = a*s + b*s**3 + c*s**5
    assert (np.abs(s-1) < .25).all()
    np.testing.assert_allclose(orthogonalised(torch.tensor(M, dtype=torch.float32)), (U*s) @ V, atol=1e-5)

def mixed(x, y, w, mags, u, lam, cut_lam, both):
    "Mixup and CutMix, object by object"
    H,W = x.shape[2:]
    out = [o.copy() for o in (x,y,w,mags)]
    for i in range(len(x)):
        j,cut = len(x)-1-i,u[i,1] < .5 if both else cut_lam is not None
        a,b = x[i],x[j]
        if cut:
            r = np.sqrt(np.float32(1)-cut_lam[i])
            h,v = int(np.float32(H)*r)//2,int(np.float32(W)*r)//2
            cy,cx = int(u[i,2]*H),int(u[i,3]*W)
            y1,y2,x1,x2 = max(cy-h, 0),min(cy+h, H),max(cx-v, 0),min(cx+v, W)
            out[0][i][:,y1:y2,x1:x2] = b[:,y1:y2,x1:x2]
            s = 1-(y2-y1)*(x2-x1)/(H*W)
        else:
            s = lam[i]
            out[0][i] = s*a + (1-s)*b
        out[3][i] = s*mags[i] + (1-s)*mags[j]
        out[2][i] = s*w[i] + (1-s)*w[j]
        out[1][i] = (s*w[i]*y[i] + (1-s)*w[j]*y[j])/max(out[2][i], 1e-12)
    return out

@pytest.mark.parametrize('mixup,cutmix', [(.8,1.), (.8,0), (0,1.)])
def test_mixing_equals_numpy(data, tmp_path, mixup, cutmix):
    from scipy.stats import beta
    from astromask.core import uniform
    learn = learner(data, tmp_path/'run', 'mae', mixup=mixup, cutmix=cutmix, more=dict(magnitudes=('mag_g','mag_r')), augment='', smoothing=.1, balanced=True)
    prepare,rows = learn.prepare,torch.arange(40, 60)
    x = torch.from_numpy(data[0][rows.numpy()])
    found = prepare.batch([x], rows, 3)
    y,w,mags = (prepare.look_up(rows)[k] for k in ('y','weights','mags'))
    shares = np.eye(3)[y.clamp(min=0)]*.9 + .1/3
    u = uniform(prepare.seed, 3, rows.numpy(), 4, 'mix')
    q = {a: beta.ppf((np.arange(4096)+.5)/4096, a, a).astype(np.float32)[(u[:,0]*4096).astype(int)] for a in (mixup,cutmix) if a}
    known = (y >= 0).numpy()
    expected = mixed(x.numpy(), shares*known[:,None], (w.numpy()*known), mags.numpy(), u, q.get(mixup), q.get(cutmix), len(q) == 2)
    for a,b in zip((found[k] for k in ('x','y','weights','mags')), expected): assert np.allclose(a.numpy(), b, atol=1e-6, equal_nan=True)
    assert not np.allclose(found['x'].numpy(), x.numpy(), equal_nan=True)
    assert torch.equal(prepare.batch([x], rows, 3, training=False)['x'].nan_to_num(), x.nan_to_num())

def test_shares_have_the_distribution_that_was_asked_for():
    q = targets.beta_quantiles(.8).numpy()
    assert abs(q.mean()-.5) < 1e-3 and abs(q.var()-1/(4*(2*.8+1))) < 1e-3

def test_a_batch_in_parts_is_the_batch(data, tmp_path):
    kw = dict(drop_path=0, mixup=.5, smoothing=.1, more=dict(magnitudes=('mag_g','mag_r')))
    for parts in (1,2,4): learner(data, tmp_path/str(parts), accumulate=parts, **kw).fit(2)
    whole,*cut = (saved(tmp_path/parts) for parts in '124')
    for o in cut: assert all(torch.allclose(v, o[k], atol=2e-5) for k,v in whole.items())

def test_stochastic_depth_leaves_validation_alone(data, tmp_path):
    learn = learner(data, tmp_path/'run', drop_path=.5)
    rows = torch.arange(8)
    x = torch.from_numpy(data[0][rows.numpy()])
    assert learn.prepare.batch([x], rows, 0)['paths'].shape == (8,2,2) and 'paths' not in learn.prepare.batch([x], rows, 0, training=False)

@pytest.mark.parametrize('kind', ['swin','beit','cnn'])
def test_recipes_do_without_stochastic_depth_where_no_block_can_be_left_out(data, tmp_path, kind):
    m = dict(swin=swin, beit=lambda: SimMIM(32, bands=('g','r'), encoder='beit', embed_dim=32, depth=2, num_heads=4), cnn=lambda: encoder('cnn'))[kind]()
    c,labels,_ = data
    def teach(**kw): return finetune_learner(cutout_dls(c, m.img_size, bs=16, valid=.25, device='cpu'), Predictor(m, Classes('abc')), labels, tmp_path/'run', **kw)
    with pytest.raises(InputError, match='drop_path is 0.5, but this encoder has no blocks'): teach(recipe='mae', drop_path=.5)
    teach(recipe='mae').fit(1)

# stopped, killed, continued

HARD = dict(recipe='mae', base_lr=1e-2, ema=.9, patience=9, more=dict(norm='layer', magnitudes=('mag_g','mag_r')), save_minutes=0)
CASES = dict(kept=dict(recipe='probe', augment='', more=dict(norm='batch')), mae=HARD, cnn=dict(recipe='cnn', m='cnn', ema=.9), probe=dict(recipe='probe', more=dict(norm='batch')), standard=dict(recipe='cnn', head='mlp', frozen='encoder', more=dict(norm='standard')), attentive=dict(recipe='attentive', head='attentive'),
             blocks=dict(frozen=1, answer='mixture', head='mlp', more=dict(magnitudes='mag_g')))

def case(data, out, name):
    kw = dict(CASES[name])
    if 'm' in kw: kw['m'] = encoder(kw['m'])
    if 'answer' in kw: kw |= dict(answer=Mixture(2, 0, 2), y=data[2])
    return learner(data, out, **kw)

@pytest.mark.parametrize('name', CASES)
def test_stopped_in_the_middle_ends_with_the_same_bits(data, tmp_path, name):
    case(data, tmp_path/'whole', name).fit(3)
    learn = case(data, tmp_path/'stopped', name)
    learn.add_cb(At(6, lambda l: l.out.request_stop('test')))
    with pytest.raises(Unfinished): learn.fit(3)
    learn = case(data, tmp_path/'stopped', name)
    learn.fit(3)
    assert learn.step == 12
    same(saved(tmp_path/'whole'), saved(tmp_path/'stopped'))
    assert losses(tmp_path/'whole') == losses(tmp_path/'stopped')

def test_a_standardised_head_begins_with_what_training_objects_say(data, tmp_path):
    "Mean 0 and spread 1 over those that train, with an answer and a pixel, before the first step and ever after; a head that has learned keeps its own"
    learn = learner(data, tmp_path/'run', 'cnn', frozen='encoder', augment='', head='mlp', more=dict(norm='standard'))
    p,rows = learn.model,[i for i in learn.dls.train.rows if data[1][i] >= 0]
    found = p.encoder.embed(torch.from_numpy(data[0][rows]))
    found = found[found.isfinite().all(1)]
    assert len(found) in (len(rows),len(rows)-1)
    z = p.branches['image'](found).detach()
    assert z.mean(0).abs().max() < 1e-3 and (z.std(0, correction=0)-1).abs().max() < 1e-3
    before = p.branches['image'].mean.clone()
    learn.fit(1)
    assert torch.equal(p.branches['image'].mean, before) and torch.equal(load_model(tmp_path/'run').branches['image'].mean, before)
    c = data[0]
    finetune_learner(cutout_dls(c, 32, bs=16, split=(np.arange(20),np.arange(20, 30)), device='cpu'), p, data[1], tmp_path/'next', recipe='cnn', frozen='encoder', augment='')
    assert torch.equal(p.branches['image'].mean, before)
    with pytest.raises(InputError, match='norm=standard'): Predictor(encoder(), Classes('abc'), 'attentive', norm='standard')

def test_positions_are_known_where_a_head_is_standardised(data, tmp_path):
    c = Cutouts.open(data[0].files[0])
    c.catalog['ra'],c.catalog['dec'] = np.linspace(0, 359, N),np.linspace(-60, 60, N)
    p = Predictor(MAE.preset('tiny', bands=('g','r'), sky_token=True), Classes(['a','b','c']), norm='standard')
    learn = finetune_learner(cutout_dls(c, 32, bs=16, valid=.25, device='cpu'), p, data[1], tmp_path/'run', recipe='cnn', frozen='encoder', augment='')
    rows = [i for i in learn.dls.train.rows if data[1][i] >= 0]
    sky = torch.tensor(np.stack([c.catalog['ra'][rows],c.catalog['dec'][rows]], 1), dtype=torch.float32)
    found = p.encoder.embed(torch.from_numpy(c[rows]), coords=sky)
    found = found[found.isfinite().all(1)]
    assert p.branches['image'](found).mean(0).abs().max() < 1e-3

def test_died_in_the_middle_ends_with_the_same_bits(data, tmp_path):
    case(data, tmp_path/'whole', 'mae').fit(3)
    learn = case(data, tmp_path/'died', 'mae')
    def die(learn): raise KeyboardInterrupt
    learn.add_cb(At(7, die))
    with pytest.raises(KeyboardInterrupt): learn.fit(3)
    again = case(data, tmp_path/'died', 'mae')
    again.fit(3)
    same(saved(tmp_path/'whole'), saved(tmp_path/'died'))
    assert losses(tmp_path/'whole') == losses(tmp_path/'died')

def test_another_task_is_refused(data, tmp_path):
    learner(data, tmp_path/'run').fit(1)
    c,labels,_ = data
    other = labels.copy()
    other[np.flatnonzero(labels == 1)] = 2
    with pytest.raises(InputError, match='was begun with answers'): learner(data, tmp_path/'run', y=other).fit(2)
    torch.manual_seed(5)
    with pytest.raises(InputError, match='was begun with encoder'): learner(data, tmp_path/'run', m=MAE.preset('tiny', bands=('g','r'))).fit(2)
    with pytest.raises(InputError, match='was begun with layer_decay'): learner(data, tmp_path/'run', layer_decay=.9).fit(2)
    with pytest.raises(InputError, match="the model's head linear, and now it is mlp"): learner(data, tmp_path/'run', head='mlp').fit(2)

# the best epoch

def scripted(learn, scores):
    "Let validation say what a test wants"
    learn.score = lambda row: scores[row['epoch']-1]
    kept = {}
    class Copy(Callback):
        order = 61
        def after_epoch(self): kept[self.epoch+1] = {k: v.clone() for k,v in self.model.state_dict().items()}
    learn.add_cb(Copy())
    return kept

def test_the_best_epoch_is_kept_and_patience_ends_the_run(data, tmp_path):
    learn = learner(data, tmp_path/'run', 'cnn', encoder('cnn'), patience=2)
    kept = scripted(learn, [3,1,2,1,0,0])
    learn.fit(6)
    assert learn.epochs_done == 4                          # the fourth is not better than the second
    same(saved(tmp_path/'run'), kept[2])
    same(learn.model.state_dict(), kept[2])
    again = learner(data, tmp_path/'run', 'cnn', encoder('cnn'), patience=2)
    scripted(again, [3,1,2,1,0,0])
    again.fit(6)
    assert again.step == learn.step
    same(saved(tmp_path/'run'), kept[2])

def test_an_epoch_without_a_number_is_never_the_best(data, tmp_path):
    learn = learner(data, tmp_path/'run', 'scratch')
    kept = scripted(learn, [math.nan,2,math.nan])
    learn.fit(3)
    same(saved(tmp_path/'run'), kept[2])

def test_what_is_for_tests_is_never_looked_at(data, tmp_path):
    c,labels,_ = data
    train,valid,test = np.arange(60),np.arange(60, 80),np.arange(80, N)
    def run(out, y):
        p = Predictor(encoder(), Classes(['a','b','c']), magnitudes=('mag_g','mag_r'))
        finetune_learner(cutout_dls(c, 32, bs=16, split=(train,valid,test), device='cpu'), p, y, out).fit(2)
        return saved(out)
    other = labels.copy()
    other[test] = 2-labels[test].clip(0)
    same(run(tmp_path/'a', labels), run(tmp_path/'b', other))

# missing things

@pytest.mark.parametrize('answer,head', [(Classes(['a','b','c']),'attentive'), (Bins(20, 0, 1.5),'mlp'), (Mixture(3, 0, 1.5),'linear'), (Point(),'astromae')])
def test_missing_pixels_magnitudes_and_answers_do_no_harm(data, tmp_path, answer, head):
    learn = learner(data, tmp_path/'run', answer=answer, y=data[1] if isinstance(answer, Classes) else data[2], head=head,
                    more=dict(magnitudes=('mag_g','mag_r')), band_dropout=.3, bs=32)
    learn.fit(2)
    assert all(v.isfinite().all() for v in learn.model.state_dict().values()) and int(learn.safe_step.lost) == 0
    found = predict_cutouts(learn.model, data[0], progress=False)
    for v in found.values(): assert np.isnan(v[3]).all() and np.isfinite(np.delete(v, 3, axis=0)).all()      # nothing is known of the third

def test_objects_without_weight_do_not_count(data, tmp_path):
    c,labels,_ = data
    w = np.where(np.arange(N)%3 == 0, 0., 1.)
    wrong = np.where(w == 0, 2-labels.clip(0), labels)
    for name,y in dict(a=labels, b=wrong).items(): learner(data, tmp_path/name, y=y, weights=w, balanced=False, smoothing=0).fit(1)
    a,b = saved(tmp_path/'a'),saved(tmp_path/'b')
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)

def test_weights_of_validating_objects_are_looked_at(data, tmp_path):
    learn = learner(data, tmp_path/'run', weights=np.ones(N))
    row = next(i for i in learn.dls.valid.rows if data[1][i] >= 0)
    for wrong in (np.nan, -1., np.inf):
        with pytest.raises(InputError, match='weights must be numbers of 0 or more'): learner(data, tmp_path/'run', weights=np.where(np.arange(N) == row, wrong, 1.))
    unknown = np.where(data[1] < 0, np.nan, 1.)
    learner(data, tmp_path/'mixed', 'mae', weights=unknown, bs=32).fit(1)
    assert all(v.isfinite().all() for v in saved(tmp_path/'mixed').values())

def test_weights_have_no_unit(data, tmp_path):
    for k in (1,1000): learner(data, tmp_path/str(k), weights=k*(1.+np.arange(N)%3)).fit(1)
    a,b = saved(tmp_path/'1'),saved(tmp_path/'1000')
    assert all(torch.allclose(a[k], b[k], atol=1e-5) for k in a)

def test_a_run_without_any_number_ends_in_a_sentence(data, tmp_path):
    learn = learner(data, tmp_path/'run', 'scratch')
    scripted(learn, [math.nan]*2)
    with pytest.raises(InputError, match='no epoch validated with a number'): learn.fit(2)
    assert not (tmp_path/'run'/'model').exists()

def test_without_any_answer_nothing_is_begun(data, tmp_path):
    with pytest.raises(InputError, match='No object that trains has a known answer'): learner(data, tmp_path/'run', y=np.full(N, -1))
    c,labels,_ = data
    dls = cutout_dls(c, 32, bs=16, valid=.25, device='cpu')
    unjudged = np.where(np.isin(np.arange(N), dls.valid.rows), -1, labels)
    with pytest.raises(InputError, match='No object that validates has a known answer'): learner(data, tmp_path/'run', y=unjudged)
    with pytest.raises(InputError, match='y names class 3, and the answer has 3'): learner(data, tmp_path/'run', y=np.full(N, 3))
    with pytest.raises(InputError, match='one row for each cutout'): learner(data, tmp_path/'run', y=np.zeros(5))
    with pytest.raises(InputError, match='mixup and cutmix are for classes'): learner(data, tmp_path/'run', 'mae', answer=Point(), y=data[2])
    with pytest.raises(InputError, match='looks at no magnitudes'): learner(data, tmp_path/'run', magnitudes=np.zeros((N,2)))
    with pytest.raises(InputError, match='weights must be numbers of 0 or more'): learner(data, tmp_path/'run', weights=-np.ones(N))
    with pytest.raises(InputError, match='recipe is'): recipe_options('slow')
    for wrong in (dict(clip=-1), dict(warmup=1), dict(warmup=-1), dict(weight_decay=-1), dict(beta2=1), dict(base_lr=-1), dict(lr=math.nan), dict(patience='x'), dict(patience=1.5), dict(ema=1), dict(accumulate=0)):
        with pytest.raises(InputError, match=f'{next(iter(wrong))} is'): learner(data, tmp_path/'run', **wrong)
    with pytest.raises(InputError, match='y holds <U'): learner(data, tmp_path/'run', y=np.array(['a','b','c']*(N//3)))
    with pytest.raises(InputError, match='y holds 0.9: classes are whole numbers'): learner(data, tmp_path/'run', y=np.full(N, .9))
    with pytest.raises(InputError, match='Batches of one object teach a batch norm nothing'): learner(data, tmp_path/'run', 'cnn', encoder('cnn'), bs=1)
    with pytest.raises(InputError, match='No object that trains has mag_G'): learner(data, tmp_path/'run', more=dict(magnitudes=('mag_g','mag_G')))
    assert set(RECIPES) == {'probe','attentive','finetune','mae','scratch','cnn'}

def test_the_papers_recipe_asks_for_the_papers_norm(data, tmp_path, caplog):
    learner(data, tmp_path/'a', 'mae', more=dict(norm='layer'))
    learner(data, tmp_path/'b', 'finetune')
    assert not caplog.records
    learner(data, tmp_path/'c', 'mae')
    assert [r.levelname for r in caplog.records] == ['WARNING'] and "norm='layer'" in caplog.text

def test_an_answers_own_weights_and_smoothing_come_first(data, tmp_path):
    own = learner(data, tmp_path/'run', answer=Classes('abc', [1,2,3], .2), smoothing=.1)
    y,w = (own.prepare.tables[k] for k in ('y','weights'))
    assert own.recipe.smoothing == 0 and [round(float(w[y == k][0]/w[y == 0][0]), 4) for k in range(3)] == [1,2,3]
    rows = torch.from_numpy(own.dls.train.rows)
    assert math.isclose(w[rows][y[rows] >= 0].mean(), 1, rel_tol=1e-5)

def test_means_of_weights_have_their_running_means(data, tmp_path):
    "With a mean that does not move, batch norms are those that training began with"
    learn = learner(data, tmp_path/'run', 'cnn', encoder('cnn'), ema=.5, lr=1e-2)
    before = {k: v.clone() for k,v in learn.model.state_dict().items()}
    moved = []
    class Means(Callback):
        order = 31                                                        # after `Average`
        def after_step(self): moved.append({k: v.clone() for k,v in self.model.state_dict().items() if v.is_floating_point()})
    learn.add_cb(Means())
    learn.fit(1)
    mean = {k: before[k] for k in moved[0]}
    for i,now in enumerate(moved):
        d = min(.5, (1+i)/(10+i))
        mean = {k: d*mean[k]+(1-d)*now[k] for k in now}
    found = saved(tmp_path/'run')
    assert all(torch.allclose(found[k], v, atol=1e-5) for k,v in mean.items()) and any('running_var' in k for k in mean)

# devices

class NoDoubles(TorchFunctionMode):
    "Apple's GPUs, played by the meta device: no float64 there, and what is copied to the CPU is some number"
    def __torch_function__(self, f, types, args=(), kwargs=None):
        to_cpu = f is torch.Tensor.cpu or f is torch.Tensor.to and args[1] == torch.device('cpu')
        if to_cpu and args[0].is_meta: return torch.zeros(args[0].shape, dtype=args[0].dtype)
        found = f(*args, **kwargs or {})
        if torch.is_tensor(found) and found.is_meta and found.dtype == torch.float64: raise TypeError('no float64 on this device')
        return found

@pytest.mark.parametrize('answer', [Bins(20, 0, 1.5), Bins(20, 0, 1.5, loss='ce'), Mixture(3, 0, 1.5), Point(), Classes('abc')])
def test_devices_without_float64_do(answer):
    p = Predictor(encoder(), answer, magnitudes='mag_g').to('meta')
    x,mags,y = (torch.empty(s, device='meta') for s in ((4,2,32,32), (4,1), (4,)))
    with NoDoubles():
        with pytest.raises(TypeError): x.double()
        answer.loss(p(x, mags), y.long() if isinstance(answer, Classes) else y, y).backward()
        for views in (1,2): assert all(len(v) == 4 for v in p.predict(x, mags, views=views).values())

# asking

def test_predictions_by_name_in_order_and_averaged(data, tmp_path):
    c,labels,_ = data
    p = Predictor(encoder(), Classes(['a','b','c']), magnitudes=('mag_g','mag_r')).eval()
    whole,rows = predict_cutouts(p, c, progress=False)['probability'],np.array([50,2,2,9])
    assert np.allclose(predict_cutouts(p, c, rows, progress=False)['probability'], whole[rows], atol=1e-6)
    assert np.allclose(predict_cutouts(p, c, bs=7, progress=False)['probability'], whole, atol=1e-6, equal_nan=True)
    x = torch.from_numpy(c[:4])
    turned = [p.predict(o, views=1)['probability'] for o in (x, x.flip(-1,-2))]
    assert torch.allclose(p.predict(x, views=2)['probability'], sum(turned)/2, atol=1e-6, equal_nan=True)
    mags = np.stack([np.ma.filled(np.ma.asarray(c.catalog[k], dtype=float), np.nan) for k in ('mag_g','mag_r')], 1)
    assert np.array_equal(predict_cutouts(p, c, rows, magnitudes=mags, progress=False)['probability'], predict_cutouts(p, c, rows, progress=False)['probability'])
    assert not np.allclose(predict_cutouts(p, c, rows, magnitudes=mags*np.nan, progress=False)['probability'], whole[rows], atol=1e-4)
    with pytest.raises(InputError, match='magnitudes has the shape'): predict_cutouts(p, c, magnitudes=mags[:3], progress=False)
    with pytest.raises(InputError, match="does not know band 'z'"): p.predict(x, bands=('g','z'))

def test_a_catalogue_alone_teaches(data, tmp_path):
    t = Table(dict(id=[f'o{i}' for i in range(300)], a=np.linspace(0, 1, 300), b=np.random.default_rng(0).normal(size=300)))
    z = np.asarray(t['a'])**2
    t['b'][::5] = np.nan
    c,p = TableOnly(t),Predictor(None, Point(), 'mlp', magnitudes=('a','b'))
    learn = finetune_learner(cutout_dls(c, split=(np.arange(0, 300, 2),np.arange(1, 300, 2)), bs=32, device='cpu'), p, z, tmp_path/'run')
    learn.fit(30)
    assert learn.history.rows[-1]['nmad'] < .05 and np.abs(predict_cutouts(p, c, progress=False)['z']-z).mean() < .05

def test_half_precision_and_the_clock(data, tmp_path):
    learn = learner(data, tmp_path/'run', amp='bf16', max_minutes=.02)
    learn.fit(1)
    assert learn.seconds() >= 1.2 and all(v.isfinite().all() for v in saved(tmp_path/'run').values())

# predictors are models: saved, loaded, without what only pretraining needs

def swin(): return SimMIM(64, bands=('g','r'), encoder='swin_tiny_patch4_window7_224', embed_dim=16, depth=[2,2,2,1], num_heads=[1,2,2,4], window_size=4)

@pytest.mark.parametrize('make,head,norm', [(encoder,'linear','batch'), (encoder,'mlp','layer'), (encoder,'attentive',''), (swin,'attentive',''), (swin,'linear',''),
                                            (lambda: encoder('vitae'),'linear',''), (lambda: encoder('cnn'),'linear','batch'), (lambda: None,'mlp',''),
                                            (lambda: SimMIM.preset('tiny', bands=('g','r')),'linear','layer')])
def test_saved_and_loaded_predictors_answer_the_same(tmp_path, make, head, norm):
    from astromask.models.weights import save_model
    m = make()
    p = Predictor(m, Mixture(2, 0, 2), head, norm=norm, magnitudes=('mag_g','mag_r')).eval()
    x = None if m is None else torch.randn(3,2,*p.img_size)
    mags = torch.tensor([[20.,19.],[torch.nan,20.],[21.,torch.nan]])
    save_model(p, tmp_path/'p')
    again = load_model(tmp_path/'p')
    assert again.config == p.config and torch.equal(again.predict(x, mags)['pdf'], p.predict(x, mags)['pdf'])
    assert not [k for k in p.state_dict() if re.search(r'decoder|mask_token|encoder\.head', k)]
    if m is not None: assert {id(v) for v in m.parameters()}.isdisjoint(id(v) for v in p.parameters())

def test_a_damaged_description_is_refused(tmp_path):
    import json
    from astromask.core import DataError
    from astromask.models.weights import save_model
    save_model(Predictor(encoder(), Classes('ab')), tmp_path/'p')
    good = json.loads((tmp_path/'p'/'config.json').read_text())
    for change in (dict(encoder=dict(model='Forest', config={})), dict(answer=dict(answer='Oracle')), dict(head='none')):
        (tmp_path/'p'/'config.json').write_text(json.dumps(good | dict(config=good['config'] | change)))
        with pytest.raises((DataError, InputError)): load_model(tmp_path/'p')
    huge = good['config']['encoder'] | dict(config=good['config']['encoder']['config'] | dict(embed_dim=1<<20))
    (tmp_path/'p'/'config.json').write_text(json.dumps(good | dict(config=good['config'] | dict(encoder=huge))))
    with pytest.raises(DataError, match='larger than any machine'): load_model(tmp_path/'p')

def test_a_gradient_meets_no_nan(rng=np.random.default_rng(0)):
    for head,m in (('linear',encoder()), ('attentive',encoder()), ('astromae',encoder()), ('linear',encoder('cnn')), ('mlp',None)):
        p = Predictor(m, Classes('ab'), head, magnitudes=('mag_g',))
        x,mags = torch.randn(4,2,32,32),torch.randn(4,1)
        x[0],x[1,1],x[2,:,:5],mags[0],mags[3] = torch.nan,torch.nan,torch.nan,torch.nan,torch.nan
        p(x, mags).square().sum().backward()
        assert all(v.grad.isfinite().all() for v in p.parameters() if v.grad is not None)

def test_what_was_taught_goes_on_from_there(data, tmp_path):
    "A probe first, then everything: the head is not begun anew"
    learn = learner(data, tmp_path/'probe', 'probe')
    learn.fit(1)
    p,bias = learn.model,learn.model.head[-1].bias.detach().clone()
    c,labels,_ = data
    finetune_learner(cutout_dls(c, 32, bs=16, valid=.25, device='cpu'), p, labels, tmp_path/'all')
    assert torch.equal(p.head[-1].bias, bias) and all(v.requires_grad for v in p.parameters())

def test_a_model_keeps_what_its_training_set_was_and_converts_others(tmp_path):
    rng,n = np.random.default_rng(0),32
    x,y = rng.normal(size=(n,2,32,32)).astype('f4'),np.arange(n) % 2
    y[5] = -1
    for name,factor in (('nanomaggy',1.), ('nJy',10**(.4*8.9))): Cutouts.write(tmp_path/f'{name}.h5', x*factor, 'gr', unit=name, pixel_scale=.2)
    Cutouts.write(tmp_path/'picture.h5', x, 'gr', unit='8-bit colour image')
    def taught(name, p, out):
        learn = finetune_learner(cutout_dls(Cutouts.open(tmp_path/f'{name}.h5'), 32, bs=8, split=[np.arange(20),np.arange(20,28)], device='cpu'), p, y, tmp_path/out)
        learn.remove_cbs([learn.figures])
        learn.figures = SimpleNamespace(try_to_draw=lambda: None)
        learn.fit(1)
        return learn
    def model():
        torch.manual_seed(0)
        return Predictor(MAE.preset('tiny', 'gr'), Classes(['a','b']))
    first = model()
    taught('nanomaggy', first, 'a')
    assert first.measure == Measure('nanomaggy', 22.5, .2) and (first.trained_on.train, first.trained_on.valid) == (19,8)
    saved = load_model(tmp_path/'a/model')
    assert saved.measure == first.measure and saved.trained_on.has(x).tolist() == [i < 28 and i != 5 for i in range(n)]
    second = model()
    second.measure,second.scaling = first.measure,first.scaling
    taught('nJy', second, 'b')
    assert second.measure == first.measure
    for (k,a),b in zip(first.state_dict().items(), second.state_dict().values()): torch.testing.assert_close(a.float(), b.float(), atol=2e-3, rtol=2e-3, msg=k)
    ours,theirs = (predict_cutouts(first, Cutouts.open(tmp_path/f'{k}.h5'), progress=False)['probability'] for k in ('nanomaggy','nJy'))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for refused in (lambda: taught('picture', model_of(first), 'c'), lambda: predict_cutouts(first, Cutouts.open(tmp_path/'picture.h5'), progress=False)):
        with pytest.raises(InputError, match='cannot be converted'): refused()

def model_of(p): return Predictor(p.encoder, Classes(['a','b']))
