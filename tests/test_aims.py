"What training adds to the masked loss: losses against references, the same bits after a stop, nothing of what is missing or held back"
from types import SimpleNamespace
import numpy as np, pytest, torch
from astropy.table import Table
from fastai.callback.core import Callback
from astromask.core import InputError, Unfinished
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.files import read_json
from astromask.models.answers import Classes, Point
from astromask.models.mae import MAE
from astromask.models.simmim import SimMIM
from astromask.models.weights import load_model
from astromask.train.aims import AGREEMENTS, Agreement, Aims, Taught, coding, infonce, random_directions, sigreg
from astromask.train.pretrain import pretrain_learner

METHODS = dict(mae=MAE, simmim=SimMIM)
SPLIT = np.arange(64), np.arange(64, 80), np.arange(80, 96)

def write(path, poison=False):
    "96 objects in two bands, some without a pixel, a class, a redshift; poison: those that do not train have other answers"
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (96,2,32,32)).astype('float32')
    x[3],x[5,1],x[7,:,:,20:] = np.nan,np.nan,np.nan
    kind,z = np.array(['a','b',''])[rng.integers(0, 3, 96)],np.where(rng.random(96) < .5, rng.uniform(0, 1, 96), np.nan)
    if poison: kind[64:],z[64:] = 'b',9.
    Cutouts.write(path, x, bands='gr', catalog=Table(dict(id=np.arange(96).astype(str), kind=kind, z_spec=z)))
    return path

@pytest.fixture(scope='module')
def survey(tmp_path_factory): return write(tmp_path_factory.mktemp('data')/'survey.h5')

def new_learner(survey, out, method='mae', **kw):
    torch.manual_seed(0)
    c = Cutouts.open(survey)
    m = METHODS[method].preset('tiny', bands=c.bands)
    learn = pretrain_learner(cutout_dls(c, 32, bs=16, split=SPLIT, device='cpu'), m, out, **kw)
    learn.remove_cbs([learn.figures, learn.online_probe])                 # not what is tested, and slow
    learn.figures = learn.online_probe = SimpleNamespace(try_to_draw=lambda: None, ask=lambda: None)
    return learn

def weights(learn): return {k: v for k,v in learn.state()[0].items() if not k.startswith('random')}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

# ---- the losses

def hand_infonce(z):
    a,b = (o/np.linalg.norm(o, axis=1, keepdims=True) for o in z)
    s = a@b.T/.1
    return np.mean([np.log(np.exp(s[i]).sum()) + np.log(np.exp(s[:,i]).sum()) - 2*s[i,i] for i in range(len(s))])/2

def hand_coding(z):
    a,b = (o/np.linalg.norm(o, axis=1, keepdims=True) for o in z)
    n,d = a.shape
    rates = [np.linalg.slogdet(np.eye(n) + d/(n*.5**2)*o@o.T)[1]/2 for o in (a,b)]
    return ((a-b)**2).sum()/2/n - .05*np.mean(rates)

def hand_sigreg(z, along):
    t = np.linspace(-5, 5, 17)
    def statistic(x): return len(x)*np.trapezoid(np.abs(np.exp(1j*t*x[:,None]).mean(0)-np.exp(-t*t/2))**2*np.exp(-t*t/2), t)
    return .95*((z-z.mean(0))**2).mean() + .05*np.mean([statistic(o@k) for o in z for k in along.T])

@pytest.mark.parametrize('n,d', [(12,40), (40,12)])
def test_losses_against_numpy(n, d):
    "With and without objects that do not count, whatever these hold"
    z = torch.randn(2, n, d, generator=torch.Generator().manual_seed(n))
    counts = torch.ones(n)
    counts[[1,5]] = 0
    z[:,1] *= 1e3
    along = random_directions(3, 7, d, 5)
    for w,rows in ((counts, counts > 0), (torch.ones(n), counts > -1)):
        ours,x = torch.stack([infonce(z, w), coding(z, w), sigreg(z, w, along)]),z[:,rows].double().numpy()
        theirs = [hand_infonce(x), hand_coding(x), hand_sigreg(x, along.double().numpy())]
        np.testing.assert_allclose(ours, theirs, rtol=2e-5)

