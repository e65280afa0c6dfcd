"The explorer's page: what goes into it, and what it does in a browser"
import importlib.util, json, re
from pathlib import Path
import numpy as np, pytest
from astropy.table import Table
from click.testing import CliRunner
from browser import chromium, opened, pixels
from astromask.cli import main
from astromask.core import InputError
from astromask.data.cutouts import Cutouts
from astromask.discover import explorer as room
from astromask.discover.explorer import explorer, shown
from astromask.tasks.tables import arrow_table, write_table

root = Path(__file__).parent.parent
N,WIDE = 120,12
EVIL = '</script><script>alert("id")</script><!--'

def colours(i):
    "The one colour of object i's picture"
    return np.stack([20*(i % WIDE), 25*(i//WIDE), np.full_like(i, 90)], -1)

@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "Objects on a grid, each of one colour, with names and columns that could be code"
    i = np.arange(N)
    ids = np.array([str(1237648720693755918+k) for k in i], object)
    ids[5],ids[6] = EVIL,'a "quoted", id'
    t = dict(id=ids.astype(str), ra=150+i/1000, dec=np.full(N, 2.), map_x=(i % WIDE).astype('f4'), map_y=(i//WIDE).astype('f4'))
    t['class'] = np.array(['<b>spiral</b>','star',''])[i % 3]
    t['mag_r'] = np.where(i % 10 == 0, np.nan, 15+i/10)
    t['objid'] = 2**60+i
    folder = tmp_path_factory.mktemp('explorer')
    images = colours(i)[...,None,None].repeat(24, 2).repeat(24, 3).astype('f4')
    images[:,:,0,0] = 1                                                        # no picture is all zeros
    file = Cutouts.write(folder/'survey.h5', images, bands='irg', catalog={k: t[k] for k in ('id','ra','dec')})
    e = np.random.default_rng(0).normal(size=(N,16)).astype('f4')
    write_table(folder/'emb.parquet', arrow_table(dict(id=t['id'], ra=t['ra'], dec=t['dec'], embedding=e)).schema,
                [dict(id=t['id'], ra=t['ra'], dec=t['dec'], embedding=e)], {})
    facts = dict(verb='map', embeddings=str(folder/'emb.parquet'))
    write_table(folder/'map.parquet', arrow_table(t).schema, [t], facts)
    return dict(map=Table(t, meta=facts), cutouts=Cutouts.open(file), folder=folder, file=file)

def see(toy, **kw): return shown(kw.pop('map', toy['map']), kw.pop('cutouts', toy['cutouts']), **kw)

def data_of(page): return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])

# ---- what goes in

def test_a_sample_depends_on_ids_alone_and_is_told(toy):
    t = toy['map']
    few = see(toy, n=30)
    turned = see(toy, n=30, map=t[::-1])
    assert set(few.table['id']) == set(turned.table['id']) and len(few.rows) == 30
    assert few.said == '30 of 120 objects, a sample drawn by their ids' and few.said in explorer(few)
    assert few.near.max() < 30                                                  # neighbours are among those shown
    blank = t.copy()
    blank['map_x'][:3] = np.nan
    assert see(toy, map=blank).said == '117 objects; 3 without an embedding have no place'

def test_text_of_others_stays_text(toy):
    page = explorer(see(toy), title=EVIL)
    template = (root/'astromask/web/explorer.html').read_text()
    assert page.count('<script') == template.count('<script')+1+1               # the data, and one sheet
    assert page.count('</script') == template.count('</script')+2 and page.count(EVIL) == 0
    data = data_of(page)
    assert set(data['ids']) == set(toy['map']['id']) and EVIL in data['ids']
    assert next(c for c in data['columns'] if c['name'] == 'class')['values'] == ['<b>spiral</b>','star']

def test_large_whole_numbers_stay_exact(toy):
    s = see(toy)
    column = next(c for c in data_of(explorer(s))['columns'] if c['name'] == 'objid')
    assert column['kind'] == 'category' and len(column['values']) == N          # of few objects; of many, text:
    assert set(column['values']) == {str(2**60+i) for i in range(N)}
    assert room.page_column('objid', 2**60+np.arange(500))['values'][499] == str(2**60+499)

def test_pictures_become_smaller_to_fit(toy, monkeypatch):
    s = see(toy)
    whole = len(explorer(s).encode())
    monkeypatch.setattr(room, 'SIDES', (24,12))
    sides = room._bytes_each(s.cutouts, s.rows, 24), room._bytes_each(s.cutouts, s.rows, 12)
    monkeypatch.setattr(room, 'MOST', whole - (sides[0]-sides[1])*N/2)
    page = explorer(s)
    assert data_of(page)['sheets']['side'] == 12 and len(page.encode()) < room.MOST
    monkeypatch.setattr(room, 'MOST', whole - sides[0]*N)
    with pytest.raises(InputError, match='do not fit into a page'): explorer(s)

@pytest.mark.parametrize('spoil,said', [
    (lambda t: t.remove_column('map_x'), 'The map lacks map_x'),
    (lambda t: t.replace_column('id', np.where(np.arange(N) == 7, t['id'][8], t['id'])), 'Two objects of the map have the id 1237648720693755926'),
    (lambda t: t.replace_column('map_y', np.full(N, np.nan)), 'No object has a place'),
    (lambda t: t.meta.clear(), 'give their table (--embeddings)'),
    (lambda t: t.replace_column('id', np.array([f'x{i}' for i in range(N)])), 'There is no object x')])
def test_what_is_wrong_is_said(toy, spoil, said):
    t = toy['map'].copy()
    spoil(t)
    with pytest.raises(InputError, match=re.escape(said)): see(toy, map=t)

def test_cutouts_of_another_survey_are_refused(toy, tmp_path):
    file = Cutouts.write(tmp_path/'other.h5', np.ones((3,3,24,24), 'f4'), bands='irg', catalog=dict(id=['a','b','c']))
    with pytest.raises(InputError, match='There is no object .* in the cutouts'): see(toy, cutouts=Cutouts.open(file))

def test_the_verb(toy, tmp_path):
    args = ['explore', toy['folder']/'map.parquet', '--cutouts', toy['file'], '--out', tmp_path/'e.html', '--atlas', tmp_path/'atlas', '--columns', 'class', '--n', '50']
    said = CliRunner().invoke(main, [str(a) for a in args])
    assert said.exit_code == 0 and '50 of 120 objects' in said.output, said.output
    assert [c['name'] for c in data_of((tmp_path/'e.html').read_text())['columns']] == ['class']
    assert (tmp_path/'atlas/data/dataset.parquet').is_file()
    again = CliRunner().invoke(main, [str(a) for a in args])
    assert again.exit_code == 2 and 'exists: give another name, or --overwrite' in again.stderr

# ---- what is bundled

def test_the_bundle_is_made_of_what_is_in_web():
    spec = importlib.util.spec_from_file_location('web', root/'tools/web.py')
    web = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(web)
    for page in web.pages():
        made = (root/'astromask/web'/page.name).read_text()
        assert f'content="{web.sources(page)}"' in made, f'{page.name} or what it is made of changed: make web'

def test_the_page_carries_licences_and_loads_nothing():
    page = (root/'astromask/web/explorer.html').read_text()
    lock = json.loads((root/'web/package-lock.json').read_text())['packages']
    licences = page[page.index('id="licences"'):]
    for name in ('astromask','regl-scatterplot','regl','gl-matrix','kdbush'): assert f'{name} ' in licences
    assert f'regl-scatterplot {lock["node_modules/regl-scatterplot"]["version"]} (MIT)' in licences
    assert "default-src 'none'" in page and not re.search(r'(?:src|href)=["\']', page[:page.index('id="licences"')])

# ---- in a browser

@pytest.fixture(scope='module')
def browser():
    with chromium() as b: yield b

@pytest.fixture(scope='module')
def site(toy):
    "The page in a file, what is shown in it, and its ids"
    s = see(toy)
    path = toy['folder']/'explorer.html'
    path.write_text(explorer(s, title='Toys <&>'))
    return path,s,np.asarray(s.table['id']).astype(str)

@pytest.fixture
def page(browser, site):
    with opened(browser, site[0]) as p:
        p.wait_for_selector('body[data-ready=yes]', state='attached')
        yield p

def at(page, s, i):
    "Where object i is on the screen, while the whole map is shown"
    box = page.locator('#points').bounding_box()
    x,y = (np.asarray(s.table[k], float) for k in ('map_x','map_y'))
    half = max(np.ptp(x), np.ptp(y))/2
    unit = min(box['height'], box['width'])/2*.95/half
    return box['x']+box['width']/2+(x[i]-(x.min()+x.max())/2)*unit, box['y']+box['height']/2-(y[i]-(y.min()+y.max())/2)*unit

def chosen(page): return page.locator('#object .id').inner_text()

def own_colour(toy, s, i): return colours(s.rows[i:i+1])[0]

def middle(where): return pixels(where)[tuple(n//2 for n in pixels(where).shape[:2])]

@pytest.mark.slow
def test_points_are_drawn(page, site):
    path,s,ids = site
    image = pixels(page)
    lit = lambda x, y: np.abs(image[round(y)-2:round(y)+3,round(x)-2:round(x)+3] - [13,17,23]).sum(-1).max()
    for i in np.flatnonzero(np.asarray(s.table['map_y']) > 4):                  # the others may be under the legend
        x,y = at(page, s, i)
        assert lit(x, y) > 60, f'nothing where {ids[i]} should be'
        assert lit(x+25, y+25) < 10, f'something beside {ids[i]}'
    page.select_option('#colour', 'mag_r')
    page.wait_for_timeout(300)
    assert np.abs(pixels(page)-image).max() > 60                                # other colours
    assert page.locator('#legend .ends').inner_text().split() == ['15.3','26.7'] and 'not known: 12' in page.locator('#legend').inner_text()

@pytest.mark.slow
def test_hover_shows_picture_and_catalogue(page, site, toy):
    path,s,ids = site
    for i in (3, list(ids).index(EVIL)):
        page.mouse.move(*at(page, s, i))
        page.wait_for_selector('#tip:not([hidden])')
        assert page.locator('#tip b').inner_text() == ids[i]
        assert page.locator('#tip td').all_inner_texts()[0] == (s.table['class'][i] or '–')
        assert np.abs(middle(page.locator('#tip .picture'))-own_colour(toy, s, i)).max() < 12
    page.mouse.move(5, 5)
    assert page.locator('#tip').is_hidden()

@pytest.mark.slow
def test_click_shows_the_nearest(page, site, toy):
    path,s,ids = site
    page.mouse.move(*at(page, s, 50))
    page.mouse.click(*at(page, s, 50))
    assert chosen(page) == ids[50]
    near = page.locator('#near button')
    assert [near.nth(j).get_attribute('data-id') for j in range(near.count())] == ids[s.near[50]].tolist() and near.count() == 12
    for j in (0, 11): assert np.abs(middle(near.nth(j).locator('.picture'))-own_colour(toy, s, s.near[50,j])).max() < 12
    near.nth(4).click()
    assert chosen(page) == ids[s.near[50,4]]
    links = page.locator('#object a')
    assert all(links.nth(i).get_attribute('target') == '_blank' for i in range(links.count())) and links.count() == 3

@pytest.mark.slow
def test_search_by_id_and_by_position(page, site):
    path,s,ids = site
    page.keyboard.press('/')
    page.keyboard.type('quoted')
    page.keyboard.press('Enter')
    assert chosen(page) == 'a "quoted", id'
    i = 17
    page.fill('#search', f'{s.table["ra"][i]+1e-5:.6f} {s.table["dec"][i]:.6f}')
    assert page.locator('#hits li').first.inner_text().split() == [ids[i],'0.036″']
    page.keyboard.press('Enter')
    assert chosen(page) == ids[i]
    page.fill('#search', ids[30])
    page.locator('#hits li').first.click()
    assert chosen(page) == ids[30]
    page.fill('#search', 'nowhere')
    assert 'No such object' in page.locator('#hits').inner_text()

def labels(page, how):
    "What is downloaded, as it is in the file"
    with page.expect_download() as saved: how()
    assert saved.value.suggested_filename == 'labels.csv'
    return Path(saved.value.path()).read_text()

@pytest.mark.slow
def test_lasso_label_and_download(page, site):
    path,s,ids = site
    x,y = (np.asarray(s.table[k]) for k in ('map_x','map_y'))
    inside = np.flatnonzero((x >= 4) & (x <= 7) & (y >= 3) & (y <= 4))
    corner = lambda cx, cy: np.argmin(np.hypot(x-cx, y-cy))
    (x0,y0),(x1,y1) = at(page, s, corner(4, 4)), at(page, s, corner(7, 3))
    page.keyboard.press('l')
    page.mouse.move(x0-20, y0-20)
    page.mouse.down()
    for to in ((x1+20, y0-20), (x1+20, y1+20), (x0-20, y1+20), (x0-20, y0-15)): page.mouse.move(*to, steps=6)
    page.mouse.up()
    page.wait_for_selector('#selection:not([hidden])')
    assert page.locator('#selection h2').inner_text() == f'{len(inside)} selected' == '8 selected'
    assert page.locator('#lasso').get_attribute('aria-pressed') == 'false'
    page.keyboard.press('Shift+Digit2')
    text = labels(page, lambda: page.keyboard.press('d'))
    assert text == 'id,label\n' + ''.join(f'{o},no\n' for o in ids[np.sort(inside)])
    page.reload()                                                              # the browser keeps them
    page.wait_for_selector('body[data-ready=yes]', state='attached')
    assert labels(page, page.locator('#download').click) == text

@pytest.mark.slow
def test_labels_by_the_keyboard_alone(page, site):
    path,s,ids = site
    for name in ('quoted', 'script'):
        page.keyboard.press('/')
        page.keyboard.type(name)
        page.keyboard.press('Enter')
        page.keyboard.press('3')
    page.keyboard.press('n')
    step = chosen(page)
    assert step == ids[list(ids).index(EVIL)+1]
    page.keyboard.press('1')
    page.keyboard.press('p')
    assert chosen(page) == EVIL
    page.keyboard.press('n')
    page.keyboard.press('0')                                                   # the last one is taken away again
    page.fill('#labels input >> nth=2', 'odd, very')
    quoted = {EVIL: '"' + EVIL.replace('"', '""') + '"', 'a "quoted", id': '"a ""quoted"", id"'}
    rows = [f'{quoted[o]},"odd, very"\n' for o in ids if o in quoted]
    assert labels(page, page.locator('#download').click) == 'id,label\n' + ''.join(rows)
    page.locator('#points').focus()
    before = pixels(page.locator('#map'))
    for key in ('ArrowRight','+'):
        page.keyboard.press(key)
        page.wait_for_timeout(400)
        after = pixels(page.locator('#map'))
        assert (np.abs(after-before).max(-1) > 60).sum() > 100, f'{key} does nothing'
        before = after
    page.keyboard.press('?')
    assert 'label all that are selected' in page.locator('#keys').inner_text()
    page.keyboard.press('Escape')
    assert page.locator('#keys').is_hidden()

@pytest.mark.slow
def test_on_a_phone(browser, site):
    path,s,ids = site
    with opened(browser, path, 390, 844, has_touch=True, is_mobile=True) as page:
        page.wait_for_selector('body[data-ready=yes]', state='attached')
        assert page.evaluate('document.documentElement.scrollWidth') <= 390
        page.touchscreen.tap(*at(page, s, 50))
        assert chosen(page) == ids[50] and page.locator('#tip').is_hidden()
        page.locator('#labels .row button').first.tap()
        assert labels(page, page.locator('#download').tap) == f'id,label\n{ids[50]},yes\n'
