"The live page: its graph believes what PyTorch believes, and so does a browser that hides by slider, pointer, finger and key"
import hashlib, http.server, io, json, re, tarfile, threading
from base64 import b64decode
from contextlib import contextmanager
from functools import partial
from pathlib import Path
import numpy as np, pytest, torch
from click.testing import CliRunner
from astromask.cli import main
from astromask.core import AstroMaskError, InputError
from astromask.data.cutouts import Cutouts
from astromask.data.download import FetchError
from astromask.discover import live
from astromask.models.answers import Classes
from astromask.models.heads import Predictor
from astromask.models.mae import MAE
from astromask.models.simmim import SimMIM
from astromask.models.weights import save_model
from astromask.plots import colour_image, colour_scale
from astromask.scaling import AsinhScaling, ObjectScaling

root = Path(__file__).parent.parent
CHROMIUM = '/usr/bin/chromium'

def tiny(kind=MAE, bands='ugriz', scaling=AsinhScaling, **more):
    torch.manual_seed(0)
    sizes = dict(decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=4) if kind is MAE else {}
    n = len(bands)
    return kind(32, 8, bands, embed_dim=32, depth=1, num_heads=4, scaling=scaling(np.arange(n)/9, np.full(n, .3)), **sizes, **more).eval()

def images(n, bands=5, seed=1):
    "Something round on noise; some pixels are missing"
    rng = np.random.default_rng(seed)
    r2 = ((np.mgrid[:32,:32]-15.5)**2).sum(0)
    x = 30*np.exp(-r2/12)*rng.uniform(.2, 1, (n,bands,1,1)) + rng.normal(size=(n,bands,32,32))
    x[2::5,:,:,:3] = np.nan
    return x.astype(np.float32)

def mask_of(m, hidden):
    flat = torch.from_numpy(hidden).flatten()[None]
    return flat if isinstance(m, MAE) else flat[None].expand(1, *m.mask_shape)

def agree(m, session, x, hidden):
    wanted = m.reconstruct(x[None], mask_of(m, hidden))[0].numpy()
    np.testing.assert_allclose(live.believe(session, x, hidden), wanted, rtol=1e-4, atol=1e-4)

def check_everything(m):
    "Masks of any size, absent bands, missing pixels"
    ort = pytest.importorskip('onnxruntime')
    session = ort.InferenceSession(live.live_onnx(m))
    rng = np.random.default_rng(0)
    for n in (0,1,5,11,15):
        x = images(1)[0]
        hidden = (rng.permutation(16) < n).reshape(4,4)
        agree(m, session, x, hidden)
        x[[0,3]] = np.nan
        agree(m, session, x, hidden)
        x[:,3:9,7:20] = np.inf
        agree(m, session, x, hidden)
        x[:] = np.nan
        agree(m, session, x, hidden)

# The graph

@pytest.mark.slow
def test_onnx_believes_what_pytorch_believes(): check_everything(tiny(norm_pix_loss=True))

@pytest.mark.slow
@pytest.mark.parametrize('kind,scaling,more', [
    (MAE, ObjectScaling, dict(norm_pix_loss=False, mask_block=2)), (MAE, AsinhScaling, dict(decoder='cross', sky_token=True)),
    (SimMIM, ObjectScaling, dict(mask_in='pixels', per_band=True, norm_pix_loss=True))])
def test_onnx_of_every_kind(kind, scaling, more): check_everything(tiny(kind, scaling=scaling, **more))

def test_a_graph_that_believes_something_else_is_refused(monkeypatch):
    pytest.importorskip('onnxscript')
    from onnx import TensorProto, helper
    value = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT, shape=[1,5,32,32])
    at = [helper.make_tensor_value_info(k, TensorProto.INT64, [1,None]) for k in ('visible','hidden')]
    graph = helper.make_graph([helper.make_node('Identity', ['images'], ['believed'])], 'g', [value('images'), *at], [value('believed')])
    wrong = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    helper.set_model_props(wrong, {'astromask.turns': 'rank'})
    class Program: model_proto = wrong
    monkeypatch.setattr(live, 'onnx_graph', lambda *a, **k: Program)
    with pytest.raises(AstroMaskError, match='other pictures than the model'): live.live_onnx(tiny())

