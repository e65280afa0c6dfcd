"Forward, augmentation and answers on a device that is only named (FakeTensor): all is where it should be, and no shape or branch needs a number from there"
import copy
from contextlib import contextmanager
import pytest, torch
from torch._subclasses.fake_tensor import FakeTensorMode
from astromask.core import uniform
from astromask.data.augment import Augment, drop_bands
from astromask.models.answers import Bins, Classes, Mixture, Point
from astromask.models.heads import Predictor
from astromask.models.mae import MAE
from astromask.models.networks import Apertures, Matched
from astromask.models.simmim import SimMIM
from astromask.scaling import AsinhScaling, ObjectScaling

DEVICE = torch.device('cuda', 0)
BANDS = tuple('ugriz')

@contextmanager
def fake(m=None):
    "Nothing is computed while this lasts; a model like m, on the device"
    like = copy.deepcopy(m)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True): yield m and like._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device=DEVICE))
    finally: torch.__future__.set_overwrite_module_params_on_conversion(False)

def images(n=4): return torch.empty(n, len(BANDS), 32, 32, device=DEVICE)
def rows(n=4): return torch.empty(n, dtype=torch.int64, device=DEVICE)

def scaled(m, kind=AsinhScaling):
    m.scaling = kind([1.]*len(BANDS), [1.]*len(BANDS))
    return m

MODELS = {
    'mae': scaled(MAE.preset('tiny')),
    'cross': scaled(MAE.preset('tiny', decoder='cross', predict_ratio=.5)),
    'sky token': scaled(MAE.preset('tiny', sky_token=True)),
    'object scaling': scaled(MAE.preset('tiny'), ObjectScaling),
    'vitae': scaled(MAE.preset('tiny', block='vitae')),
    'simmim': scaled(SimMIM.preset('tiny')),
    'simmim, vit': scaled(SimMIM(32, 8, embed_dim=32, depth=1, num_heads=2, norm_pix_loss=True))}
PREDICTORS = {
    'classes': Predictor(MODELS['mae'], Classes(['a','b','c'])),
    'point': Predictor(MODELS['mae'], Point(), norm='layer'),
    'bins': Predictor(MODELS['mae'], Bins(20), head='attentive'),
    'mixture': Predictor(MODELS['simmim'], Mixture(3)),
    'apertures': Predictor(Apertures(BANDS, 32), Point(), norm='batch'),
    'matched': Predictor(Matched(BANDS, 32), Point(), norm='standard')}

@pytest.mark.parametrize('name', MODELS)
def test_forward(name):
    with fake(MODELS[name]) as m:
        told = dict(coords=torch.empty(4, 2, device=DEVICE)) if m.sky_token else {}
        out = m(images(), generator=uniform(0, 0, rows(), m.n_noise, 'mask'), **told)
    assert out.loss.device == DEVICE and out.loss.shape == ()

@pytest.mark.parametrize('word', ['dihedral','rotate','jitter','crop','blur','gain','noise','cosmic_rays','bad_pixels'])
def test_augment(word):
    with fake(): assert Augment(word)(images(), 0, 0, rows()).device == DEVICE

def test_bands_dropped():
    with fake(): assert drop_bands(images(), 0, 0, rows(), .3).device == DEVICE

@pytest.mark.parametrize('pool', ['mean','central','max','cls'])
def test_embed(pool):
    with fake(MODELS['mae']) as m: assert m.embed(images(), pool=pool, views=2).device == DEVICE

@pytest.mark.parametrize('name', PREDICTORS)
def test_predict(name):
    with fake(PREDICTORS[name].eval()) as p: found = p.predict(images())
    assert found and all(o.device == DEVICE for o in found.values())
