"What a GPU asks of numbers, tried without one: no Python number in what is compiled, medians that are the same each time, half precision where it is meant to be."
import numpy as np, pytest, torch
from astromask.core import InputError, uniform
from astromask.data.augment import Augment, drop_bands
from astromask.embed import ask, arrays_of
from astromask.models.answers import Point
from astromask.models.heads import Predictor
from astromask.models.mae import MAE
from astromask.models.networks import Apertures, Matched
from astromask.scaling import AsinhScaling, nan_median

def test_random_numbers_are_those_of_earlier_versions():
    ids = np.array([0,7,2**40])
    want = np.array([[14875293,9448757,6974269],[5676145,10919816,11317697],[15924083,16713169,3437]])
    for epoch in (3, np.int64(3), torch.tensor(3)):
        assert np.array_equal(uniform(42, epoch, torch.from_numpy(ids), 3, 'mask').numpy()*2**24, want)
    assert np.array_equal(uniform(42, 3, ids, 3, 'mask')*2**24, want)

@pytest.mark.slow
def test_augmentation_is_compiled_whole_and_once_for_all_epochs():
    augment = Augment('dihedral,rotate,crop,blur,gain,noise,cosmic_rays,bad_pixels')
    def change(x, epoch, ids): return drop_bands(augment(x, 7, epoch, ids), 7, epoch, ids)
    compiled = torch.compile(change, backend='eager', fullgraph=True)
    x = torch.randn(4, 2, 16, 16)
    with torch.compiler.set_stance('default'):
        compiled(x, torch.tensor(0), torch.arange(4))
        with torch.compiler.set_stance('fail_on_recompile'):
            for epoch in (1, 2):
                ids = torch.arange(4)+10*epoch
                assert torch.equal(compiled(x, torch.tensor(epoch), ids).nan_to_num(9), change(x, epoch, ids).nan_to_num(9))

def test_the_median_that_sorts_is_the_same(monkeypatch):
    v = torch.randn(50, 33).masked_fill(torch.rand(50, 33) < .4, torch.nan)
    v[0] = torch.nan
    v[1,:20] = torch.inf
    plain = nan_median(v)
    monkeypatch.setattr(torch.compiler, 'is_exporting', lambda: True)
    assert torch.equal(nan_median(v).nan_to_num(9, 8), plain.nan_to_num(9, 8)) and plain[0].isnan() and plain[1] == torch.inf

def test_blocks_alone_are_in_half_precision():
    torch.manual_seed(0)
    p = Predictor(MAE.preset('tiny', 'gri'), Point(), head_std=1.)
    seen = []
    for part in (p.head, p.encoder.patch_embed, p.encoder.blocks[0].mlp.fc1):
        part.register_forward_hook(lambda m, args, out: seen.append(out.dtype))
    batch = dict(x=torch.randn(5, 3, 32, 32))
    full,half = (next(arrays_of(ask(p, [batch], p.predict, amp)))['z'] for amp in ('','bf16'))
    assert seen == [torch.float32]*3 + [torch.float32,torch.bfloat16,torch.float32]
    assert 0 < abs(half-full).max() < .05 and p.encoder.blocks_in is None

def test_apertures_take_the_sky_off_wherever_there_is_some():
    x = torch.randn(3, 2, 32, 32)+5
    net = Apertures('gr', 32)
    assert (net.embed(x)-net.embed(x+100)).abs().max() < 1e-3

def test_matched_photometry_follows_the_light_alone():
    "Sky and units change nothing, where the scaling has them; a band that is not there, nothing of the other's flux"
    y,x = torch.meshgrid(*[torch.arange(48)-23.5]*2, indexing='ij')
    image = torch.randn(3, 2, 48, 48, generator=torch.Generator().manual_seed(0)) + 30*torch.exp(-((y-1)/3)**2/2-(x/5)**2/2)
    net,scaled = Matched('gr', 48),Matched('gr', 48, scaling=AsinhScaling([0.]*2, [7.]*2))
    assert (net.embed(image)-net.embed(image+100)).abs().max() < 1e-2
    assert (scaled.embed(7*image)-net.embed(image)).abs().max() < 1e-3
    alone = image.clone()
    alone[:,1] = torch.nan
    found = net.embed(alone)
    assert found.isfinite().all() and (found[:,:3]-net.embed(image)[:,:3]).abs().max() < .2 and (found[:,3:6] == 0).all()
    assert net.embed(torch.full_like(image, 5.)).isfinite().all()                    # no light
    with pytest.raises(InputError, match='too few'): Matched('gr', 12)
