"Refining: loss and queue against NumPy, the same bits after a stop, nothing of what is missing, and only what may change does"
from types import SimpleNamespace
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from torch.nn import functional as F
from astromask.core import InputError, Unfinished
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.models.mae import MAE
from astromask.models.publish import weights_digest
from astromask.models.simmim import SimMIM
from astromask.models.weights import load_model, save_model
from astromask.train.pretrain import pretrain_learner
from astromask.train.refine import NeighbourHead, Refiner, last_latents, neighbour_loss

METHODS = dict(mae=MAE, simmim=SimMIM)

def unit(*shape, seed=0, **kw): return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **kw), dim=-1)

# ---- the loss and the queue

def by_hand(z, p, w, queue):
    "Object by object; queue: those that are in it"
    found = []
    for v in (0,1):
        for i in np.flatnonzero(w):
            near = queue[np.argmax([q @ z[v,i] for q in queue])] if len(queue) else z[v,i]
            found.append(np.log(sum(np.exp(near @ p[1-v,j]/.1) for j in np.flatnonzero(w))) - near @ p[1-v,i]/.1)
    return np.mean(found)

@pytest.mark.parametrize('n_filled', [0,5,9])
def test_loss_against_numpy(n_filled):
    "Empty places are never a neighbour, even if all others are on the far side; objects that do not count are not there"
    z,p,queue = unit(2,7,12),unit(2,7,12, seed=1),unit(9,12, seed=2)
    filled,w = torch.randperm(9) < n_filled,torch.ones(7)
    queue[~filled] = 0
    queue[filled] *= torch.where(z[0,0] @ queue[filled].T > 0, -1, 1)[:,None]
    for w in (torch.ones(7), torch.tensor([1.,0,1,1,0,1,1])):
        theirs = by_hand(z.double().numpy(), p.double().numpy(), w.numpy(), queue[filled].double().numpy())
        assert np.isclose(neighbour_loss(z, p, w, queue, filled).item(), theirs, rtol=1e-5)

def test_nothing_flows_through_neighbours():
    z,p = (unit(2,5,6, seed=s, dtype=torch.double).requires_grad_() for s in (0,1))
    w,queue,filled = torch.tensor([1.,1,0,1,1], dtype=torch.double),unit(4,6, seed=2, dtype=torch.double),torch.ones(4, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda p: neighbour_loss(z.detach(), p, w, queue, filled), (p,))
    for some in (filled, ~filled): assert torch.autograd.grad(neighbour_loss(z, p, w, queue, some), z, allow_unused=True) == (None,)

def test_queue_against_a_list():
    "First in, first out; the newest step in front; the first view's projections; places of what is missing stay empty"
    torch.manual_seed(0)
    head,past = NeighbourHead(8, 12),[]
    for step in range(5):
        latent,seen = torch.randn(8,8),torch.rand(8) < .8
        z = F.normalize(head.project(latent), dim=1).detach().view(4,2,-1).transpose(0,1)
        p = F.normalize(head.predict(head.project(latent)), dim=1).detach().view(4,2,-1).transpose(0,1)
        w = seen.view(4,2).all(1)
        theirs = by_hand(z.numpy(), p.numpy(), w.numpy(), [q.numpy() for q,there in past if there])
        loss,n = head(latent, seen)
        assert np.isclose(loss.item(), theirs, rtol=1e-4) and n == w.sum()
        past = ([(z[0,i],bool(w[i])) for i in range(4)] + past)[:12]
        assert head.filled[:len(past)].tolist() == [there for _,there in past] and not head.filled[len(past):].any()
        torch.testing.assert_close(head.queue[:len(past)], torch.stack([q for q,_ in past]))

# ---- objects without a pixel

@pytest.mark.parametrize('method', METHODS)
def test_an_object_without_pixels_is_as_if_it_were_not_there(method):
    torch.manual_seed(0)
    m = METHODS[method].preset('tiny', bands='gr')
    start = Refiner(m, {f'block{k}': NeighbourHead(32, 24) for k in (1,2)}).state_dict()
    x = torch.randn(2,8,2,32,32)
    x[0,2:4] = x[1,5] = torch.nan                                           # both views; one of them
    found = []
    for rows in ([range(8), range(8)], [[0,1,4,5,6,7], [0,1,2,3,6,7]]):
        refiner = Refiner(m, {f'block{k}': NeighbourHead(32, 24) for k in (1,2)})
        refiner.load_state_dict(start)
        for step in (0,1):
            refiner.zero_grad()
            out = refiner(x=x[step,list(rows[step])])
            out.loss.backward()
        found.append((out.loss.item(), out.parts, torch.cat([p.grad.flatten() for p in refiner.parameters() if p.grad is not None])))
        assert all(h.filled.sum() == 6 and h.queue.isfinite().all() for h in refiner.heads.values())
    (loss,parts,grad),(loss_without,parts_without,grad_without) = found
    assert np.isclose(loss, loss_without, rtol=1e-5) and torch.allclose(parts, parts_without, rtol=1e-4)
    assert grad.isfinite().all() and (grad-grad_without).norm() < 1e-4*grad_without.norm()
    out = refiner(x=torch.full_like(x[0], torch.nan))
    out.loss.backward()
    assert out.n_targets == 0 and all(p.grad.isfinite().all() for p in refiner.parameters() if p.grad is not None)
    torch.testing.assert_close(last_latents(m, x[0], 1)[0], m.embed(x[0], views=1), equal_nan=True)

