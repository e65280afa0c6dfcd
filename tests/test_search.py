"Similarity search: conditions, queries, the verb, and what it refuses, one sentence each"
import numpy as np, pytest, torch
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from click.testing import CliRunner
from astromask.cli import main
from astromask.core import InputError
from astromask.data.cutouts import Cutouts
from astromask.data.tables import read_table as read_any_table
from astromask.discover.gallery import VIEWERS, gallery, viewer_links
from astromask.discover.queries import parse_position
from astromask.discover.search import SimilarityIndex, search_survey
from astromask.discover.where import Condition
from astromask.models.mae import MAE
from astromask.models.weights import save_model

GROUPS = np.repeat(list('abcd'), 30)

def groups(n=120):
    "Objects of four groups, in 12 numbers"
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 12))[np.unique(GROUPS, return_inverse=True)[1]] + .3*rng.normal(size=(n, 12)) + 5
    return Table({'id': [f'{g}{i:03}' for i,g in enumerate(GROUPS)], 'ra': rng.uniform(0, 360, n), 'dec': rng.uniform(-60, 60, n), 'class': GROUPS,
                  'mag_r': rng.uniform(16, 24, n), 'embedding': x.astype(np.float32)})

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A file of cutouts, two models, and a table of embeddings by the first"
    d = tmp_path_factory.mktemp('search')
    rng = np.random.default_rng(1)
    images = rng.normal(size=(24,3,32,32)).astype(np.float32)
    images += np.exp(-((np.mgrid[:32,:32]-15.5)**2).sum(0)/20)*rng.uniform(2, 30, (24,3,1,1))
    images[5] = np.nan
    catalog = Table(dict(id=[f'o{i:02}' for i in range(24)], ra=150+np.arange(24)/100, dec=np.full(24, 2.), mag_r=np.linspace(16, 22, 24)))
    Cutouts.write(d/'s.h5', images, bands='gri', catalog=catalog)
    for seed in (0,1):
        torch.manual_seed(seed)
        save_model(MAE.preset('tiny', bands='gri', img_size=32), d/f'm{seed}')
        said = CliRunner().invoke(main, ['embed', str(d/f'm{seed}'), str(d/'s.h5'), '--out', str(d/f'e{seed}.parquet'), '--device', 'cpu', '--columns', 'mag_r'])
        assert said.exit_code == 0, said.output
    return d

def search(*args): return CliRunner().invoke(main, ['search', *map(str, args)])

def refused(text, *args):
    said = search(*args)
    assert said.exit_code == 2 and text in said.stderr and said.stderr.count('\n') == 1, said.output
    return said.stderr

# ---- conditions

def test_conditions_agree_with_numpy_on_random_tables():
    rng = np.random.default_rng(0)
    t = Table(dict(x=rng.normal(size=500), y=MaskedColumn(rng.integers(0, 5, 500), mask=rng.random(500) < .2), s=rng.choice(['p','q','r'], 500)))
    t['x'][::7] = np.nan
    x,y,s,there = np.asarray(t['x']),t['y'].data.data,np.asarray(t['s']),~t['y'].mask
    ok = np.isfinite(x)
    expected = {
        'x < .5': ok & (x < .5), 'not x < .5': ok & (x >= .5), 'x == x': ok, 'x != 0': ok, 'y == 3': there & (y == 3), 'y != 3': there & (y != 3),
        '-1 <= x < 1 and y in (1, 2)': ok & (-1 <= x) & (x < 1) & there & np.isin(y, (1,2)),
        "s == 'p' or x > 0": (s == 'p') | ok & (x > 0), "not (s == 'p' and x > 0)": (s != 'p') | ok & (x <= 0),
        "s not in ('p',) and x**2 + y/2 > 1": (s != 'p') & ok & there & (np.where(ok, x, 0)**2 + y/2 > 1),
        '(x > 0) & ~(y > 2) | (y % 2 == 1)': (ok & (x > 0) & there & (y <= 2)) | (there & (y % 2 == 1))}
    for text,rows in expected.items():
        np.testing.assert_array_equal(Condition(text)(t), rows, text)

@pytest.mark.parametrize('code', ['exit()', 'x.__class__', '().__class__.__bases__', '[].append(1)', 'x @ x > 1', 'x if x else x', '{1: 2}', 'print(x) == 1',
                                  '(lambda: 1)() > 0', '[y for y in x]', "f'{x}' == 's'", 'x << 2 > 1', '1 if 1 else 2', 'x := 2', '`ls`', 'x; import os', "'a'.upper() == 'A'",
                                  '*x', 'b"a" == s', '"a"*1000000000 == s', '(1,)*1000000000 == x', '(' * 300 + 'x' + ')' * 300, 'not '*20000 + 'x > 1'])
def test_code_is_no_condition(code):
    t = Table(dict(x=[1.,2.], s=['a','b']))
    with pytest.raises(InputError, match='condition'): Condition(code)(t)

