"A search in tiles without a catalogue: what it finds is what all squares at once would tell, whatever is missing, and however often it is killed"
import os, signal
from pathlib import Path
import numpy as np, pytest, torch
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.wcs import WCS
from click.testing import CliRunner
from astromask.cli import main
from astromask.core import InputError
from astromask.data.cutouts import Cutouts
from astromask.data.ingest import ingest
from astromask.discover.tiles import BestSquares, cut_found, middle_of_light, model_field, search_tiles
from astromask.embed import embed_cutouts
from astromask.models.mae import MAE
from astromask.models.weights import save_model
from astromask.space import Space
from astromask.tasks.predict import embedding, table_of
from astromask.tasks.tables import read_table
from astromask.units import Measure

data = Path(__file__).parents[2]/'shared'/'data'/'fits'
real = pytest.mark.skipif(not data.exists(), reason=f'the real files of {data} are not here')

def sky(x0=0):
    w = WCS(naxis=2)
    w.wcs.ctype,w.wcs.crval,w.wcs.crpix,w.wcs.cdelt = ('RA---TAN','DEC--TAN'),(150.,2.),(150-x0,80),(-1e-4,1e-4)
    return w.to_header()

@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "Two tiles of 120 x 140 pixels that overlap, with a hole, in g, r, i; a small encoder, its space, two queries"
    folder = tmp_path_factory.mktemp('tiles')
    r = np.random.default_rng(0)
    pixels = r.normal(size=(3,120,250)).astype('f4')
    for y,x in r.uniform(10, 110, (30,2))*(1,2.2): pixels[:,int(y)-3:int(y)+4,int(x)-3:int(x)+4] += r.uniform(0, 20, (3,1,1))
    pixels[:,60:,60:100] = np.nan
    for name,x0 in (('a',0), ('b',110)):
        for b,image in zip('gri', pixels[:,:,x0:x0+140]): fits.writeto(folder/f'{b}-{name}.fits', image, sky(x0))
    torch.manual_seed(0)
    m = MAE.preset('tiny', bands='gri', img_size=32)
    c = Cutouts.open(ingest(folder/'all.h5', str(folder/'{band}-*.fits'), size=32, overlap=.5, processes=1))
    x = np.asarray(embed_cutouts(m, c, views=1, progress=False)['embedding'])
    space = Space.fit(x, 'centered')
    enough = np.flatnonzero(np.isfinite(c[:]).mean((1,2,3)) > .9)
    return dict(folder=folder, tiles=str(folder/'{band}-*.fits'), m=m, c=c, space=space, at=space.direction(x),
                queries=space.direction(x[enough[[3,40]]]), job=embedding(m, 1))

def search(world, out, tiles=None, job=None, **call):
    call = dict(n=6, overlap=.5, bs=32, progress=False) | call
    return search_tiles(out, model_field(tiles or world['tiles'], world['m']), job or world['job'], world['space'], world['queries'], **call)

def same(a, b): return a.colnames == b.colnames and all(np.array_equal(a[k], b[k]) for k in a.colnames)

def test_finds_what_all_squares_at_once_would_tell(world, tmp_path, monkeypatch):
    added,add = [],BestSquares.add
    monkeypatch.setattr(BestSquares, 'add', lambda self, t: added.append(t.copy()) or add(self, t))
    found = search(world, tmp_path/'f.parquet')
    t = vstack(added)
    grid = {(o['tile'],o['x'],o['y']): i for i,o in enumerate(world['c'].catalog)}
    rows = np.array([grid.get((o['tile'],o['x'],o['y']), -1) for o in t])
    score = (world['at'] @ world['queries'].T).max(1)
    enough = np.isfinite(world['c'][:]).mean((1,2,3)) >= .5
    assert sorted(rows[rows >= 0]) == list(np.flatnonzero(enough)) and (rows < 0).sum() > 10     # the grid, and what was moved
    np.testing.assert_allclose(t['score'][rows >= 0], score[rows[rows >= 0]], atol=1e-5)
    left,best = np.argsort(-t['score'], kind='stable'),[]
    while len(best) < 6:
        best.append(left[0])
        dx = (t['ra'][left]-t['ra'][left[0]])*np.cos(np.radians(2))
        left = left[np.hypot(dx, t['dec'][left]-t['dec'][left[0]]) > 32*1e-4]
    assert list(found['id']) == list(t['id'][best])
    assert list(found['rank']) == [1,2,3,4,5,6] and (found['valid'] >= .5).all() and found['score'][0] > .999

