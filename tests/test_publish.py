"Models that leave the house: the Hub (a server of our own plays it), timm, ONNX, and cards that say no more than is known"
import importlib.util, os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, timm, torch, yaml
from safetensors.torch import load_file
from astropy.table import Table
from astromask.core import AstroMaskError, DataError, InputError
from astromask.files import read_json, write_json
from astromask.scaling import AsinhScaling
from astromask.data.cutouts import Cutouts
from astromask.models.answers import Bins
from astromask.models.heads import Predictor
from astromask.models.mae import MAE
from astromask.models.networks import CNN
from astromask.models.simmim import SimMIM
from astromask.seen import Seen, place_marks
from astromask.units import Measure
from astromask.models.publish import HUB_FILES, from_hub, model_card, push_to_hub, to_onnx, to_timm
from astromask.models.weights import load_model, save_model
from fakehub import TOKEN, FakeHub

def model(bands=('g','r','z'), size=(16,24), scaled=True, cls=MAE, **kw):
    torch.manual_seed(0)
    sizes = dict(img_size=size, patch_size=8, embed_dim=32, depth=2, num_heads=4)
    if cls is MAE: sizes |= dict(decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=4)
    m = cls(bands=bands, **sizes | kw).eval()
    for p in m.parameters(): p.data += .02*torch.randn_like(p)      # no parameter at a value that hides mistakes
    if scaled: m.scaling = AsinhScaling(np.linspace(0, 1, len(bands)), np.linspace(1, 2, len(bands)), 0.7)
    return m

SWIN = dict(cls=SimMIM, encoder='swin_tiny_patch4_window7_224', embed_dim=8, depth=[2,1], num_heads=[1,2], window_size=2, size=(16,24))
KINDS = dict(
    plain   = {},
    tall    = dict(bands=tuple('ugrizy'), size=(40,8)),
    learned = dict(bands=('r',), positions='learned', size=(8,48)),
    several = dict(class_tokens=3, positions='learned'),
    after   = dict(norm_after_pool=True),
    stretch = dict(position_grid=(5,5)),
    simmim  = dict(cls=SimMIM, mask_in='pixels', per_band=True),
    beit    = dict(cls=SimMIM, encoder='beit', size=(16,16)),
    tables  = dict(cls=SimMIM, encoder='beit', size=(16,24), shared_bias=False, norm_after_pool=True),
    swin    = SWIN,
    sky     = dict(sky_token=True))

@pytest.fixture
def online(monkeypatch, tmp_path):
    "huggingface_hub may talk, and keeps what it writes in a temporary folder; there is no token on this machine"
    from huggingface_hub import constants
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path/'token'))
    monkeypatch.setattr('time.sleep', lambda s: None)               # between its attempts
    for name in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'): monkeypatch.delenv(name, raising=False)

@pytest.fixture
def hub(online):
    with FakeHub() as hub: yield hub

def push(m, hub, name='me/galaxies', **kw): return push_to_hub(m, name, endpoint=hub.url, **dict(token=TOKEN) | kw)
def fetch(hub, cache, name='me/galaxies', **kw): return from_hub(name, cache_dir=cache, endpoint=hub.url, **kw)

def one_sentence(e):
    text = str(e.value)
    assert '\n' not in text and len(text) < 300, text
    return text

# The Hub