def test_large_powers_end_at_once(): assert list(Condition('x < 9**9**9**9**9')(Table(dict(x=[1.,np.nan])))) == [True,False]

# ---- the index

def test_ways_and_conditions():
    ix = SimilarityIndex(groups(), 'centered')
    for by in ('mean','max','rank',None):
        found = ix.search(['a003','a005','a009'], k=10, by=by, where='mag_r < 22', columns=['class','mag_r'])
        assert (found['class'] == 'a').mean() > .8 and (found['mag_r'] < 22).all() and not {'a003','a005','a009'} & set(found['id'])
        assert (np.diff(found['score']) <= 0).all() and list(found['rank']) == list(range(1, len(found)+1))
    near = ix.search(['a003','b033'], k=40, by='max')
    assert {k[0] for k in near['id']} == {'a','b'} and len(set(near['id'])) == 40
    with pytest.raises(InputError, match='no way'): ix.search('a003', by='best')
    with pytest.raises(InputError, match='fulfils mag_r < 0'): ix.search('a003', where='mag_r < 0')

def test_the_nearest_of_several_is_the_largest_cosine():
    t = groups()
    ix = SimilarityIndex(t, 'whitened')
    found = ix.search(['a003','c070'], k=50, by='max')
    u = ix.space.direction(t['embedding']).astype(float)
    s = (u @ u[[3,70]].T).max(1)
    s[[3,70]] = -2
    assert list(found['id']) == list(t['id'][np.lexsort((t['id'], -s.round(6)))[:50]])

def test_order_of_the_file_changes_nothing():
    t = groups()
    for by in ('mean','max','rank'):
        one,two = (SimilarityIndex(o, 'centered').search(['a003','b033'], by=by, negatives=['c070'], k=60) for o in (t,t[np.random.default_rng(3).permutation(120)]))
        assert list(one['id']) == list(two['id'])

def test_duplicates_are_refused():
    t = groups()
    t['id'][7] = t['id'][3]
    with pytest.raises(InputError, match='a003'): SimilarityIndex(t)
    with pytest.raises(InputError, match='a004 is given twice'): SimilarityIndex(groups()).search(['a004','a005','a004'])

def test_an_index_on_disk_answers_as_the_table(tmp_path):
    ix = SimilarityIndex(groups(), 'centered')
    ix.save(tmp_path/'i')
    asked = dict(examples=['a003','b033'], k=30, where="class != 'a'", columns=['class'])
    one,two = ix.search(**asked),SimilarityIndex.load(tmp_path/'i').search(**asked)
    assert all(list(one[k]) == list(two[k]) for k in one.colnames)

# ---- the verb

def test_search_by_id_position_file_and_table(home):
    said = search(home/'e0.parquet', '--like', 'o03', '--k', 4)
    assert said.exit_code == 0 and 'legacysurvey.org/viewer?ra=150' in said.output, said.output
    Table(dict(name=['o03'], RA=[150.03], DEC=[2.])).write(home/'mine.csv', overwrite=True)
    c = Cutouts.open(home/'s.h5')
    Cutouts.write(home/'one.h5', c[[3]], bands='gri', overwrite=True)
    fits.PrimaryHDU(c[3]).writeto(home/'one.fits', overwrite=True)
    by_id = search_survey(home/'e0.parquet', ['o03'], k=4)
    for like in ('150.03,2.0001', str(home/'mine.csv'), f'{home}/mine.csv:name'):
        assert list(search_survey(home/'e0.parquet', [like], k=4)['id']) == list(by_id['id'])
    for like,more in ((home/'one.h5', {}), (home/'one.fits', dict(bands=tuple('gri')))):
        found = search_survey(home/'e0.parquet', [str(like)], k=5, **more)
        assert list(found['id']) == ['o03', *by_id['id']] and found['score'][0] > .9999       # nobody's image finds the object itself
    assert search_survey(home/'e0.parquet', [str(home/'one.h5')], k=5, copies=3, by='max')['id'][0] == 'o03'

@pytest.mark.parametrize('kind', ['parquet','fits','csv'])
def test_tables_and_pictures(home, tmp_path, kind):
    out = tmp_path/f'found.{kind}'
    said = search(home/'e0.parquet', '--like', 'o03', '--not', 'o20', '--like', '150.07,2', '--k', 7, '--where', 'mag_r < 21.5', '--out', out, *(['--cutouts', home/'s.h5'] if kind == 'csv' else []))
    assert said.exit_code == 0, said.output
    t = read_any_table(out)
    assert len(t) == 7 and {'rank','score','id','ra','dec','mag_r',*(f'link_{k}' for k in VIEWERS)} <= set(t.colnames) and (t['mag_r'] < 21.5).all()
    assert out.with_suffix('.png').exists() == (kind == 'csv')
    refused('exists', home/'e0.parquet', '--like', 'o03', '--out', out)
    assert search(home/'e0.parquet', '--like', 'o03', '--out', out, '--overwrite').exit_code == 0