@pytest.mark.parametrize('kind', ['sky','flat',pytest.param('resampled', marks=pytest.mark.slow)])
def test_an_object_between_grid_places_is_found_at_its_place(world, tmp_path, kind):
    """Also where pixels are missing, on a sky that is turned; what is found is where the table says that it is"""
    x,y = np.meshgrid(np.arange(130), np.arange(130))
    pixels = np.random.default_rng(1).normal(size=(3,130,130)) + 60*np.exp(-(x-66.5)**2/8-(y-59.5)**2/18)*np.array([1,.7,1.3])[:,None,None]
    pixels[1,60:62,67:70] = pixels[2,:,:40] = np.nan
    w = WCS(sky())
    w.wcs.pc = [[.8,-.6],[.6,.8]]
    for b,image in zip('gri', pixels): fits.writeto(tmp_path/f'{b}.fits', image.astype('f4'), None if kind == 'flat' else w.to_header())
    m = MAE.preset('tiny', bands='gri', img_size=32) if kind == 'resampled' else world['m']
    files,told,scale = {b: str(tmp_path/f'{b}.fits') for b in 'gri'},{},None
    if kind == 'resampled':
        m.load_state_dict(world['m'].state_dict())
        m.measure,told,scale = Measure('nanomaggy', 22.5, .54),dict(zero_point=22.5),.54
    ra,dec = w.all_pix2world(66.5, 59.5, 0)
    where,names = (dict(x=[66.5],y=[59.5]),dict(x='x',y='y',first_pixel=0)) if kind == 'flat' else (dict(ra=[ra],dec=[dec]),{})
    c = Cutouts.open(ingest(tmp_path/'c.h5', files, Table(dict(id=['a']) | where), size=32, processes=1, pixel_scale=scale, **names, **told))
    q = world['space'].direction(embed_cutouts(m, c, views=1, progress=False)['embedding'])
    field = model_field(files, m, resample=kind == 'resampled', **told)
    found, = search_tiles(tmp_path/'f.parquet', field, embedding(m, 1), world['space'], q, n=1, overlap=0, progress=False)
    assert abs(found['x']-66.5) <= 1 and abs(found['y']-59.5) <= 1 and found['id'].endswith(f":{found['x']:.1f},{found['y']:.1f}")
    if kind == 'flat': assert np.isnan(found['ra'])
    else: np.testing.assert_allclose((found['ra'],found['dec']), w.all_pix2world(found['x'], found['y'], 0), atol=1e-8)

def test_light_that_is_not_there_moves_nothing():
    x,y = np.meshgrid(np.arange(40), np.arange(40))
    noise = np.random.default_rng(0).normal(size=(4,2,40,40)).astype('f4')
    one = noise + 50*np.exp(-((x-29)**2+(y-15)**2)/8).astype('f4')
    def near(x, reach=10): return (np.abs(middle_of_light(x, reach)-(9.5,-4.5)) < 1).all(1)
    assert near(one).all() and near(one-noise).all() and near(one*1e-3+7).all() and not near(one, 5).any()
    some = one.copy()
    some[0,0],some[1,:,:,30:],some[2,:,12:],some[3] = np.nan,np.nan,np.nan,np.nan      # a band, half of the object, all of it, everything
    found = middle_of_light(some, 10)
    assert near(some)[0] and np.abs(found[1]-(8.5,-4.5)).max() < 2 and np.isnan(found[3]).all()
    assert np.isnan(middle_of_light(np.zeros_like(one), 10)).all()