@pytest.mark.parametrize('mode,kind', [('regular','sky'), ('lfs','simmim'), ('lfs','swin')])
def test_what_is_pushed_is_what_is_fetched(online, mode, kind, tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub._commit_api.is_xet_available', lambda: False)
    m = model(**KINDS[kind])
    m.source = dict(file='a.pth', sha256='12', layout='mae', licence='CC-BY-NC-4.0')
    with FakeHub(mode) as hub:
        assert push(m, hub).startswith(f'{hub.url}/me/galaxies/commit/')
        again = fetch(hub, tmp_path/'cache')
        card = hub.repos['me/galaxies']['commits'][-1]['files']['README.md'].decode()
        assert set(hub.repos['me/galaxies']['commits'][-1]['files']) == set(HUB_FILES[:3])
    assert again.config == m.config and again.source == m.source and again.scaling.config() == m.scaling.config() and not again.training
    assert all(torch.equal(a, b) for a,b in zip(m.state_dict().values(), again.state_dict().values(), strict=True))
    assert yaml.safe_load(card.split('---')[1])['license'] == 'cc-by-nc-4.0'

def with_a_head(kind):
    from astromask.evaluate.pdfs import Calibration
    eyes = dict(both=lambda: model(), cnn=lambda: CNN('grz', 16), alone=lambda: None)[kind]()
    p = Predictor(eyes, Bins(20, 0, 1), magnitudes=['mag_r','mag_err_r'] if kind != 'cnn' else (), head_std=.1).eval()
    grid = p.answer.grid.numpy()
    p.calibration = Calibration(.9).fit(dict(pdf=np.ones((50, len(grid)))), np.linspace(.1, .9, 50), grid).config()
    if kind == 'alone': p.photometry = dict(zero_point=23.9, softening=dict(r=.1))
    p.measure,p.trained_on = Measure('nanomaggy', 22.5, .262),Seen(1, 0, place_marks([10.], [20.]), np.zeros(0, np.uint64))
    return p

@pytest.mark.parametrize('kind', ['both','cnn','alone'])
def test_a_model_with_a_head_is_pushed_and_its_card_can_be_followed(hub, tmp_path, monkeypatch, kind):
    p = with_a_head(kind)
    save_model(p, tmp_path/'saved')
    push(p, hub)
    push(tmp_path/'saved', hub, 'me/saved')                         # a folder without a README
    again = fetch(hub, tmp_path/'cache')
    assert again.config == p.config and again.calibration == p.calibration and again.photometry == p.photometry
    assert again.measure == p.measure and again.trained_on.tensors().keys() == p.trained_on.tensors().keys() and again.trained_on.has(sky=[[10.,20.],[11.,20.]]).tolist() == [True,False]
    assert all(torch.equal(a, b) for a,b in zip(p.state_dict().values(), again.state_dict().values(), strict=True))
    cards = [hub.repos[k]['commits'][-1]['files']['README.md'].decode() for k in ('me/galaxies','me/saved')]
    card = cards[0]
    assert cards[0] == cards[1] and '| calibration level | 0.9 |' in card and '| calibration n | 50 |' in card and '| trained_on | 1 object: predict' in card and ('| zero_point | 22.5 |' in card) == (kind != 'alone') and ('| photometry softening r | 0.1 |' in card) == (kind == 'alone')
    monkeypatch.chdir(tmp_path)
    Cutouts.write('FILES.h5', np.ones((3,3,16,24), 'f4'), 'grz', catalog=dict(mag_r=[20.,21.,22.]))
    if kind == 'alone': Table(dict(id=['a','b'], ra=[0.,1.], dec=[0.,1.], r=[1.,2.], r_err=[.1,.1])).write('FILES.csv')
    told = card.split('```python')[1].split('```')[0].replace("from_hub('OWNER/NAME')", "fetched()").replace("'FILES'", "'FILES.csv'" if kind == 'alone' else "'FILES.h5'")
    found = dict(fetched=lambda: fetch(hub, tmp_path/'cache'))
    exec(told, found)
    assert np.isfinite(found['answers']['z_upper_90']).all() and len(found['answers']) == 3 - (kind == 'alone')

def test_of_a_model_with_a_head_the_encoder_is_exported(tmp_path):
    p = with_a_head('both')
    x = torch.randn(2, 3, 16, 24)
    vit = timm.create_model(f'local-dir:{to_timm(p, tmp_path/"timm")}', pretrained=True).eval()
    with torch.no_grad(): assert torch.allclose(vit(p.scaling(x)), p.embed(x), atol=1e-5)
    with pytest.raises(InputError, match='timm has no CNN'): to_timm(with_a_head('cnn'), tmp_path/'cnn')
    for export in (to_timm, to_onnx):
        with pytest.raises(InputError, match='magnitudes alone: it has no encoder'): export(with_a_head('alone'), tmp_path/'alone')
    if importlib.util.find_spec('onnxscript'):
        for kind in ('both','cnn'): assert to_onnx(with_a_head(kind), tmp_path/f'{kind}.onnx').exists()       # it has been compared

def test_only_the_three_files_travel(hub, tmp_path):
    save_model(model(), tmp_path/'run/model', data_sha256='12')
    for name in ('model/secret.txt', 'model/model.pt', 'params.yaml'): (tmp_path/'run'/name).write_text('not for others')
    (tmp_path/'run/model/README.md').write_text('---\nlibrary_name: astromask\n---\nMine\n')
    push(tmp_path/'run', hub, message='first')
    pushed = hub.repos['me/galaxies']['commits'][-1]['files']
    assert set(pushed) == set(HUB_FILES[:3]) and pushed['README.md'].decode().endswith('Mine\n')
    hub.commit('me/galaxies', {'evil.py': b'import os', 'pytorch_model.bin': b'x', 'sub/config.json': b'{}'})
    fetch(hub, tmp_path/'cache')
    found = {p.relative_to(next((tmp_path/'cache').glob('models--*/snapshots/*'))).as_posix() for p in (tmp_path/'cache').glob('models--*/snapshots/*/**/*')}
    assert found == set(HUB_FILES[:3])
    assert not [path for verb,path in hub.requests if 'resolve' in path and Path(path).name not in HUB_FILES]

def test_without_a_network_the_cache_serves(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants
    m = model()
    push(m, hub)
    fetch(hub, tmp_path)
    n = len(hub.requests)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert torch.equal(fetch(hub, tmp_path).fill, m.fill) and len(hub.requests) == n
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    hub.url = 'http://127.0.0.1:1'                                  # nobody is there
    assert torch.equal(fetch(hub, tmp_path).fill, m.fill)
    with pytest.raises(AstroMaskError, match='cannot be reached, and me/galaxies is not on this machine') as e: fetch(hub, tmp_path/'new')
    one_sentence(e)
    with pytest.raises(AstroMaskError, match='cannot be reached') as e: push(m, hub)
    one_sentence(e)

def test_an_interrupted_download_is_continued_or_begun_again(hub, tmp_path):
    m = model()
    push(m, hub)
    hub.cut = 1                                                     # once: it goes on where it broke off
    assert torch.equal(fetch(hub, tmp_path/'a').fill, m.fill) and hub.cut == 0
    hub.cut = 10**6                                                 # always
    with pytest.raises(AstroMaskError) as e: fetch(hub, tmp_path/'b')
    one_sentence(e)
    hub.cut = 0
    again = fetch(hub, tmp_path/'b')
    assert all(torch.equal(a, b) for a,b in zip(m.state_dict().values(), again.state_dict().values(), strict=True))

def test_what_is_not_allowed_is_one_sentence(hub, tmp_path):
    m = model()
    with pytest.raises(InputError, match='does not allow this.*hf auth login') as e: push(m, hub, token=None)
    one_sentence(e)
    with pytest.raises(InputError, match='does not allow this.*token that may write') as e: push(m, hub, token='hf_read')
    one_sentence(e)
    with pytest.raises(InputError, match='has no model me/galaxies, or you may not see it') as e: fetch(hub, tmp_path)
    one_sentence(e)
    with pytest.raises(InputError, match='has no model me/galaxies, or you may not see it') as e: fetch(hub, tmp_path, token=TOKEN)
    one_sentence(e)
    push(m, hub, private=True)
    with pytest.raises(InputError, match='or you may not see it') as e: fetch(hub, tmp_path)
    assert torch.equal(fetch(hub, tmp_path, token=TOKEN).fill, m.fill)
    with pytest.raises(InputError, match="has no revision 'v9'") as e: fetch(hub, tmp_path, token=TOKEN, revision='v9')
    one_sentence(e)
    hub.repos['me/galaxies']['private'],hub.gated = False,True
    with pytest.raises(InputError, match='is gated: ask for access at') as e: fetch(hub, tmp_path/'new')
    one_sentence(e)
    hub.broken = True
    with pytest.raises(AstroMaskError) as e: push(m, hub)
    one_sentence(e)
    for name in ('a b/c', 'a/b/c', '', '../x', 'a--b'):
        with pytest.raises(InputError, match='is not the name of a repository') as e: fetch(hub, tmp_path, name)
        one_sentence(e)
    with pytest.raises(InputError, match='is not the name of a repository'): push(m, hub, 'a b/c')

def test_nothing_private_goes_to_a_public_repository(hub):
    push(model(), hub)
    n = len(hub.repos['me/galaxies']['commits'])
    with pytest.raises(InputError, match='exists already and is public') as e: push(model(), hub, private=True)
    one_sentence(e)
    assert len(hub.repos['me/galaxies']['commits']) == n

def test_versions_are_found_by_their_commit(hub, tmp_path):
    old,new = model(), model()
    new.fill.data += 1
    commit = push(old, hub).split('/')[-1]
    push(new, hub, message='better')
    assert torch.equal(fetch(hub, tmp_path).fill, new.fill)
    assert torch.equal(fetch(hub, tmp_path, revision=commit).fill, old.fill)

def test_damaged_models_are_neither_pushed_nor_loaded(hub, tmp_path):
    save_model(model(), tmp_path/'m')
    (tmp_path/'m/model.safetensors').write_bytes(b'\xff'*99)
    with pytest.raises(DataError, match='is damaged'): push(tmp_path/'m', hub)
    (tmp_path/'m/model.safetensors').unlink()
    with pytest.raises(InputError, match='there is no model.safetensors in it'): push(tmp_path/'m', hub)
    assert hub.requests == []
    push(model(), hub)
    hub.commit('me/galaxies', {'model.safetensors': b'\xff'*99})
    with pytest.raises(DataError, match='is damaged'): fetch(hub, tmp_path)
    hub.repos['me/empty'] = dict(private=False, commits=[])
    hub.commit('me/empty', {'README.md': b'nothing'})
    with pytest.raises(InputError, match='me/empty holds no model of AstroMASK'): fetch(hub, tmp_path, 'me/empty')
    hub.commit('me/empty', {'config.json': b'{"model_type": "bert"}'})
    with pytest.raises(DataError, match='does not describe a model'): fetch(hub, tmp_path, 'me/empty')

def test_config_may_say_more_than_we_know(tmp_path):
    m = model()
    save_model(m, tmp_path, data_sha256='12', authors=['me'])
    write_json(tmp_path/'config.json', read_json(tmp_path/'config.json') | dict(from_the_future={'a': 1}))
    assert torch.equal(load_model(tmp_path).fill, m.fill)

# timm

@pytest.mark.parametrize('kind', [k for k in KINDS if k != 'sky'])
def test_timm_gives_the_same(kind, tmp_path):
    m = model(**KINDS[kind])
    net = timm.create_model(f'local-dir:{to_timm(m, tmp_path)}', pretrained=True).eval()
    x = m.scaling.inverse(torch.randn(3, len(m.bands), *m.img_size))
    with torch.no_grad():
        wanted = m.encode(x)
        torch.testing.assert_close(net(m.scaling(x)), m.embed(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(net.forward_features(m.scaling(x)).flatten(1, -2)[:,-wanted.shape[1]:], wanted, rtol=1e-5, atol=1e-5)
    card = (tmp_path/'README.md').read_text()
    assert yaml.safe_load(card.split('---')[1])['library_name'] == 'timm'
    assert all(f'{v:.9g}' in card for v in m.scaling.config()['center'] + m.scaling.config()['softening'])
    head = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=7)
    assert head(x).shape == (3,7)

def test_timm_refuses_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match='timm has no sky-position token'): to_timm(model(**KINDS['sky']), tmp_path)
    with pytest.raises(InputError, match="timm's Swin has no place for a norm after the pool"): to_timm(model(**SWIN, norm_after_pool=True), tmp_path)
    with pytest.raises(AstroMaskError, match='LayerNorm epsilon is 0.01, and timm keeps 1e-6'): to_timm(model(norm_eps=.01), tmp_path)
    assert list(tmp_path.iterdir()) == []

def test_timm_fetches_it_from_the_hub(hub, tmp_path):
    m = model(scaled=False)
    push(to_timm(m, tmp_path/'timm'), hub, 'me/for-timm')
    assert set(hub.repos['me/for-timm']['commits'][-1]['files']) == set(HUB_FILES[:3])
    np.save(tmp_path/'x.npy', torch.randn(2,3,16,24).numpy())
    code = ("import sys, numpy as np, timm, torch; m = timm.create_model('hf-hub:me/for-timm', pretrained=True).eval(); "
            "x,y = sys.argv[1:]; np.save(y, m(torch.tensor(np.load(x))).detach().numpy())")
    env = os.environ | dict(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE='0', HF_HOME=str(tmp_path/'home'))
    ran = subprocess.run([sys.executable, '-c', code, tmp_path/'x.npy', tmp_path/'y.npy'], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    with torch.no_grad(): wanted = m.embed(np.load(tmp_path/'x.npy')).numpy()
    np.testing.assert_allclose(np.load(tmp_path/'y.npy'), wanted, rtol=1e-5, atol=1e-5)

# ONNX

@pytest.mark.parametrize('kind,pool,bands,scaled', [('after','max+spread+pixels',None,True), ('beit','max',('z','g'),False),
                                                    *(pytest.param(*o, marks=pytest.mark.slow) for o in (('swin','mean',('r',),True), ('sky','cls',None,True)))])
def test_onnx_gives_the_same(kind, pool, bands, scaled, tmp_path, monkeypatch):
    ort = pytest.importorskip('onnxruntime')
    m = model(scaled=scaled, **KINDS[kind])
    names = bands or m.bands
    if kind == 'after': monkeypatch.setattr('astromask.models.publish.LARGE', 0)
    session = ort.InferenceSession(to_onnx(m, tmp_path/'new'/'m.onnx', pool, bands))
    assert sorted(f.name for f in (tmp_path/'new').iterdir()) == (['m.onnx','m.onnx.data'] if kind == 'after' else ['m.onnx'])
    assert session.get_inputs()[0].shape == ['batch', len(names), *m.img_size]
    for B in (1,2,5):
        x,coords = torch.randn(B, len(names), *m.img_size),torch.rand(B,2)*90 if kind == 'sky' else None
        x[0,0,:9,:9],x[-1,0],x[B//2] = np.nan,np.inf,np.nan
        if kind == 'sky': coords[0] = np.nan
        given = dict(images=x.numpy()) | (dict(coords=coords.numpy()) if kind == 'sky' else {})
        with torch.no_grad(): wanted = m.embed(x, bands=bands, pool=pool, coords=coords).numpy()
        found = session.run(None, given)[0]
        assert np.isnan(wanted).any() and (np.isnan(found) == np.isnan(wanted)).all()
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    about = session.get_modelmeta().custom_metadata_map
    assert about['astromask.bands'] == ','.join(names) and about['astromask.pool'] == pool

def test_onnx_refuses_in_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="does not know band 'w'"): to_onnx(model(), tmp_path/'m.onnx', bands=('g','w'))
    with pytest.raises(InputError, match='pool is'): to_onnx(model(), tmp_path/'m.onnx', pool='median')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx, onnxruntime, onnxscript: pip install 'astromask\[onnx\]'"): to_onnx(model(), tmp_path/'m.onnx')
    assert list(tmp_path.iterdir()) == []

# The card

def test_a_card_says_what_is_known_and_no_more():
    card = model_card(model(scaled=False))
    assert [o for o in card.splitlines() if o.startswith('## ')] == ['## Model', '## Scaling', '## Use']
    assert yaml.safe_load(card.split('---')[1]) == dict(library_name='astromask', pipeline_tag='image-feature-extraction', tags=['astronomy','mae'])
    card = model_card(model(), dict(survey=None, unit='', objects=3), measured=dict(a=None), files=[dict(file='a|b\nc.h5', sha256='1')], licence='my own')
    assert 'survey' not in card.split('## Data')[1].split('##')[0] and r'| a\|b c.h5 | `1` |' in card
    assert yaml.safe_load(card.split('---')[1])['license'] == 'other'
    many = model_card(model(), files=[dict(file=f'{i}.h5', sha256=i) for i in range(1000)])
    assert 'and 980 more' in many and '| 19.h5 |' in many and '| 20.h5 |' not in many