def test_gradients_against_differences():
    z = torch.randn(2, 6, 4, dtype=torch.double, requires_grad=True, generator=torch.Generator().manual_seed(0))
    w = torch.tensor([1.,1,0,1,1,1], dtype=torch.double)
    along = random_directions(0, 0, 4, 3).double()
    for loss in (infonce, coding, lambda z, w: sigreg(z, w, along)): assert torch.autograd.gradcheck(loss, (z,w))

def test_directions_are_by_seed_and_step():
    assert torch.equal(random_directions(1, 2, 8), random_directions(1, 2, 8))
    assert not torch.equal(random_directions(1, 2, 8), random_directions(2, 2, 8)) and not torch.equal(random_directions(1, 2, 8), random_directions(1, 3, 8))
    a = torch.cat([random_directions(0, k, 3) for k in range(200)], dim=1)
    assert (a.mean(1).abs() < .02).all() and ((a@a.T/a.shape[1] - torch.eye(3)/3).abs() < .02).all()   # to all sides alike

# ---- objects without a pixel

@pytest.mark.parametrize('kind', AGREEMENTS)
@pytest.mark.parametrize('method', METHODS)
def test_an_object_without_pixels_is_as_if_it_were_not_there(method, kind):
    torch.manual_seed(0)
    m = METHODS[method].preset('tiny', bands='gr')
    y,z = torch.tensor([0,1,0,1]).repeat_interleave(2),torch.tensor([.1,.2,.3,np.nan]).repeat_interleave(2)
    aims = Aims(m, dict(invariance=Agreement(32, kind), label=Taught(32, Classes('ab'), y), redshift=Taught(32, Point(), z)),
                dict(invariance=.3, label=.2, redshift=.1))
    x,noise = torch.randn(8,2,32,32),torch.rand(8, m.n_noise)*.5
    x[2:4] = np.nan
    found = []
    for rows in (slice(None), [0,1,4,5,6,7]):
        aims.zero_grad()
        out = aims(x=x[rows], generator=noise[rows], label=y[rows], redshift=z[rows])
        out.loss.backward()
        found.append((out.loss.item(), out.parts, torch.cat([p.grad.flatten() for p in aims.parameters()])))
    (loss,parts,grad),(loss_without,parts_without,grad_without) = found
    assert np.isclose(loss, loss_without, rtol=1e-5) and torch.allclose(parts, parts_without, rtol=1e-4)
    assert grad.isfinite().all() and (grad-grad_without).norm() < 1e-4*grad_without.norm()
    out = aims(x=torch.full_like(x, np.nan), generator=noise, label=y, redshift=z)
    out.loss.backward()
    assert out.parts[:,1].tolist() == [0,0,0] and all(p.grad.isfinite().all() for p in aims.parameters())

# ---- runs

class StopAt(Callback):
    order = 65
    def __init__(self, at): self.at = at
    def after_batch(self):
        if self.training and self.learn.step == self.at: self.learn.out.request_stop()

ALL = dict(invariance=.1, agreement='sigreg', label_weight=.1, label='kind', redshift='z_spec')

@pytest.mark.parametrize('method,kw', [('mae', dict(amp='bf16', accumulate=2, ema=.9)), ('simmim', dict(drop_path=.2, band_dropout=.2))],
                         ids=['mae','simmim'])