@pytest.mark.slow
def test_order_of_tiles_and_size_of_blocks_change_nothing(world, tmp_path):
    found = search(world, tmp_path/'a.parquet')
    turned = {b: [str(world['folder']/f'{b}-{k}.fits') for k in 'ba'] for b in 'gri'}
    for i,call in enumerate((dict(tiles=turned), dict(bs=7))):
        again = search(world, tmp_path/f'{i}.parquet', **call)
        assert list(again['id']) == list(found['id'])
        np.testing.assert_allclose(again['score'], found['score'], atol=1e-6)

def killed(world, out, after):
    "A process that is killed when it asks the model for the n-th time"
    def question(**what):
        nonlocal after
        after -= 1
        if after < 0: os.kill(os.getpid(), signal.SIGKILL)
        return world['job'].question(**what)
    pid = os.fork()
    if not pid:
        try: search(world, out, job=world['job']._replace(question=question))
        finally: os._exit(0)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL

def test_a_killed_search_goes_on_with_the_same_bits(world, tmp_path, caplog):
    whole = search(world, tmp_path/'whole.parquet')
    out = tmp_path/'f.parquet'
    assert killed(world, out, 1) and not out.exists() and not (tmp_path/'.f.parquet.search'/'state.parquet').exists()
    for n in (4,2):     # in the middle of the second tile, and when its best squares are looked at again
        assert killed(world, out, n) and not out.exists() and (tmp_path/'.f.parquet.search'/'state.parquet').exists()
    caplog.set_level('INFO')
    asked = []
    job = world['job']._replace(question=lambda x, mags, coords: asked.append(len(x)) or world['job'].question(x, mags, coords))
    assert same(search(world, out, job=job), whole) and '1 tiles are done' in caplog.text
    assert 56 > asked[-1] and len(asked) <= 4 and not (tmp_path/'.f.parquet.search').exists()

@pytest.mark.slow
def test_a_search_for_something_else_begins_anew(world, tmp_path, caplog):
    out = tmp_path/'f.parquet'
    assert killed(world, out, 3)
    found = search(world, out, n=3)
    assert 'begins anew' in caplog.text and list(found['id']) == list(search(world, tmp_path/'g.parquet')['id'][:3])

def test_without_a_wcs(world, tmp_path):
    for b in 'gri': fits.writeto(tmp_path/f'{b}.fits', fits.getdata(world['folder']/f'{b}-a.fits'))
    files = {b: str(tmp_path/f'{b}.fits') for b in 'gri'}
    found = search(world, tmp_path/'f.parquet', files)
    there = np.stack([found['x'], found['y']], 1)
    assert np.isnan(found['ra']).all() and len(found) == 6
    assert np.linalg.norm(there[:,None]-there, axis=-1)[~np.eye(6, dtype=bool)].min() > 32
    c = Cutouts.open(cut_found(tmp_path/'f.h5', found, files, world['m']))
    np.testing.assert_array_equal(c.catalog['x'], found['x'])

@pytest.mark.slow
def test_what_was_found_is_cut_again(world, tmp_path):
    found = search(world, tmp_path/'f.parquet')
    c = Cutouts.open(cut_found(tmp_path/'f.h5', found, world['tiles'], world['m']))
    again = (world['space'].direction(embed_cutouts(world['m'], c, views=1, progress=False)['embedding']) @ world['queries'].T).max(1)
    assert list(c.catalog['id']) == list(found['id'])
    np.testing.assert_allclose(again, found['score'], atol=1e-5)

def test_missing_bands_and_other_ones(world, tmp_path, caplog):
    files = {b: str(world['folder']/f'{k}-a.fits') for b,k in (('g','g'), ('r','r'), ('y','i'))}
    field = model_field(files, world['m'])
    assert field.how.bands == ('g','r','i') and set(field.found[0][0].files) == {'g','r'} and 'no band i' in caplog.text
    found = search_tiles(tmp_path/'f.parquet', field, world['job'], world['space'], world['queries'], n=3, progress=False)
    assert (found['valid'] <= 1).all() and found['valid'].max() == 1