def test_bad_input_is_one_sentence(tmp_path, monkeypatch):
    m = tiny()
    with pytest.raises(InputError, match='This Predictor has no decoder, so it cannot fill in'): live.live_onnx(Predictor(m, Classes(('a','b'))))
    with pytest.raises(InputError, match='This MAE has no decoder'): live.live_onnx(Predictor(m, Classes(('a','b'))).encoder)
    monkeypatch.setattr(live, 'MOST', 1000)
    with pytest.raises(InputError, match='more than a browser|a browser cannot hold more'): live.live_onnx(m)
    other = Cutouts.open(Cutouts.write(tmp_path/'o.h5', images(3, 2), bands='gw'))
    with pytest.raises(InputError, match="does not know band 'w'"): live.live_page(m, tmp_path/'p', other, runtime=b'')
    (tmp_path/'p').mkdir()
    (tmp_path/'p'/'index.html').write_text('mine')
    with pytest.raises(InputError, match='exists'): live.live_page(m, tmp_path/'p', other, runtime=b'')
    assert [f.name for f in (tmp_path/'p').iterdir()] == ['index.html']

def test_verb_refuses_in_a_sentence(tmp_path):
    save_model(Predictor(tiny(), Classes(('a','b'))), tmp_path/'m')
    r = CliRunner().invoke(main, ['export', str(tmp_path/'m'), '--page', str(tmp_path/'p')])
    assert r.exit_code == 2 and 'has no decoder' in r.stderr and r.stderr.count('\n') == 1 and not (tmp_path/'p').exists()

# The runtime

@contextmanager
def serving(folder, asked=None):
    "A folder on this machine; what is asked for goes into a list"
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a): pass
        def do_GET(self):
            if asked is not None: asked.append(self.path)
            super().do_GET()
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}'
    finally: server.shutdown()

def test_runtime_is_fetched_once_and_checked(tmp_path):
    (tmp_path/'npm').mkdir()
    archive = tmp_path/'npm'/'ort-1.tgz'
    with tarfile.open(archive, 'w:gz') as t:
        info = tarfile.TarInfo('package/dist/ort-wasm-simd-threaded.wasm')
        info.size = 5
        t.addfile(info, io.BytesIO(b'\0asm!'))
    checksum = 'sha512:'+hashlib.sha512(archive.read_bytes()).hexdigest()
    asked = []
    with serving(tmp_path/'npm', asked) as url:
        for _ in range(2): assert live.browser_runtime(tmp_path/'kept', f'{url}/ort-1.tgz', checksum) == b'\0asm!'
        assert asked == ['/ort-1.tgz']
        with pytest.raises(FetchError, match='not the published'): live.browser_runtime(tmp_path/'other', f'{url}/ort-1.tgz', 'sha512:'+'0'*128)

def test_runtime_is_the_one_that_the_script_was_made_with():
    lock = json.loads((root/'web/package-lock.json').read_text())['packages']['node_modules/onnxruntime-web']
    assert live.RUNTIME.endswith(f"onnxruntime-web-{lock['version']}.tgz") and 'sha512:'+b64decode(lock['integrity'][7:]).hex() == live.RUNTIME_SUM

# In a browser

def runtime():
    "The WebAssembly: of `make web`, or from npm"
    built = root/'web/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm'
    if built.exists(): return built.read_bytes()
    try: return live.browser_runtime(Path.home()/'.cache'/'astromask')
    except AstroMaskError as e: pytest.skip(str(e))

