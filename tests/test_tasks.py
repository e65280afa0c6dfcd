"Pretraining tasks: what reaches the model, runs that are continued, and tasks that are refused"
import time
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from astromask.core import InputError, RunDir, Unfinished
from astromask.data.augment import dihedral, drop_bands
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.embed import embed_cutouts
from astromask.models.answers import Classes
from astromask.models.heads import Predictor
from astromask.models.mae import MAE
from astromask.models.simmim import SimMIM
from astromask.models.weights import load_model
from astromask.tasks.anomaly import reconstruction_errors
from astromask.train.pretrain import pretrain_learner, pretraining_model

@pytest.fixture(scope='module')
def survey(tmp_path_factory):
    "Sixty cutouts in three bands with their inverse variances and positions, some pixels, bands and positions missing"
    rng = np.random.default_rng(0)
    w = rng.uniform(1, 4, (60,3,32,32)).astype('f4')
    x = (rng.normal(size=w.shape)/np.sqrt(w)).astype('f4') + np.exp(-np.hypot(*np.mgrid[-16:16,-16:16])/4).astype('f4')
    x[3],x[5,1],x[7,:,:,20:],w[9,2] = np.nan,np.nan,np.nan,0
    sky = dict(ra=rng.uniform(0, 360, 60), dec=rng.uniform(-90, 90, 60))
    sky['ra'][11] = np.nan
    return Cutouts.open(Cutouts.write(tmp_path_factory.mktemp('tasks')/'survey.h5', x, bands='grz', ivar=w, catalog=sky))

def learner(c, run, method='mae', bs=16, ivar=False, band_dropout=0., **kw):
    torch.manual_seed(0)
    m = pretraining_model(method, 'tiny', c.bands, **kw)
    return pretrain_learner(cutout_dls(c, 32, bs=bs, valid=0.2, device='cpu', ivar=ivar), m, run, band_dropout=band_dropout)

class StopAt(Callback):
    "Ask for a stop after some steps"
    order = 65
    def __init__(self, step): self.at = step
    def after_batch(self):
        if self.learn.step == self.at: self.learn.out.request_stop('test')

TASKS = {'bands and noise': dict(ivar=True, band_dropout=0.4), 'sky': dict(sky_token=True), 'cross': dict(predict_ratio=0.5, ivar=True),
         'survey': dict(method='simmim', band_dropout=0.4, ivar=True, sky_token=True), 'one ratio': dict(method='simmim', mask_ratio=0.5)}

@pytest.mark.parametrize('task', TASKS.values(), ids=TASKS.keys())
def test_any_task_is_continued_to_the_same_bits(survey, tmp_path, task):
    learner(survey, tmp_path/'whole', **task).fit(2)
    learn = learner(survey, tmp_path/'stopped', **task)
    learn.add_cb(StopAt(4))
    with pytest.raises(Unfinished): learn.fit(2)
    RunDir(tmp_path/'stopped').clear_stop()
    learner(survey, tmp_path/'stopped', **task).fit(2)
    whole,stopped = (load_model(tmp_path/k).state_dict() for k in ('whole','stopped'))
    assert all(torch.equal(whole[k], stopped[k]) and whole[k].isfinite().all() for k in whole)
    losses = [[r.split(',')[:4] for r in (tmp_path/k/'history.csv').read_text().splitlines()] for k in ('whole','stopped')]
    assert losses[0] == losses[1] and (tmp_path/'whole/figures/reconstruction.png').exists()

@pytest.mark.parametrize('minutes,drawn', [(3, [3,6,7]), (5, [5,7]), (0, None), (100, [7])])
def test_pictures_are_drawn_at_their_interval(survey, tmp_path, monkeypatch, minutes, drawn):
    "Epochs of a minute: after so many, and at the end; without a pause after each step, however long an epoch takes"
    learn,clock,at,monotonic = learner(survey, tmp_path/'run'),[0],[],time.monotonic
    class Minutes(Callback):
        order = 74                                                # before the figures
        def after_epoch(self): clock[0] += 1
    monkeypatch.setattr(time, 'monotonic', lambda: 60*clock[0] + monotonic())
    learn.figures.minutes,learn.figures.last = minutes,time.monotonic()
    learn.figures.draw = lambda: at.append(clock[0])
    learn.add_cb(Minutes())
    learn.fit(7)
    assert at == drawn if drawn else len(at) > learn.step and set(at) == set(range(8))

def test_a_run_belongs_to_one_task(survey, tmp_path):
    learner(survey, tmp_path/'run').fit(1)
    for other,words in ((dict(band_dropout=0.3), 'band_dropout 0.0, and now it is 0.3'), (dict(ivar=True), 'ivar False, and now it is True'),
                        (dict(predict_ratio=0.5), 'begun with the model'), (dict(sky_token=True), 'begun with the model'), (dict(method='simmim'), 'begun with the model')):
        with pytest.raises(InputError, match=words): learner(survey, tmp_path/'run', **other).fit(2)

