"Pages in Debian's chromium, without a screen: what they ask for, what goes wrong in them, and what they look like"
import io, shutil
from contextlib import contextmanager
import numpy as np, pytest
from PIL import Image

ARGS = ['--no-sandbox', '--use-angle=swiftshader', '--enable-unsafe-swiftshader']      # WebGL by the processor

@contextmanager
def chromium():
    "A browser; a test that wants one is skipped where there is none"
    sync = pytest.importorskip('playwright.sync_api', reason='playwright is not installed (extra dev)')
    if not shutil.which('chromium'): pytest.skip("there is no chromium here (Debian's package of that name)")
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=ARGS)
        yield browser
        browser.close()

@contextmanager
def opened(browser, path, width=1280, height=800, **kw):
    "A file as a page, which must not fail, nor ask for anything but itself"
    context = browser.new_context(viewport=dict(width=width, height=height), accept_downloads=True, **kw)
    page = context.new_page()
    wrong = []
    page.on('pageerror', lambda e: wrong.append(f'error: {e}'))
    page.on('console', lambda m: m.type == 'error' and wrong.append(f'console: {m.text}'))
    page.on('dialog', lambda d: (wrong.append(f'dialog: {d.message}'), d.dismiss()))
    page.on('request', lambda r: r.url.startswith((f'file://{path}', 'data:', 'blob:')) or wrong.append(f'request: {r.url}'))
    page.goto(f'file://{path}')
    yield page
    context.close()
    assert not wrong, wrong

def pixels(where):
    "A screenshot of a page or a part of it as (H,W,3)"
    return np.asarray(Image.open(io.BytesIO(where.screenshot())).convert('RGB')).astype(int)