def test_tables_of_other_makers(tmp_path, caplog):
    t = groups()
    Table(dict(vec=t['embedding'], other=t['embedding'][:,:4], mag_r=t['mag_r'])).write(tmp_path/'v.fits')
    refused('vec, other', tmp_path/'v.fits', '--like', 3)
    refused('did you mean vec', tmp_path/'v.fits', '--like', 3, '--column', 'vecs')
    refused('several numbers', tmp_path/'v.fits', '--like', 3, '--column', 'mag_r')
    with caplog.at_level('INFO', 'astromask'): found = search_survey(tmp_path/'v.fits', ['3'], column='vec', space='centered', where='mag_r < 23')
    assert caplog.text.count('called by their row') == 1 and set(found['link_legacy']) == {''} and np.isnan(found['ra']).all()
    own = SimilarityIndex(t, 'centered').search('a003', where='mag_r < 23')
    assert [int(i) for i in found['id']] == [int(i[1:]) for i in own['id']]

def test_what_is_refused(home, tmp_path):
    e = home/'e0.parquet'
    refused('nothing to look for', e)
    refused('no object and no file o99', e, '--like', 'o99')
    refused('the nearest is o03', e, '--like', '150.031,2.01')
    refused('no valid pixel', e, '--like', 'o05')
    refused('did you mean mag_r', e, '--like', 'o03', '--where', 'mag_g < 20')
    refused('cannot be used', e, '--like', 'o03', '--where', 'open("/etc/passwd")')
    refused('both an example and', e, '--like', 'o03', '--not', 'o03')
    refused('given twice', e, '--like', 'o03', '--like', '150.03,2')
    refused('by another model', e, '--like', home/'e1.parquet')
    refused('another model than', e, '--like', home/'s.h5', '--model', home/'m1')
    refused('another model', e, '--like', 'o03', '--space', home/'e1.parquet')
    refused('give --out with --cutouts', e, '--like', 'o03', '--cutouts', home/'s.h5')
    Cutouts.write(tmp_path/'others.h5', np.zeros((2,3,32,32), np.float32), bands='gri')
    refused('in the cutouts', e, '--like', 'o03', '--cutouts', tmp_path/'others.h5', '--out', tmp_path/'f.csv')
    assert not (tmp_path/'f.csv').exists()
    (tmp_path/'bad.parquet').write_bytes(e.read_bytes()[:-200])
    refused('bad.parquet', tmp_path/'bad.parquet', '--like', 'o03')
    said = CliRunner().invoke(main, ['index', str(e), '--out', str(tmp_path/'i')])
    assert said.exit_code == 0 and search(tmp_path/'i', '--like', 'o03').exit_code == 0
    refused('were chosen when it was made', tmp_path/'i', '--like', 'o03', '--space', 'cosine')
    raw = bytearray((tmp_path/'i'/'rows.npy').read_bytes())
    raw[-3] ^= 1
    (tmp_path/'i'/'rows.npy').write_bytes(raw)
    refused('is damaged', tmp_path/'i', '--like', 'o03')
    refused('holds no index', home/'m0', '--like', 'o03')

def test_cutouts_of_other_places_are_refused(home, tmp_path):
    c = Cutouts.open(home/'s.h5')
    moved = c.catalog.copy()
    moved['ra'] += .01
    Cutouts.write(tmp_path/'s.h5', c[:], bands='gri', catalog=moved)
    refused('elsewhere on the sky', home/'e0.parquet', '--like', 'o03', '--cutouts', tmp_path/'s.h5', '--out', tmp_path/'f.csv')

def test_a_table_says_where_its_model_is(home):
    assert search(home/'e0.parquet', '--like', home/'s.h5', '--k', 2).exit_code == 2                 # one of its images is empty
    Cutouts.write(home/'two.h5', Cutouts.open(home/'s.h5')[[1,2]], bands='gri', overwrite=True)
    assert search(home/'e0.parquet', '--like', home/'two.h5', '--k', 2).exit_code == 0

# ---- pictures and links

def test_examples_are_framed_and_links_lead_to_the_place(home):
    c = Cutouts.open(home/'s.h5')
    Cutouts.write(home/'one.h5', c[[3]], bands='gri', overwrite=True)
    found = Table(dict(id=['o01','o02'], rank=[1,2], score=[.9,.8]))
    fig = gallery(c, found, ['o03'], [Cutouts.open(home/'one.h5').select('r')])
    widths = [ax.spines['top'].get_linewidth() for ax in fig.axes if ax.images]
    assert [w == 2.5 for w in widths] == [True]*2 + [False]*2
    assert 'ra=150.100000&dec=-31.000000' in viewer_links(150.1, -31)['legacy'] and viewer_links(150.1, -31)['panstarrs'] == ''
    assert set(viewer_links(np.nan, 1).values()) == {''}
    assert parse_position('-1e2,.5') == (-100,.5) and parse_position('1,2,3') is None