def test_tasks_that_do_not_fit(survey, tmp_path):
    dls = cutout_dls(survey, 32, valid=0.2, device='cpu')
    for m,kw,words in ((MAE.preset('tiny', bands='gzr'), {}, 'bands g, r, z and the model has g, z, r'),
                       (MAE.preset('tiny', bands='grz'), dict(band_dropout=1.), 'band_dropout is 1.0: it must be'),
                       (MAE.preset('tiny', bands='grz'), dict(band_dropout=-.1), 'band_dropout is -0.1: it must be')):
        with pytest.raises(InputError, match=words): pretrain_learner(dls, m, tmp_path/'x', **kw)
    one = cutout_dls(survey.select('r'), 32, valid=0.2, device='cpu')
    with pytest.raises(InputError, match='one band only'): pretrain_learner(one, MAE.preset('tiny', bands='r'), tmp_path/'x', band_dropout=.5)
    nowhere = Cutouts.open(Cutouts.write(tmp_path/'nowhere.h5', survey[:], bands='grz'))
    with pytest.raises(InputError, match='nowhere.h5 has no sky positions'): learner(nowhere, tmp_path/'x', sky_token=True)
    with pytest.raises(InputError, match='nowhere.h5 holds no inverse variances'): learner(nowhere, tmp_path/'x', ivar=True)
    with pytest.raises(InputError, match='has no band i; it has g, r, z'): survey.select('gi')

def test_lost_bands_do_not_depend_on_company(survey):
    x,rows = torch.from_numpy(survey[:]),torch.arange(60)
    whole = drop_bands(x, 1, 2, rows, .5, keep=2)
    there,before = whole.isfinite().flatten(2).any(2).sum(1), x.isfinite().flatten(2).any(2).sum(1)
    assert ((there >= before.clamp(max=2)) & (there <= before)).all() and (there < before).any()
    some = torch.tensor([50,3,9])
    torch.testing.assert_close(drop_bands(x[some], 1, 2, some, .5, keep=2), whole[some], rtol=0, atol=0, equal_nan=True)
    kept = whole.isfinite()
    assert torch.equal(whole[kept], x[kept])
    turned = drop_bands(dihedral(x, 1, 2, rows), 1, 2, rows, .5, keep=2)
    torch.testing.assert_close(turned, dihedral(whole, 1, 2, rows), rtol=0, atol=0, equal_nan=True)

def test_embeddings_know_the_position(survey):
    m = MAE.preset('tiny', bands='grz', sky_token=True).eval()
    table = embed_cutouts(m, survey, bs=7, progress=False)
    sky = torch.from_numpy(np.stack([survey.catalog[k] for k in ('ra','dec')], 1)).float()
    with torch.no_grad(): want,blind = (m.embed(survey[:], coords=s).numpy() for s in (sky, None))
    np.testing.assert_allclose(table['embedding'], want, atol=1e-5)
    assert np.abs(want-blind)[0].max() > 1e-3 and np.allclose(want[11], blind[11], atol=1e-5)      # the eleventh's is unknown

def test_training_starts_from_weights(survey, tmp_path):
    learner(survey, tmp_path/'first').fit(1)
    c = survey.select('rg')
    m = pretraining_model(bands=c.bands, weights=tmp_path/'first')
    with torch.no_grad(): torch.testing.assert_close(m.embed(c[:3]), load_model(tmp_path/'first').embed(c[:3], bands='rg'), rtol=0, atol=1e-5)
    learn = pretrain_learner(cutout_dls(c, 32, valid=0.2, device='cpu'), m, tmp_path/'second', band_dropout=.3)
    learn.fit(1)
    assert load_model(tmp_path/'second').bands == ('r','g') and learn.history.rows[0]['train_loss'] > 0

@pytest.mark.parametrize('name', ('', 'R,G,B', 'r,z,g'))
def test_training_starts_from_the_papers_checkpoints(survey, tmp_path, name):
    m = MAE(32, 8, 'RGB', 192, 1, 3, decoder_embed_dim=512, decoder_depth=1, decoder_num_heads=16)
    t = m.state_dict() | {k: getattr(m, k) for k in ('pos_embed','decoder_pos_embed')}
    t.pop('fill')
    torch.save(dict(model=t), tmp_path/'mae.pth')
    sizes = dict(weights=tmp_path/'mae.pth', weights_bands=name)
    if name != 'r,z,g':
        with pytest.raises(InputError, match='bands R, G, B and not for g, r, z'): pretraining_model(bands=survey.bands, **sizes)
        return
    start = pretraining_model(bands=survey.bands, **sizes)
    w = start.patch_embed.proj.weight
    torch.testing.assert_close(w[:,[1,2,0]], m.patch_embed.proj.weight)
    pretrain_learner(cutout_dls(survey, 32, valid=0.2, device='cpu'), start, tmp_path/'run').fit(1)

@pytest.mark.parametrize('mask_in', ['tokens','pixels'])
def test_both_ways_to_hide_reconstruct(survey, mask_in):
    "SimMIM that hides pixels has no mask token, and reconstructs all the same"
    m = SimMIM(32, 8, survey.bands, embed_dim=32, depth=1, num_heads=4, mask_in=mask_in)
    assert np.isfinite(reconstruction_errors(m, survey, progress=False)).sum() == 59      # one is empty

@pytest.mark.parametrize('kind', [MAE,SimMIM])
def test_an_encoder_with_a_head_reconstructs_nothing(survey, kind):
    m = kind.preset('tiny', bands=survey.bands, img_size=32)
    with pytest.raises(InputError, match='given a head in place of what reconstructs'): reconstruction_errors(Predictor(m, Classes(('a','b')), head='linear').encoder, survey)
