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
from astromask.models.blocks import DropPath
from astromask.models.weights import load_model, save_model
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

BEIT = dict(encoder='beit', embed_dim=32, depth=2, num_heads=4)

def learner(c, run, method='mae', bs=16, ivar=False, band_dropout=0., drop_path=0., patience=0, accumulate=1, optimizer='adamw', mask_ratio_start=0., **kw):
    torch.manual_seed(0)
    m = pretraining_model(method, 'tiny', c.bands, **kw)
    return pretrain_learner(cutout_dls(c, 32, bs=bs, valid=0.2, device='cpu', ivar=ivar), m, run, band_dropout=band_dropout, drop_path=drop_path,
                            patience=patience, accumulate=accumulate, optimizer=optimizer, mask_ratio_start=mask_ratio_start)

class StopAt(Callback):
    "Ask for a stop after some steps"
    order = 65
    def __init__(self, step): self.at = step
    def after_batch(self):
        if self.learn.step == self.at: self.learn.out.request_stop('test')

TASKS = {'bands and noise': dict(ivar=True, band_dropout=0.4), 'sky': dict(sky_token=True), 'cross': dict(predict_ratio=0.5, ivar=True),
         'survey': dict(method='simmim', band_dropout=0.4, ivar=True, sky_token=True), 'one ratio': dict(method='simmim', mask_ratio=0.5, mask_block=2),
         'another aim': dict(norm_pix='population', loss='l1', decoder_depth=0, decoder_dim=64, views=4, drop_path=.5, patience=9, optimizer='nadamuon', mask_block=2, class_tokens=3, mask_ratio_start=.4)}

LONG = 'sky','cross','one ratio'

@pytest.mark.parametrize('task', [pytest.param(o, marks=pytest.mark.slow) if k in LONG else o for k,o in TASKS.items()], ids=TASKS.keys())
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
    vars(learn.figures)['draw'] = lambda: at.append(clock[0])
    learn.add_cb(Minutes())
    learn.fit(7)
    assert at == drawn if drawn else len(at) > learn.step and set(at) == set(range(8))

def test_the_ratio_of_hidden_patches_goes_from_one_to_another(survey, tmp_path):
    "By hand, in whole epochs; the same in one that is continued, its last by all; validation and the model that is kept have the model's own"
    shown = {}
    class Counts(Callback):
        order = 60
        def after_pred(self): shown.setdefault((self.training, self.epoch), set()).update((~self.pred.mask).sum(1).tolist())
    kw = dict(mask_ratio=.75, mask_ratio_start=.25)
    learn = learner(survey, tmp_path/'run', **kw)
    learn.add_cbs([Counts(), StopAt(5)])
    with pytest.raises(Unfinished): learn.fit(3)
    assert learn.model.mask_ratio == .75 and learn.batch == 2
    RunDir(tmp_path/'run').clear_stop()
    learn = learner(survey, tmp_path/'run', **kw)
    learn.add_cb(Counts())
    learn.fit(3)
    assert shown == {(True,0): {12}, (True,1): {8}, (True,2): {4}} | {(False,k): {4} for k in range(3)}
    m = load_model(tmp_path/'run')
    assert m.mask_ratio == m.config['mask_ratio'] == .75

def test_a_run_belongs_to_one_task(survey, tmp_path):
    learner(survey, tmp_path/'run').fit(1)
    for other,words in ((dict(band_dropout=0.3), 'band_dropout 0.0, and now it is 0.3'), (dict(ivar=True), 'ivar False, and now it is True'),
                        (dict(predict_ratio=0.5), 'begun with the model'), (dict(sky_token=True), 'begun with the model'), (dict(method='simmim'), 'begun with the model'),
                        (dict(norm_pix='false'), "the model's norm_pix_loss True, and now it is False"), (dict(loss='l1'), "the model's loss mse, and now it is l1"),
                        (dict(views=8), "the model's views None, and now it is 8"), (dict(mask_block=2), "the model's mask_block None, and now it is 2"),
                        (dict(class_tokens=4), "the model's class_tokens None, and now it is 4"), (dict(decoder_depth=0), "the model's decoder_depth 1, and now it is 0"),
                        (dict(decoder_dim=64), "the model's decoder_embed_dim 32, and now it is 64"), (dict(drop_path=.1), 'drop_path 0.0, and now it is 0.1'),
                        (dict(optimizer='nadamuon'), 'optimizer adamw, and now it is nadamuon'), (dict(mask_ratio_start=.5), 'mask_ratio_start 0.0, and now it is 0.5')):
        with pytest.raises(InputError, match=words): learner(survey, tmp_path/'run', **other).fit(2)

