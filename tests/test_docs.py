"The site: every notebook has a page with its text and figures, and an entry in the sidebar; no link is broken"
import ast, json, re, subprocess, sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
notebooks = sorted(nb for nb in (root/'nbs').rglob('*.ipynb') if not any(o[0] in '._' for o in nb.relative_to(root).parts))

def page_name(nb):
    "nbs/10_data.cutouts.ipynb is published as data.cutouts.html"
    return nb.relative_to(root/'nbs').with_name(re.sub(r'^\d+[a-z]?_', '', nb.stem)+'.html').as_posix()

class Page(HTMLParser):
    "The links and pictures of a page, those of its sidebar apart"
    def __init__(self, path):
        super().__init__()
        self.sidebar,self.images,self.inside = [],[],0
        self.feed(path.read_text())
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == 'nav': self.inside += 1 if self.inside or 'sidebar' in f'{attrs.get("id")} {attrs.get("class")}' else 0
        if tag == 'a' and self.inside: self.sidebar.append(attrs.get('href', ''))
        if tag == 'img': self.images.append(attrs.get('src', ''))
    def handle_endtag(self, tag):
        if tag == 'nav' and self.inside: self.inside -= 1

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('site')/'docs'
    ran = subprocess.run([sys.executable, root/'tools/docs.py', '--out', out], cwd=root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return out,ran.stderr

@pytest.mark.parametrize('nb', notebooks, ids=page_name)
def test_imports_stand_alone(nb):
    "nbdev runs every cell with an import when it builds the site: one that also trains or simulates would do so there"
    for k,c in enumerate(json.loads(nb.read_text())['cells']):
        source = ''.join(c['source'])
        if c['cell_type'] != 'code' or re.search(r'^#\| (export|eval: false)', source, re.M): continue
        body = ast.parse(re.sub(r'^[%!].*$', '', source, flags=re.M)).body
        if not any(isinstance(n, (ast.Import,ast.ImportFrom)) for top in body for n in ast.walk(top)): continue
        assert all(isinstance(n, (ast.Import,ast.ImportFrom,ast.FunctionDef,ast.ClassDef)) for n in body), f'{nb.name}, cell {k}: give the imports a cell of their own'

@pytest.mark.slow
def test_no_broken_links(site):
    broken = [line for line in site[1].splitlines() if 'broken link' in line]
    assert not broken, '\n'.join(broken)

@pytest.mark.slow
@pytest.mark.parametrize('nb', notebooks, ids=page_name)
def test_page(site, nb):
    page = site[0]/page_name(nb)
    assert page.exists()
    text,parsed = page.read_text(),Page(page)
    cells = json.loads(nb.read_text())['cells']
    title = ''.join(cells[0]['source']).splitlines()[0].removeprefix('# ')
    assert escape(title, quote=False) in text

    warned = [c['id'] for c in cells if 'Warning:' in json.dumps([o for o in c.get('outputs', []) if o.get('name') == 'stderr'])]
    assert not warned, f'cells {warned} of {nb.name} would publish warnings: mend them, or drop that output'

    figures = [o for c in cells if c['cell_type'] == 'code' and '#| hide' not in ''.join(c['source'])
               for o in c['outputs'] if 'image/png' in o.get('data', {})]
    assert len(parsed.images) >= len(figures)
    for src in parsed.images: assert src.startswith(('data:image', 'http')) or (page.parent/src).is_file(), f'{src} is missing'

@pytest.mark.slow
def test_sidebar(site):
    home = Page(site[0]/'index.html')
    entries = {re.sub(r'^\./', '', href) for href in home.sidebar}
    assert {page_name(nb) for nb in notebooks} <= entries | {'index.html'}