@pytest.fixture(scope='module')
def chromium():
    if not Path(CHROMIUM).exists(): pytest.skip(f'no {CHROMIUM} on this machine')
    sync_api = pytest.importorskip('playwright.sync_api')
    with sync_api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--use-angle=swiftshader', '--enable-unsafe-swiftshader'])
        yield b
        b.close()

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "A model, its cutouts, and its page"
    pytest.importorskip('onnxscript')
    folder = tmp_path_factory.mktemp('live')
    m = tiny(norm_pix_loss=False, mask_ratio=.75)
    torch.nn.init.normal_(m.decoder_pred.weight, std=.1)
    c = Cutouts.open(Cutouts.write(folder/'c.h5', images(20), bands='ugriz'))
    live.live_page(m, folder/'page', c, n=4, runtime=runtime())
    return m,c,folder/'page'

class Page:
    "A page that was opened, and what it complained about"
    def __init__(self, browser, url, **context):
        self.troubles = []
        self.asked = []
        self.context = browser.new_context(**context)
        self.p = self.context.new_page()
        self.p.on('console', lambda o: self.troubles.append(o.text) if o.type in ('error','warning') else None)
        self.p.on('pageerror', lambda e: self.troubles.append(str(e)))
        self.p.on('request', lambda r: self.asked.append(r.url))
        self.p.goto(url)
        self.settle()
    def settle(self):
        self.p.wait_for_function("['ready','failed'].includes(document.body.dataset.state) && (document.body.dataset.state == 'failed' || live.believed)", timeout=60_000)
    def js(self, code): return self.p.evaluate(code)
    def hidden(self): return np.array(self.js('Array.from(live.hidden)'), bool).reshape(4,4)
    def picture(self, name): return self.js(f"document.getElementById('{name}').toDataURL()")
    def pixels(self, name):
        "(32,32,3) of a picture, row 0 at the bottom"
        data = self.js(f"""(() => {{
            const t = document.createElement('canvas'), g = t.getContext('2d', {{willReadFrequently: true}});
            t.width = t.height = 32; g.imageSmoothingEnabled = false;
            g.drawImage(document.getElementById('{name}'), 0, 0, 32, 32);
            return Array.from(g.getImageData(0, 0, 32, 32).data) }})()""")
        return np.reshape(data, (32,32,4))[::-1,:,:3]
    def believed(self): return np.array(self.js('Array.from(live.believed)'), np.float32).reshape(5,32,32)
    def place(self, row, col):
        "Where the middle of a patch is; row 0 is at the bottom"
        box = self.p.locator('#sees').bounding_box()
        return box['x']+box['width']*(col+.5)/4, box['y']+box['height']*(3.5-row)/4

def agrees(page, m, c):
    "Does the browser believe what PyTorch believes, of what is chosen in the page?"
    x = c[live.striking_rows(m, c, 4)[0]][page.js('live.object')]
    x[page.js('[...live.off]')] = np.nan
    wanted = m.reconstruct(x[None], mask_of(m, page.hidden()))[0].numpy()
    np.testing.assert_allclose(page.believed(), wanted, rtol=1e-3, atol=1e-3)