def test_tasks_that_do_not_fit(survey, tmp_path):
    dls = cutout_dls(survey, 32, valid=0.2, device='cpu')
    for m,kw,words in ((MAE.preset('tiny', bands='gzr'), {}, 'bands g, r, z and the model has g, z, r'),
                       (MAE.preset('tiny', bands='grz'), dict(band_dropout=1.), 'band_dropout is 1.0: it must be'),
                       (MAE.preset('tiny', bands='grz'), dict(band_dropout=-.1), 'band_dropout is -0.1: it must be'),
                       (MAE.preset('tiny', bands='grz'), dict(drop_path=1.), 'drop_path is 1.0: it must be'), (MAE.preset('tiny', bands='grz'), dict(patience=-1), 'patience is -1: it must be'),
                       (MAE.preset('tiny', bands='grz'), dict(pool='median'), "pool is 'median'; it must be one of mean"), (SimMIM(32, bands='grz', **BEIT), dict(drop_path=.1), 'this encoder has no blocks'),
                       (SimMIM(32, bands='grz', **BEIT), dict(mask_ratio_start=.1), 'only the ratio of mae goes'), (MAE.preset('tiny', bands='grz'), dict(mask_ratio_start=1.), 'mask_ratio_start is 1.0: it must be')):
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

@pytest.mark.parametrize('given,words', [
    (dict(norm_pix='maybe'), "norm_pix is 'maybe'"), (dict(loss='l3'), "loss is 'l3'"), (dict(views=3), 'views is 3'), (dict(decoder_depth=-2), 'decoder_depth is -2'),
    (dict(decoder_dim=30), 'does not divide'), (dict(decoder_dim=-32), 'does not divide'), (dict(num_heads=5), 'num_heads 5 does not divide'), (dict(decoder_num_heads=3), 'does not divide')]
    + [(dict(method='simmim') | o, f'but simmim has no decoder') for o in (dict(predict_ratio=.5), dict(decoder_depth=0), dict(decoder_dim=64), dict(decoder_num_heads=2))])
def test_models_that_there_are_not(given, words):
    with pytest.raises(InputError, match=words): pretraining_model(**dict(preset='tiny', bands='grz') | given)

def test_branches_are_left_out_of_the_encoder_in_training_only(survey, tmp_path):
    "A step sees some, each object other ones; the decoder, validation, and whoever looks between steps see all"
    learn,seen = learner(survey, tmp_path/'run', drop_path=.9),[]
    def factors(): return [o.factors for o in learn.model.modules() if isinstance(o, DropPath)]
    class Counts(Callback):
        order = 2
        def after_pred(self): seen.append((self.training, factors()))
        def after_batch(self): assert factors() == [None]*3
    learn.add_cb(Counts())
    learn.fit(1)
    assert {training for training,_ in seen} == {True,False}
    for training,(first,last,decoder) in seen:
        assert decoder is None and (training or first is last is None)
        if training: assert torch.equal(first, torch.ones_like(first)) and set(last.flatten().tolist()) <= {0., 1/(1-np.float32(.9))} and 0 < (last == 0).float().mean() < 1

def test_a_batch_in_parts_leaves_the_same_branches_out(survey, tmp_path):
    for parts in (1,2): learner(survey, tmp_path/str(parts), drop_path=.5, accumulate=parts).fit(1)
    one,two = (load_model(tmp_path/k).state_dict() for k in '12')
    for k,v in one.items(): torch.testing.assert_close(v, two[k], rtol=0, atol=2e-5)

def test_patience_ends_a_run_with_its_best_weights(survey, tmp_path):
    learn,kept = learner(survey, tmp_path/'run', patience=2),{}
    scores = [3,1,2,1,0,0]
    learn.score = lambda row: scores[row['epoch']-1]
    class Copy(Callback):
        order = 61
        def after_epoch(self): kept[self.epoch+1] = {k: v.clone() for k,v in self.model.state_dict().items()}
    learn.add_cb(Copy())
    learn.fit(6)
    assert learn.epochs_done == 4                                 # the fourth is not better than the second
    assert all(torch.equal(v, kept[2][k]) for k,v in load_model(tmp_path/'run').state_dict().items())

def test_heads_that_a_checkpoint_does_not_tell(tmp_path):
    torch.manual_seed(0)
    m = MAE(32, 8, 'RGB', 32, 2, 2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=4).eval()
    torch.save(dict(model=m.state_dict() | {k: getattr(m, k) for k in ('pos_embed','decoder_pos_embed')}), tmp_path/'mae.pth')
    weights = dict(weights=tmp_path/'mae.pth', bands='RGB')
    with pytest.raises(InputError, match='give num_heads'): pretraining_model(**weights)
    with pytest.raises(InputError, match='give decoder_num_heads'): pretraining_model(num_heads=2, **weights)
    found = pretraining_model(num_heads=2, decoder_num_heads=4, norm_pix='false', loss='l1', views=2, **weights)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(): torch.testing.assert_close(found.embed(x, views=1), m.embed(x))
    assert (found.norm_pix_loss, found.loss, found.views) == (False, 'l1', 2)
    save_model(found, tmp_path/'ours')
    again = pretraining_model(weights=tmp_path/'ours', bands='RGB', num_heads=2)
    assert (again.norm_pix_loss, again.loss, again.views) == (False, 'l1', 2)
    for wrong,words in ((dict(num_heads=4), 'num_heads is 4, but .*ours has 2'), (dict(decoder_depth=2), 'decoder_depth of a model that starts'), (dict(decoder_dim=8), 'decoder_dim of a model')):
        with pytest.raises(InputError, match=words): pretraining_model(weights=tmp_path/'ours', bands='RGB', **wrong)

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