def test_stopped_and_continued_it_ends_with_the_same_bits(survey, tmp_path, method, kw):
    whole = new_learner(survey, tmp_path/'whole', method, **ALL, **kw)
    whole.fit(2)
    learn = new_learner(survey, tmp_path/'stopped', method, **ALL, **kw)
    learn.add_cb(StopAt(6))                                                 # of 8 steps, in the middle of the second epoch
    with pytest.raises(Unfinished): learn.fit(2)
    learn.out.clear_stop()
    again = new_learner(survey, tmp_path/'stopped', method, **ALL, **kw)
    again.fit(2)
    assert again.aims.step == whole.aims.step == whole.step
    assert same(weights(again), weights(whole)) and any(k.startswith('heads.') for k in weights(whole))
    rows = [[{k: v for k,v in r.items() if k not in ('seconds','images_per_second','stalled')} for r in o.history.rows] for o in (whole, again)]
    assert rows[0] == rows[1] and all(np.isfinite(rows[0][1][k]) for k in ('invariance_loss','label_loss','redshift_loss'))

def test_the_model_alone_is_saved_and_the_card_tells(survey, tmp_path):
    plain,both = new_learner(survey, tmp_path/'plain'),new_learner(survey, tmp_path/'both', **ALL)
    for o in (plain, both): o.fit(1)
    assert load_model(tmp_path/'both').state_dict().keys() == load_model(tmp_path/'plain').state_dict().keys()
    assert read_json(tmp_path/'both/model/config.json').keys() == read_json(tmp_path/'plain/model/config.json').keys()
    assert 'invariance_loss' not in (tmp_path/'plain/history.csv').read_text() and 'taught' not in (tmp_path/'plain/model/README.md').read_text()
    assert not any(k.startswith(('heads','aims')) for k in plain.state()[0])
    card,labelled = (tmp_path/'both/model/README.md').read_text(),(Cutouts.open(survey).catalog['kind'][:64] != '').sum()
    assert f'kind, of {labelled} of 64 objects that train' in card and 'z_spec, of' in card and '| label_weight | 0.1 |' in card

def test_answers_that_are_held_back_change_nothing(survey, tmp_path):
    "Neither those of objects that validate, nor those of objects that test"
    found = []
    for path in (survey, write(tmp_path/'poisoned.h5', poison=True)):
        learn = new_learner(path, tmp_path/path.stem, label_weight=.5, label='kind', redshift='z_spec')
        assert (learn.aims.answers['label'][64:] == -1).all() and learn.aims.answers['redshift'][64:].isnan().all()
        learn.fit(1)
        found.append(weights(learn))
    assert same(*found)

def test_labels_are_learned(tmp_path):
    "Bright or faint: the head finds out, and the encoder with it"
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 96)
    x = rng.normal(0, .3, (96,2,32,32)) + kind[:,None,None,None]
    Cutouts.write(tmp_path/'s.h5', x.astype('float32'), bands='gr', catalog=Table(dict(id=np.arange(96).astype(str), kind=kind.astype(str))))
    learn = new_learner(tmp_path/'s.h5', tmp_path/'run', label_weight=1., label='kind', lr=3e-3)
    learn.fit(4)
    assert learn.history.rows[-1]['label_loss'] < .2 < .4 < learn.history.rows[0]['label_loss']

def test_what_is_refused(survey, tmp_path):
    Cutouts.write(tmp_path/'bare.h5', np.zeros((96,2,32,32), 'float32'), bands='gr')
    with pytest.raises(InputError, match='label_weight is 0.1, but the catalogue tells nothing'): new_learner(tmp_path/'bare.h5', tmp_path/'a', label_weight=.1)
    with pytest.raises(InputError, match='nope'): new_learner(survey, tmp_path/'b', label_weight=.1, label='nope')
    with pytest.raises(InputError, match="agreement is 'vicreg'"): new_learner(survey, tmp_path/'c', agreement='vicreg')
    new_learner(survey, tmp_path/'d').fit(1)
    with pytest.raises(InputError, match='begun with invariance 0.0, and now it is 0.1'): new_learner(survey, tmp_path/'d', invariance=.1).fit(2)