@pytest.mark.slow
def test_page_in_a_browser(chromium, site):
    m,c,folder = site
    asked = []
    with serving(folder, asked) as url:
        page = Page(chromium, f'{url}/', viewport=dict(width=1280, height=900))
        names = 'original','sees','believes','wrong'
        begin = {k: page.picture(k) for k in names}
        assert len(set(begin.values())) == 4 and page.hidden().sum() == 12        # three quarters of 16
        agrees(page, m, c)

        page.p.locator('#objects canvas').nth(2).click()                         # another object, with missing pixels
        page.settle()
        assert all(page.picture(k) != begin[k] for k in names)
        agrees(page, m, c)
        x = c[live.striking_rows(m, c, 4)[0]][2]
        scale = colour_scale(x[None], m.bands)
        for name,image in (('original',x), ('believes',page.believed())):        # in the colours of all our figures
            assert abs(page.pixels(name)-255*colour_image(image[None], m.bands, scale)[0]).max() < 2

        slider = page.p.locator('#ratio').bounding_box()                         # drag the share that is hidden
        y = slider['y']+slider['height']/2
        page.p.mouse.move(slider['x']+slider['width']*.79, y)
        page.p.mouse.down()
        page.p.mouse.move(slider['x']+slider['width']*.4, y, steps=5)
        page.p.mouse.up()
        page.settle()
        few = page.hidden()
        assert 4 <= few.sum() <= 8 and f'{few.sum()} of 16' in page.p.inner_text('#count')
        agrees(page, m, c)

        page.p.click('#clear')                                                   # paint a stroke: no patch is left out
        page.p.mouse.move(*page.place(1, 0))
        page.p.mouse.down()
        page.p.mouse.move(*page.place(1, 3), steps=2)
        page.p.mouse.up()
        page.settle()
        assert (page.hidden() == (np.arange(4)[:,None] == 1)).all()
        agrees(page, m, c)
        before = page.picture('believes')

        page.p.focus('#sees')                                                    # by keys, from the middle: up, hide
        for key in ('ArrowUp','Space'): page.p.keyboard.press(key)
        page.settle()
        assert page.hidden()[3,2] and page.hidden().sum() == 5 and page.picture('believes') != before
        agrees(page, m, c)

        off = page.p.inner_text('#error')
        page.p.click('#band1')                                                   # without a band
        page.settle()
        assert page.js('[...live.off]') == [1] and page.p.inner_text('#error') != off
        assert page.p.get_attribute('#band1', 'aria-pressed') == 'false'
        agrees(page, m, c)
        for k in range(5): page.p.click(f'#band{k}') if k != 1 else None
        assert len(page.js('[...live.off]')) == 4                                # one stays on

        page.p.select_option('#view', '2')
        page.settle()
        assert (np.ptp(page.pixels('original'), axis=2) == 0).all() and page.troubles == []
        assert {u.split('?')[0] for u in page.asked if not u.startswith(('blob:','data:'))} == {f'{url}/'} and asked == ['/']

@pytest.mark.slow
def test_page_of_another_kind_from_disk_on_a_phone(chromium, site, tmp_path):
    _,c,_ = site
    m = tiny(SimMIM, mask_in='tokens')
    file = live.live_page(m, tmp_path, c, n=4, runtime=runtime())
    page = Page(chromium, file.as_uri(), viewport=dict(width=390, height=844), has_touch=True, is_mobile=True)
    agrees(page, m, c)
    was = page.hidden()
    page.p.locator('#sees').scroll_into_view_if_needed()
    page.p.touchscreen.tap(*page.place(0, 3))
    page.settle()
    assert (page.hidden() != was).sum() == 1 and page.hidden()[0,3] != was[0,3]
    agrees(page, m, c)
    page.p.locator('#objects canvas').nth(2).tap()
    page.settle()
    agrees(page, m, c)
    assert page.js('document.documentElement.scrollWidth <= innerWidth') and page.troubles == []

@pytest.mark.slow
def test_a_model_too_large_for_the_page_lies_beside_it(chromium, site, tmp_path, monkeypatch):
    m,c,_ = site
    monkeypatch.setattr(live, 'BESIDE', 0)
    live.live_page(m, tmp_path, c, n=2, runtime=runtime())
    assert {f.name for f in tmp_path.iterdir()} == {'index.html','model.onnx'}
    with serving(tmp_path) as url: assert Page(chromium, f'{url}/index.html').js('document.body.dataset.state') == 'ready'
    page = Page(chromium, (tmp_path/'index.html').as_uri())
    assert page.js('document.body.dataset.state') == 'failed' and 'only from a server' in page.p.inner_text('#said')