def test_bad_input_is_a_sentence(world, tmp_path):
    with pytest.raises(InputError, match='The tiles have the bands y, and the model knows g, r, i'):
        model_field(dict(y=str(world['folder']/'g-a.fits')), world['m'])
    with pytest.raises(InputError, match='overlap = 1 makes no sense'): search(world, tmp_path/'f.parquet', overlap=1)
    with pytest.raises(InputError, match='no known kind'): search(world, tmp_path/'f.txt')
    (tmp_path/'f.parquet').write_text('')
    with pytest.raises(InputError, match='exists: give another name'): search(world, tmp_path/'f.parquet')
    with pytest.raises(InputError, match='numbers'):
        search_tiles(tmp_path/'g.parquet', model_field(world['tiles'], world['m']), world['job'], world['space'], np.ones((1,7)))
    with pytest.raises(InputError, match='No square of the tiles has enough valid pixels'):
        for b in 'gri': fits.writeto(tmp_path/f'{b}.fits', np.where(np.arange(4900).reshape(70,70) % 3, np.nan, 1).astype('f4'), sky())
        search(world, tmp_path/'h.parquet', str(tmp_path/'{band}.fits'))

@pytest.mark.slow
@real
def test_a_real_field(tmp_path, caplog):
    "HSC's, with pixels of another size than the model knows, and without a zero point"
    torch.manual_seed(0)
    m = MAE.preset('tiny', bands='gri', img_size=32)
    m.measure = type(m.measure)('nanomaggy', 22.5, .336)
    files = {b: str(data/f'hsc_{b}.fits') for b in 'gri'}
    space = Space.fit(np.random.default_rng(0).normal(size=(200,32)), 'cosine')
    found = [search_tiles(tmp_path/f'{r}.parquet', model_field(files, m, zero_point=27., resample=r), embedding(m, 1), space,
                          np.eye(32)[:2], n=9, overlap=0, progress=False) for r in (False,True)]
    assert 'look 2 times larger' in caplog.text and all(len(f) == 9 and np.isfinite(f['score']).all() for f in found)
    c = Cutouts.open(cut_found(tmp_path/'f.h5', found[1], files, m, resample=True, zero_point=27.))
    assert c.pixel_scale == pytest.approx(.336) and np.isfinite(c[:]).mean() == pytest.approx(found[1]['valid'].mean(), abs=.005)

def test_the_verb(world, tmp_path):
    "By an object of a table of embeddings; images and a picture of what was found; what is wrong is one sentence"
    folder = world['folder']
    save_model(world['m'], tmp_path/'model')
    table_of(world['job'], str(folder/'all.h5'), tmp_path/'e.parquet', device='cpu', progress=False)
    one = world['c'].catalog[3]
    def call(*args):
        said = CliRunner().invoke(main, ['seek', *map(str, args), '--model', str(tmp_path/'model'), '--device', 'cpu'])
        return said.exit_code,said.output
    asked = (tmp_path/'e.parquet','--tiles',world['tiles'],'--out',tmp_path/'f.parquet')
    code,text = call(*asked, '--like', one['id'], '--n', 5, '--cutouts', tmp_path/'f.h5')
    found = read_table(tmp_path/'f.parquet')
    assert code == 0 and len(found) == 5 and found['score'][0] > .999 and found['id'][0] in text
    assert (found['tile'][0],found['x'][0],found['y'][0]) == (one['tile'],one['x'],one['y'])
    assert len(Cutouts.open(tmp_path/'f.h5')) == 5 and (tmp_path/'f.png').stat().st_size > 1000
    for args,why in (((), 'nothing to look for'), (('--like',one['id']), 'exists'), (('--like','nobody'), 'no object and no file')):
        code,text = call(*asked, *args)
        assert code == 2 and why in text
