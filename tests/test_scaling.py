"Every scaling: there and back, whatever is missing; saved, in half precision, in models, in ONNX"
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from astromask.core import AstroMaskError, DataError, InputError
from astromask.files import read_json, write_json
from astromask.data.scaling import SCALINGS, fit_scaling
from astromask.scaling import AsinhScaling, LinearScaling, ObjectScaling, scaling_from_config, sky_and_noise
from astromask.models.mae import MAE
from astromask.models.publish import model_card, to_onnx
from astromask.models.simmim import SimMIM
from astromask.models.weights import load_model, save_model, with_bands

class Survey:
    "Pixels in memory, read as cutouts are"
    def __init__(self, x): self.x,self.shape = x,x.shape[1:]
    def __len__(self): return len(self.x)
    def __getitem__(self, rows): return self.x[rows]

def pixels(n=20, C=3, size=(32,24), seed=0):
    "Noise and a source, some pixels, a band and an object missing"
    rng,(H,W) = np.random.default_rng(seed),size
    r = np.hypot(*np.ogrid[-H//2:H-H//2,-W//2:W-W//2])
    x = 50*rng.uniform(size=(n,C,1,1))*np.exp(-r/2) + rng.normal(size=(n,C,H,W)) + 5
    x[0],x[1,-1],x[2,:,:5],x[3,0,4,4] = np.nan,np.nan,np.nan,1e6
    return x.astype('f4')

def scalings(C=3, x=None):
    "One of each kind, fitted"
    return {k: fit_scaling(Survey(pixels(C=C) if x is None else x), kind=k) for k in SCALINGS if k != 'galaxy10' or C == 3}

def same(a, b): torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)

def unit(s):
    "What a number of float32 is exact to, in the units of the pixels: the softening, or scale and center"
    return torch.maximum(s.scale, s.center.abs()) if isinstance(s, LinearScaling) else torch.maximum(s.softening, s.center.abs())

@pytest.mark.parametrize('C', [1,3])
@pytest.mark.parametrize('kind', SCALINGS)
def test_there_and_back(kind, C):
    if kind == 'galaxy10' and C == 1: pytest.skip('three bands')
    x,s = torch.from_numpy(pixels(C=C)),scalings(C)[kind]
    y = s(x)
    back = s.inverse(y, x)
    same(y.isnan(), x.isnan()), same(back.isnan(), x.isnan())
    inside = (s.slope(x) != 0) & ~x.isnan()
    error = (back-x).abs() / torch.maximum(x.abs(), unit(s))
    assert error[inside].max() < 1e-5 and y.dtype == torch.float32
    if kind == 'percentile': torch.testing.assert_close(back, x.clamp(s.low, s.high), rtol=1e-5, atol=1e-5, equal_nan=True)
    elif kind != 'sky_embeddings': assert inside.sum() == (~x.isnan()).sum()
    for i in (0,3,7): same(s(x[i]), y[i]), same(s.inverse(y[i], x[i]), back[i]), same(s(x[[i]]), y[[i]])      # alone or in company

@pytest.mark.parametrize('kind', SCALINGS)
def test_the_slope_is_the_derivative(kind):
    s = scalings()[kind].double()
    x = torch.from_numpy(pixels()).double().requires_grad_()
    s(x).sum().backward()
    found,want = s.slope(x.detach()),torch.where(x.isnan(), torch.nan, x.grad)
    torch.testing.assert_close(found, want, rtol=1e-9, atol=0, equal_nan=True)

@pytest.mark.parametrize('kind', SCALINGS[:-1])
@pytest.mark.parametrize('value', [0., 7., -3e30, 1e-20])
def test_bands_that_say_nothing(kind, value):
    x = pixels()
    x[:,0],x[:,1],x[:,2] = value,np.nan,1.
    x[4,2,3,3] = np.nan
    s = scalings(x=x)[kind]
    x = torch.from_numpy(x)
    assert s(x)[:,[0,2]].isfinite().sum() == x[:,[0,2]].isfinite().sum() and s(x)[:,1].isnan().all()
    assert all(np.isfinite(v).all() for k,v in s.config().items() if k != 'kind')
    if kind == 'sky_embeddings': return
    with pytest.raises(DataError, match='no valid pixel'): fit_scaling(Survey(np.full((4,3,8,8), np.nan, 'f4')), kind=kind)

@pytest.mark.parametrize('factor', [1e-25, 1e-9, 1e9, 1e25])
def test_units_do_not_matter(factor):
    x = pixels()
    for kind in ('asinh','object','standard','minmax','percentile','astromask'):
        a,b = (fit_scaling(Survey(v), kind=kind) for v in (x, (x*np.float32(factor))))
        ya,yb = a(torch.from_numpy(x)),b(torch.from_numpy(x*np.float32(factor)))
        torch.testing.assert_close(ya, yb, rtol=1e-4, atol=1e-4, equal_nan=True)

@pytest.mark.parametrize('kind', SCALINGS)
def test_saved_with_the_model(kind, tmp_path):
    m,x = MAE.preset('tiny', bands='grz', img_size=(32,24)),torch.from_numpy(pixels())
    m.scaling = scalings()[kind]
    write_json(tmp_path/'s.json', m.scaling.config())
    assert scaling_from_config(read_json(tmp_path/'s.json')).config() == m.scaling.config()
    save_model(m, tmp_path/'model')
    again = load_model(tmp_path/'model')
    assert type(again.scaling) is type(m.scaling) and again.scaling.config() == m.scaling.config()
    same(again.embed(x), m.eval().embed(x)), same(again.scaling(x), m.scaling(x))
    assert with_bands(m, 'zr').scaling.config() == {k: v if k == 'kind' else [v[2],v[1]] for k,v in m.scaling.config().items()}
    card = model_card(m, {}, {}, {}, [], {})
    assert m.scaling.how in card and all(f'{v:.9g}' in card for v in m.scaling.config()['center'])

@pytest.mark.parametrize('kind', SCALINGS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_numbers(kind, dtype):
    m,x = MAE.preset('tiny', bands='grz', img_size=(32,24)),torch.from_numpy(pixels())
    m.scaling = scalings()[kind]
    before,y = m.scaling.config(),m.scaling(x)
    m.to(dtype)
    assert m.scaling.config() == before and m.to(torch.float64).scaling.center.dtype == torch.float64
    same(m.to(dtype).scaling.float()(x), y)
    assert m.scaling(x.to(dtype)).dtype == torch.float32

@pytest.mark.parametrize('kind', ['mae','simmim'])
@pytest.mark.parametrize('norm_pix', [False,True])
def test_a_reconstruction_knows_nothing_of_what_is_hidden(kind, norm_pix):
    m = dict(mae=MAE, simmim=SimMIM)[kind].preset('tiny', bands='grz', img_size=(32,24), norm_pix_loss=norm_pix).eval()
    x = torch.from_numpy(pixels())
    for m.scaling in scalings().values():
        values,valid = m.pixels(x)
        hidden = m.hidden_pixels(m.choose_mask(valid, None, m.usual_noise(len(x)))).expand_as(x)
        other = torch.where(hidden & x.isfinite(), 1000*x, x)
        a,b = m.reconstruct(x),m.reconstruct(other)
        same(a, b)
        assert a.isfinite().all() and torch.equal(a[~hidden & ~x.isnan()], x[~hidden & ~x.isnan()])

def test_a_clipped_pixel_has_no_weight():
    x = torch.from_numpy(pixels())
    ivar = torch.ones_like(x)
    for kind,s in scalings().items():
        m = MAE.preset('tiny', bands='grz', img_size=(32,24), norm_pix_loss=False)
        m.scaling = s
        weight = m.weights(ivar, x)
        assert weight.isfinite().all() and m(x, ivar=ivar).loss.isfinite()
        clipped = (s.slope(x) == 0)
        assert clipped.any() == (kind in ('percentile','sky_embeddings') and bool((x < -3).any() or kind == 'percentile'))
        if clipped.any(): assert (weight == 0).sum() == (clipped | x.isnan()).sum()

def test_objects_are_measured_one_by_one():
    x = torch.from_numpy(pixels(n=8, C=2))
    sky,noise = sky_and_noise(x)
    for i,b in np.ndindex(8,2):
        v = x[i,b][x[i,b].isfinite()].numpy()
        if not v.size: assert sky[i,b].isnan() and noise[i,b].isnan(); continue
        center = np.sort(v)[(v.size-1)//2]
        np.testing.assert_allclose([sky[i,b].item(), noise[i,b].item()], [center, 1.4826*np.sort(np.abs(v-center))[(v.size-1)//2]], rtol=1e-5)
    s = ObjectScaling([1.,2.], [3.,4.])
    x[5] = torch.nan
    x[5,0,0,0] = 9                                           # one pixel: no noise to be had
    assert s(x)[5,0,0,0] == torch.asinh(torch.tensor(8/3.)) and s.inverse(s(x), x)[5,0,0,0] == pytest.approx(9, rel=1e-6)
    same(s.inverse(torch.zeros(2,4,4)), s.center.expand(2,4,4))              # without objects: the survey's numbers

@pytest.mark.parametrize('kind', ['object','percentile','asinh'])
def test_onnx(kind, tmp_path):
    pytest.importorskip('onnxruntime'), pytest.importorskip('onnxscript')
    m = MAE.preset('tiny', bands='grz', depth=1)
    m.scaling = scalings()[kind]
    assert to_onnx(m, tmp_path/'m.onnx').exists()            # which compares what it wrote, with NaN in the images

@pytest.mark.parametrize('make', [lambda: AsinhScaling([0.], [0.]), lambda: AsinhScaling([0.], [1.], [-1.]), lambda: AsinhScaling([np.nan], [1.]),
    lambda: AsinhScaling([0.], [1e60]), lambda: ObjectScaling([0.], [1.], units=0), lambda: LinearScaling([0.], 0.),
    lambda: LinearScaling([0.], low=2., high=1.), lambda: LinearScaling([0.], high=np.inf), lambda: scaling_from_config(dict(kind=['asinh'])),
    lambda: fit_scaling(Survey(pixels()), kind='asin'), lambda: fit_scaling(Survey(pixels(C=2)), kind='galaxy10')])
def test_refused_in_one_sentence(make):
    with pytest.raises(InputError) as e: make()
    assert len(str(e.value).splitlines()) == 1

@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(['kind','center','softening','gain','units','scale','low','high','x']),
                       st.one_of(st.sampled_from(['asinh','object','linear','log']), st.none(), st.floats(), st.lists(st.floats(), max_size=3), st.text(max_size=3), st.integers(), st.booleans()), max_size=5))
def test_any_description_gives_a_scaling_or_our_error(config):
    try: scaling_from_config(config)
    except AstroMaskError as e: assert str(e)

def test_what_cannot_be_fitted_is_refused():
    x = np.zeros((3,2,8,8), 'f4')
    for kw,says in ((dict(n=0), 'n is 0'), (dict(kind='minmax', percentiles=(-1,101)), 'percentiles'), (dict(kind='log'), 'scaling is')):
        with pytest.raises(InputError, match=says): fit_scaling(Survey(x), **kw)
    with pytest.raises(AstroMaskError): scaling_from_config(['asinh'])

# What a fit finds, by NumPy

def known(n=40, C=2):
    "Bands of a skewed distribution: median and mean, median deviation and mean deviation are apart"
    x = np.random.default_rng(0).lognormal(0, 1, (n,C,16,16)).astype('f4')
    x[:,1] *= 5
    x[0,0,:3] = np.nan
    return x

@pytest.mark.parametrize('percentiles', [(0.1,99.9), (5,90)])
def test_what_a_fit_finds(percentiles):
    x = known()
    found = {k: fit_scaling(Survey(x), kind=k, softening=2., percentiles=percentiles).config() for k in ('asinh','object','standard','minmax','percentile','astromask')}
    for b in range(2):
        v = x[:,b][np.isfinite(x[:,b])].astype(float)
        center,(low,high) = np.median(v),np.percentile(v, percentiles)
        noise = 1.4826*np.median(np.abs(v-center))
        spread = np.arcsinh((v-center)/(2*noise)).std()
        def is_(kind, **numbers):
            for k,want in numbers.items(): assert found[kind][k][b] == pytest.approx(want, rel=1e-5), (kind,k)
        is_('asinh', center=center, softening=2*noise, gain=1/spread), is_('object', center=center, softening=2*noise, gain=1/spread, units=2)
        is_('standard', center=center, scale=noise), is_('minmax', center=low, scale=high-low)
        is_('percentile', center=low, scale=high-low, low=low, high=high), is_('astromask', center=0, softening=3*noise)

def test_the_softening_of_an_object_is_in_units_of_its_noise():
    x = torch.from_numpy(known(n=4))
    sky,noise = sky_and_noise(x)
    for units in (1.,3.,7.): same(ObjectScaling([0.,0.], [1.,1.], units=units)(x), torch.asinh((x-sky)/(units*noise)))

def test_rows_to_look_at_are_spread_over_the_set():
    x = np.ones((1000,1,8,8), 'f4')*np.arange(1000)[:,None,None,None]           # the brighter, the later
    fits = [fit_scaling(Survey(x), n=100, seed=s, kind='minmax', percentiles=(0,100)).config() for s in (0,1)]
    assert all(f['center'][0] < 50 and f['center'][0]+f['scale'][0] > 950 for f in fits) and fits[0] != fits[1]
