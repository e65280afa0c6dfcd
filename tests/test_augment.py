"Augmentation: the same for an object in any batch, nothing at strength 0, missing stays missing, and what the physics says"
import math, numpy as np, pytest, torch
from scipy import ndimage
from astromask.core import InputError, uniform
from astromask.data.augment import (Augment, _WORDS, _convolve, _map, _resample, affine, bad_pixels, blur, cosmic_rays, dihedral, drop_bands, gain, noise)
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.models.mae import MAE
from astromask.models.weights import load_model
from astromask.train.pretrain import pretrain_learner

ALL = ', '.join(_WORDS)
WORDS = [*_WORDS, 'rotate, jitter, crop', ALL]
SIZES = [(40,1,33,33), (40,3,24,31), (40,2,48,32), (40,5,64,64)]

def same(a, b): torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)

def batch(shape, seed=0):
    "Noise and a source, with all that may be missing"
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    H,W = shape[2:]
    x[...,H//2-3:H//2+3,W//2-3:W//2+3] += 40
    x[0],x[1,-1],x[2,:,:5],x[3,0,4,4],x[4,0,7,7] = torch.nan,torch.nan,torch.nan,torch.nan,torch.inf
    return x, torch.arange(shape[0])*7 + 1000

@pytest.mark.parametrize('shape', SIZES, ids=str)
@pytest.mark.parametrize('words', WORDS)
def test_company_does_not_matter(words, shape):
    f,(x,ids) = Augment(words),batch(shape)
    before = x.clone()
    whole = f(x, 3, 5, ids)
    same(x, before)                                                           # the input is left alone
    same(f(x, 3, 5, ids), whole)
    assert whole.shape == x.shape and whole.dtype == x.dtype
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    same(f(x[order], 3, 5, ids[order]), whole[order])
    for size in (1,3,17): same(torch.cat([f(a, 3, 5, i) for a,i in zip(x.split(size), ids.split(size))]), whole)
    for other in (f(x, 3, 6, ids), f(x, 4, 5, ids), f(x, 3, 5, ids+1)): assert not torch.equal(other.nan_to_num(), whole.nan_to_num())

@pytest.mark.parametrize('words', WORDS)
def test_missing_stays_missing(words):
    x,ids = batch((40,3,40,40))
    y = Augment(words)(x, 0, 0, ids)
    assert y[0].isnan().all() and y[1,-1].isnan().all() and y[5:].isfinite().any()
    if 'dihedral' in words or any(o in words for o in ('rotate','jitter','crop')): return
    assert (y.isnan() | ~x.isnan()).all()                                     # nothing was made up
    if words not in ('bad_pixels', ALL): same(y.isfinite(), x.isfinite())     # and nothing lost

def test_strength_0_is_identity_bit_for_bit():
    x,ids = batch((40,3,24,31))
    for f,kw in ((affine,{}), (blur,dict(strength=0)), (gain,dict(strength=0)), (noise,dict(strength=0)), (cosmic_rays,dict(p=0)),
                 (bad_pixels,dict(share=0)), (drop_bands,dict(p=0)), (Augment(''),{})): same(f(x, 0, 0, ids, **kw), x)
    same(Augment('rotate=0, jitter=0, crop=1, blur=0, gain=0, noise=0, cosmic_rays=0, bad_pixels=0')(x, 0, 0, ids), x)

@pytest.mark.parametrize('angle', [0., 20., 90., -135.])
def test_a_turn_is_scipys(angle):
    rng = np.random.default_rng(0)
    x = ndimage.gaussian_filter(rng.normal(size=(41,52)), 1.5).astype('f4')
    at = _map(41, 52, torch.tensor([math.radians(angle)]), torch.tensor([.9]), torch.tensor([[1.5,-2.]]))
    found = _resample(torch.from_numpy(x)[None,None], at)[0,0].numpy()
    want = ndimage.map_coordinates(x, at[0].flip(-1).permute(2,0,1).double().numpy() + np.array([20,25.5])[:,None,None], order=1, cval=np.nan)
    inside = np.isfinite(want) & np.isfinite(found)
    assert np.isfinite(found)[np.isfinite(want)].all() and np.abs(found-want)[inside].max() < 1e-5 and inside.mean() > .3
    a = math.radians(angle)                                                   # and the map is a turn, a zoom and a shift
    np.testing.assert_allclose(at[0,10,40], [.9*(math.cos(a)*14.5 + math.sin(a)*10) + 1.5, .9*(math.sin(a)*14.5 - math.cos(a)*10) - 2], atol=1e-4)

def test_quarter_turns_are_exact_but_for_rounding():
    x,_ = batch((40,2,32,32))
    x[4] = 0
    at = _map(32, 32, torch.full((40,), math.pi/2), torch.ones(40), torch.zeros(40,2))
    torch.testing.assert_close(_resample(x, at), x.rot90(1, (2,3)), rtol=1e-3, atol=1e-3, equal_nan=True)

def test_affine_draws_what_it_says():
    ids = torch.arange(4000)
    row,col = torch.meshgrid(torch.arange(33.)-16, torch.arange(33.)-16, indexing='ij')
    x = torch.stack([col, row]).expand(4000,2,33,33)                          # an image of its own coordinates
    at = lambda **kw: affine(x, 0, 0, ids, **kw)[:,:,15:18,15:18]
    center = at(jitter=3.)[:,:,1,1]
    assert center.abs().max() <= 3.001 and (center.std(0) - 3/3**.5).abs().max() < .05 and center.mean(0).abs().max() < .1
    y = at(rotate=90.)
    angle = torch.atan2(y[:,1,1,2]-y[:,1,1,0], y[:,0,1,2]-y[:,0,1,0]).rad2deg()
    assert angle.abs().max() <= 90.01 and abs(angle.std() - 90/3**.5) < 1 and y[:,:,1,1].abs().max() < 1e-4
    y = at(crop=.25)
    zoom = (y[:,0,1,2]-y[:,0,1,0])/2
    assert .4999 < zoom.min() < .52 and zoom.max() <= 1.001 and abs((zoom**2).mean() - .625) < .01
    whole = affine(x, 0, 0, ids, crop=.25)
    assert whole.isfinite().all() and whole.abs().max() <= 16.001             # the window lies in the cutout

def test_interpolation_beside_holes():
    x = torch.full((1,1,16,16), 5.)
    x[...,8:] = torch.nan
    at = lambda dx: _resample(x, _map(16, 16, torch.zeros(1), torch.ones(1), torch.tensor([[dx,0.]])))[0,0,8]
    assert at(.4).isfinite().sum() == 8 and at(.6).isfinite().sum() == 7      # half of the weight decides
    assert (at(.4)[:8] == 5).all() and at(-.6)[1:].isfinite().sum() == 8      # and a level stays level

@pytest.mark.parametrize('sigma', [.7, 1., 2.])
def test_blur_is_scipys_and_keeps_flux(sigma):
    rng = np.random.default_rng(0)
    x = np.zeros((48,55), 'f4')
    x[16:32,16:38] = rng.normal(size=(16,22))
    found = _convolve(torch.from_numpy(x)[None,None], torch.tensor([sigma]), math.ceil(4*sigma))[0,0].numpy()
    want = ndimage.gaussian_filter(x, sigma, mode='constant', radius=math.ceil(4*sigma))
    np.testing.assert_allclose(found[12:-12,12:-12], want[12:-12,12:-12], atol=1e-5)
    assert abs(found.sum()-x.sum()) < 1e-3*np.abs(x).sum()

def test_blur_of_each_object_is_its_own():
    x,ids = batch((40,2,33,33))
    y = blur(x, 0, 0, ids, 2.)
    sigma = 2*uniform(0, 0, ids, 1, 'blur')[:,0]
    for i in (5,6,7): torch.testing.assert_close(y[i:i+1], _convolve(x[i:i+1], sigma[i:i+1], 8), rtol=1e-6, atol=1e-6, equal_nan=True)

def test_noise_is_gaussian_and_independent():
    x,ids = batch((400,2,64,64))
    y = noise(x[5:], 0, 0, ids[5:], 2.) - x[5:]
    level = 2*uniform(0, 0, ids[5:], 1, 'noise level')
    z = (y/level[:,:,None,None])[level[:,0] > .2]
    assert abs(z.std() - 1) < .02
    z = z / z.std((2,3), keepdim=True)                                        # the sky's noise is known to 3 percent
    assert abs(z.mean()) < .002 and abs((z**3).mean()) < .01 and abs((z**4).mean() - 3) < .02
    for a,b in ((z[...,1:],z[...,:-1]), (z[...,1:,:],z[...,:-1,:]), (z[:,0],z[:,1]), (z[1:],z[:-1]), (z.flatten(1)[:,:4096],z.flatten(1)[:,4096:])):
        assert abs((a*b).mean()) < .003

def test_noise_where_there_is_no_sky_to_measure():
    x,ids = torch.zeros(4,2,64,64),torch.arange(4)
    x[0],x[1] = torch.nan,5.                                                  # nothing; a constant
    x[1,0,1,1] = 6                                                            # not on the grid of pixels that are looked at
    x[2,0,::2],x[2,0,:,::2] = torch.nan,torch.nan
    for f in (noise, cosmic_rays): same(f(x, 0, 0, ids, 1.), x)

def test_cosmic_rays_only_add():
    x,ids = batch((400,3,31,40))
    y = cosmic_rays(x, 0, 0, ids, 1.)[5:] - x[5:]
    assert (y > 1).flatten(2).any(2).float().mean() > .99 and y.min() > -1e-4 and y.max() < 1500
    assert (y.flatten(2) > 1).sum(2).max() <= 24
    label,count = ndimage.label((y[7,1] > 1).numpy(), np.ones((3,3)))
    assert count == 1                                                         # a track holds together

def test_bad_pixels_are_spread_evenly():
    x = torch.zeros(3000,2,16,24)
    gone = bad_pixels(x, 0, 0, torch.arange(3000), .1).isnan().float()
    assert (gone.mean((0,1)) - gone.mean()).abs().max() < .03 and abs(gone.mean()-.109) < .005
    assert (gone[:,0] != gone[:,1]).any(-1).any(-1).all()

def test_words():
    assert Augment('noise = 0.5 ,dihedral,, ').name == 'dihedral, noise=0.5' and Augment('').name == '' and Augment('').moves
    assert Augment('crop,rotate=20').steps == {affine: dict(rotate=20., crop=.8)}
    for words,says in (('twist','twist'), ('noise=','a number'), ('noise=nan','from 0'), ('rotate=200','from 0 to 180'), ('crop=0','from 0.01'),
                       ('bad_pixels=.9','0.5'), ('dihedral=2','has no strength'), ('jitter=-1','from 0')):
        with pytest.raises(InputError, match=says) as e: Augment(words)
        assert len(str(e.value).splitlines()) == 1

@pytest.fixture(scope='module')
def survey(tmp_path_factory):
    x,_ = batch((60,3,32,32))
    ivar = torch.ones_like(x)
    x[4] = 0
    return Cutouts.open(Cutouts.write(tmp_path_factory.mktemp('augment')/'survey.h5', x.numpy(), bands='grz', ivar=ivar.numpy()))

def learner(c, run, ivar=False, **kw):
    torch.manual_seed(0)
    return pretrain_learner(cutout_dls(c, 32, bs=16, valid=.2, device='cpu', ivar=ivar), MAE.preset('tiny', bands='grz'), run, **kw)

def test_runs_with_augmentation_and_scaling(survey, tmp_path):
    kw = dict(augment=ALL, scaling='object')
    learner(survey, tmp_path/'whole', **kw).fit(2)
    learner(survey, tmp_path/'parts', **kw).fit(1)
    for other,says in ((dict(augment='dihedral', scaling='object'), 'begun with augment dihedral, rotate'), (dict(augment=ALL), 'begun with scaling')):
        with pytest.raises(InputError, match=says): learner(survey, tmp_path/'parts', **other).fit(2)
    whole = load_model(tmp_path/'whole')
    assert whole.scaling.kind == 'object' and all(v.isfinite().all() for v in whole.state_dict().values())
    for bad,says in ((dict(augment='twist'), 'twist'), (dict(scaling='magic'), 'magic')):
        with pytest.raises(InputError, match=says): learner(survey, tmp_path/'bad', **bad)

def test_inverse_variances_only_move(survey, tmp_path):
    with pytest.raises(InputError, match='with ivar, pixels may be moved only'): learner(survey, tmp_path/'x', ivar=True, augment='dihedral, noise')
    learner(survey, tmp_path/'y', ivar=True, augment='dihedral, rotate, crop').fit(1)
    def mirrored(x, seed, epoch, ids): return x.flip(-1)
    learn = learner(survey, tmp_path/'z', augment=mirrored)
    assert learn.task()['augment'] == 'mirrored'
    x,ids = batch((8,3,32,32))
    learn = learner(survey, tmp_path/'w', augment='rotate')
    moved,weights = learn.prepare.change((x, x.abs()*0+3), ids, 0)
    same(moved.isnan(), weights.isnan())

# Broken once, and seen by nobody

def test_every_orientation_is_as_likely_as_the_others():
    x = torch.arange(9.).reshape(1,1,3,3).expand(4000,-1,-1,-1)
    seen,n = torch.unique(dihedral(x, 0, 0, torch.arange(4000)).flatten(1), dim=0, return_counts=True)
    want = {tuple(o.flatten().tolist()) for k in range(4) for o in (torch.rot90(x[0,0], k), torch.rot90(x[0,0], k).T)}
    assert {tuple(o.tolist()) for o in seen} == want and len(want) == 8 and n.min() > 400 and n.max() < 600
    wide = torch.arange(6.).reshape(1,1,2,3).expand(4000,-1,-1,-1)
    seen,n = torch.unique(dihedral(wide, 0, 0, torch.arange(4000)).flatten(1), dim=0, return_counts=True)
    assert len(seen) == 4 and n.min() > 850                                    # both mirrors, each by itself

def test_a_crop_of_an_oblong_cutout_stays_inside_and_reaches_its_edges():
    H,W = 12,48
    row,col = torch.meshgrid(torch.arange(float(H)), torch.arange(float(W)), indexing='ij')
    y = affine(torch.stack([row,col])[None].expand(2000,-1,-1,-1), 0, 0, torch.arange(2000), crop=.25)
    assert y[:,:,1:-1,1:-1].isfinite().all()                                   # nothing of what is beyond the border
    top,left = y[:,0,H//2].nanmean(1),y[:,1,:,W//2].nanmean(1)
    for at,n in ((top,H), (left,W)): assert at.min() < .32*n and at.max() > .68*n

def test_bands_are_changed_each_by_itself():
    x = torch.ones(500,3,8,8)
    factor = gain(x, 0, 0, torch.arange(500), .2)[:,:,0,0]
    assert factor.min() > .8-1e-6 and factor.max() < 1.2+1e-6 and (factor.mean(0)-1).abs().max() < .02
    assert torch.corrcoef(factor.T).fill_diagonal_(0).abs().max() < .2
    sky = torch.randn(500,3,16,16, generator=torch.Generator().manual_seed(0))
    hit = (cosmic_rays(sky, 0, 0, torch.arange(500), .3) != sky).flatten(2).any(2).float()
    assert (hit.mean(0)-.3).abs().max() < .07 and torch.corrcoef(hit.T).fill_diagonal_(0).abs().max() < .2

@pytest.mark.parametrize('keep', [1,2,3])
def test_so_many_observed_bands_stay(keep):
    x = torch.ones(400,4,4,4)
    x[:200,0] = torch.nan                                                      # of these, three are observed
    there = drop_bands(x, 0, 0, torch.arange(400), p=1, keep=keep).isfinite().flatten(2).any(2).sum(1)
    assert (there == keep).all()