# ---- runs

@pytest.fixture(scope='module')
def survey(tmp_path_factory):
    "96 objects in two bands, some without a pixel"
    path,rng = tmp_path_factory.mktemp('data')/'survey.h5',np.random.default_rng(0)
    x = rng.normal(0, 1, (96,2,32,32)).astype('float32')
    x[3],x[5,1],x[7,:,:,20:] = np.nan,np.nan,np.nan
    Cutouts.write(path, x, bands='gr')
    return path

@pytest.fixture(scope='module')
def finished(tmp_path_factory, survey):
    "Models as if they had been trained; of three blocks, the last two of which are refined"
    folder = tmp_path_factory.mktemp('models')
    for method,cls in METHODS.items():
        torch.manual_seed(1)
        save_model(cls.preset('tiny', bands='gr', depth=3), folder/method)
    return folder

def new_learner(survey, out, path, **kw):
    torch.manual_seed(0)
    learn = pretrain_learner(cutout_dls(Cutouts.open(survey), 32, bs=16, split=(np.arange(64), np.arange(64, 80)), device='cpu'), load_model(path), out, **kw)
    learn.remove_cbs([learn.figures, learn.online_probe])                   # not what is tested, and slow
    learn.figures = learn.online_probe = SimpleNamespace(try_to_draw=lambda: None, ask=lambda: None)
    return learn

class StopAt(Callback):
    order = 65
    def __init__(self, at): self.at = at
    def after_batch(self):
        if self.training and self.learn.step == self.at: self.learn.out.request_stop()

@pytest.mark.parametrize('method,kw', [('mae', dict(accumulate=2, ema=.9, drop_path=.2)), ('simmim', dict(band_dropout=.2, amp='bf16'))], ids=['mae','simmim'])
def test_stopped_and_continued_it_ends_with_the_same_bits(survey, finished, tmp_path, method, kw):
    whole = new_learner(survey, tmp_path/'whole', finished/method, refine=True, **kw)
    whole.fit(2)
    learn = new_learner(survey, tmp_path/'stopped', finished/method, refine=True, **kw)
    learn.add_cb(StopAt(6))                                                 # of 8 steps, in the middle of the second epoch
    with pytest.raises(Unfinished): learn.fit(2)
    learn.out.clear_stop()
    again = new_learner(survey, tmp_path/'stopped', finished/method, refine=True, **kw)
    again.fit(2)
    a,b = ({k: v for k,v in o.state()[0].items() if not k.startswith('random')} for o in (whole, again))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) and a['heads.block3.filled'].any()
    rows = [[{k: v for k,v in r.items() if k not in ('seconds','images_per_second','stalled')} for r in o.history.rows] for o in (whole, again)]
    assert rows[0] == rows[1] and np.isfinite(rows[0][1]['block3_loss']) and 'block2_loss' not in rows[0][1]

    # the model is one as any: only the upper blocks and the norm have changed
    before,after = (load_model(p).state_dict() for p in (finished/method, tmp_path/'whole'))
    assert before.keys() == after.keys()
    assert {'.'.join(k.split('.')[:2]) for k in before if not torch.equal(before[k], after[k])} == {'blocks.1','blocks.2','norm.weight','norm.bias'}
    x = torch.randn(2,2,32,32)
    assert load_model(tmp_path/'whole').reconstruct(x).isfinite().all()
    card = (tmp_path/'whole/model/README.md').read_text()
    assert weights_digest(finished/method) in card and '| refine | True |' in card

def test_weights_are_part_of_the_task(survey, finished, tmp_path):
    new_learner(survey, tmp_path/'run', finished/'mae', refine=True).fit(1)
    m = load_model(finished/'mae')
    with torch.no_grad(): m.norm.bias[0] += 1
    save_model(m, tmp_path/'other')
    with pytest.raises(InputError, match='begun with refined from weights with SHA-256'): new_learner(survey, tmp_path/'run', tmp_path/'other', refine=True).fit(2)
    with pytest.raises(InputError, match='begun with .*refine'): new_learner(survey, tmp_path/'run', finished/'mae').fit(2)

def test_what_is_refused(survey, finished, tmp_path):
    for kw,says in ((dict(label_weight=.1), 'label_weight is 0.1 beside refine'), (dict(patience=2), 'patience is 2 beside refine'),
                    (dict(frozen=3), 'of the 3 blocks one must learn'), (dict(compile=True), 'compile is true beside refine')):
        with pytest.raises(InputError, match=says): new_learner(survey, tmp_path/'run', finished/'mae', refine=True, **kw)
    with pytest.raises(InputError, match='frozen is 1, but nothing'): new_learner(survey, tmp_path/'run', finished/'mae', frozen=1)
