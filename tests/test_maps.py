"Maps: the same whatever the order, the blocks and the neighbours in the file; whole when read back; refused in one sentence"
import io, subprocess, sys
import numpy as np, pytest
from astropy.table import Table
from click.testing import CliRunner
from sklearn.decomposition import PCA
from astromask.cli import main
from astromask.data.cutouts import Cutouts
from astromask.discover import charts, layouts, maps
from astromask.discover.charts import map_figure, thumbnail_places
from astromask.discover.clusters import name_clusters
from astromask.discover.layouts import lay_out
from astromask.discover.maps import SurveyMap, draw_sample, map_path, table_blocks
from astromask.errors import DataError, InputError
from astromask.space import space_of
from astromask.tasks.tables import arrow_table, read_table, write_table

def sky(n=300, d=12, holes=(3,7), seed=0):
    "Objects of five groups; some have no embedding"
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 5, n)
    x = 20 + 3*np.random.default_rng(9).normal(size=(5,d))[group] + rng.normal(size=(n,d))
    x[list(holes)] = np.nan
    return Table({'id': [f'{seed}-{i:05}' for i in range(n)], 'ra': rng.uniform(0, 360, n), 'dec': rng.uniform(-9, 9, n),
                  'class': np.array(list('abcde'))[group], 'mag_r': 18+rng.normal(size=n), 'embedding': x.astype(np.float32)})

def stored(t, path, model='m'):
    "A table as `embed` writes it"
    columns = {k: np.asarray(t[k]) for k in t.colnames}
    write_table(path, arrow_table(columns).schema, [columns], dict(verb='embed', settings=dict(views=1, pool='mean', columns=[]), model=model))
    return path

def call(*args):
    r = CliRunner().invoke(main, ['map', *map(str, args)])
    assert r.exit_code in (0,2), r.output + str(r.exc_info)
    if r.exit_code: assert r.stderr.startswith('astromask: ') and r.stderr.count('\n') == 1, r.stderr
    return r

@pytest.fixture
def quick(monkeypatch):
    "UMAP and t-SNE take their start for the layout, bent a little"
    monkeypatch.setattr(maps, 'lay_out', lambda x, start, kind, neighbours, seed: np.asarray(start, float)*[1,2] + .01*np.sin(9*np.asarray(start))[:,::-1])

def places(t): return np.stack([t['map_x'],t['map_y']], axis=1)

@pytest.mark.parametrize('kind', ['pca','umap'])
@pytest.mark.parametrize('suffix', ['parquet','fits'])
def test_halves_and_order(tmp_path, quick, kind, suffix):
    t = sky(4200 if suffix == 'parquet' else 700)                                  # in Parquet more than a block
    turned = t[np.random.default_rng(1).permutation(len(t))]
    out,again = tmp_path/'map.parquet',tmp_path/'again.parquet'
    for table,o in ((t,out), (turned,again)):
        assert not call(stored(table, tmp_path/f'{o.stem}-emb.{suffix}'), '--out', o, '--kind', kind, '--sample', 200).exit_code
    whole,mixed = read_table(out),read_table(again)
    assert map_path(out).read_bytes() == map_path(again).read_bytes()
    mixed.sort('id')
    for k in whole.colnames: np.testing.assert_array_equal(np.asarray(whole[k]), np.asarray(mixed[k]), err_msg=k)
    parts = []
    for i,part in enumerate((t[:333], t[333:])):
        call(stored(part, tmp_path/f'{i}.{suffix}'), '--out', tmp_path/f'{i}-map.{suffix}', '--like', out)
        parts.append(read_table(tmp_path/f'{i}-map.{suffix}'))
        assert map_path(tmp_path/f'{i}-map.{suffix}').read_bytes() == map_path(out).read_bytes()
    for k in whole.colnames: np.testing.assert_array_equal(np.concatenate([np.asarray(p[k]) for p in parts]), np.asarray(whole[k]), err_msg=k)
    assert np.flatnonzero(np.isnan(places(whole)).all(1)).tolist() == [3,7] == np.flatnonzero(whole['cluster'] < 0).tolist()
    assert set(whole.colnames) == {'id','map_x','map_y','cluster','ra','dec','class','mag_r'}

def test_readings_that_are_joined_are_each_read_apart(tmp_path, quick):
    "In the balanced space a map sees the directions that a search sees"
    t = sky(holes=())
    t['embedding'][:,8:] *= 100
    t.meta |= dict(widths=[8,4])
    m = SurveyMap.fit(t, 'umap', space='balanced')
    wanted = space_of(t, 'balanced').direction(t['embedding'])
    np.testing.assert_allclose(m.read(t['embedding']), wanted, atol=1e-4)
    np.testing.assert_allclose((wanted[:,:8]**2).sum(1), 1/3, atol=1e-3)

def test_principal_components_are_those_of_scikit_learn():
    t = sky(holes=())
    m = SurveyMap.fit(t, 'pca')
    theirs = PCA(2, svd_solver='full').fit_transform(np.asarray(t['embedding'], float))
    np.testing.assert_allclose(np.abs(m.place(t['embedding'])), np.abs(theirs), rtol=1e-3, atol=2e-4)

def test_placed_as_the_formula_says(quick):
    t,more = sky(),sky(40, seed=1, holes=())
    m = SurveyMap.fit(t, 'umap', n=100)
    x,known = m.space.direction(more['embedding']).astype(float),m.space.direction(draw_sample(table_blocks(t), 100)['embedding']).astype(float)
    for y,xy in zip(x, m.place(more['embedding'])):
        d = np.linalg.norm(known-y, axis=1)
        near = np.argsort(d)[:11]
        r = d[near[10]]
        w = [((r-d[i])/(r*d[i]))**2 for i in near[:10]]
        np.testing.assert_allclose(xy, sum(a*m.layout[i] for a,i in zip(w, near))/sum(w), rtol=1e-3, atol=1e-3)

def test_duplicates_and_tiny_tables(quick):
    t = sky(40, holes=())
    t['embedding'][20:] = t['embedding'][:20]
    xy = SurveyMap.fit(t, 'umap').place(t['embedding'])
    np.testing.assert_array_equal(xy[20:], xy[:20])
    assert np.isfinite(SurveyMap.fit(sky(3, holes=()), 'pca').place(t['embedding'])).all()
    t['embedding'][:] = 1
    assert np.isfinite(SurveyMap.fit(t, 'pca').place(t['embedding'])).all()

def test_sample_depends_on_ids_and_seed():
    t = sky()
    one,two = (set(draw_sample(table_blocks(t), 50, seed)['id']) for seed in (0,1))
    assert one != two and len(one) == 50
    assert one == set(draw_sample(table_blocks(t[::-1]), 50)['id']) and set(draw_sample(table_blocks(t), 20)['id']) < one

def test_a_map_is_whole_or_refused(tmp_path, quick):
    t = sky(80)
    m = SurveyMap.fit(t, 'umap')
    data = m.save(tmp_path/'m.parquet').read_bytes()
    np.testing.assert_array_equal(SurveyMap.load(tmp_path/'m.parquet').place(t['embedding']), m.place(t['embedding']))
    for at in (2, 60, 200, len(data)//2, len(data)-9):
        broken = bytearray(data)
        broken[at] ^= 4
        map_path(tmp_path/'m.parquet').write_bytes(broken)
        with pytest.raises(DataError): SurveyMap.load(tmp_path/'m.parquet')
    for broken in (data[:-50], b'\x80\x04.', b''):
        map_path(tmp_path/'m.parquet').write_bytes(broken)
        with pytest.raises(DataError): SurveyMap.load(tmp_path/'m.parquet')
    with pytest.raises(DataError, match='No such file'): SurveyMap.load(tmp_path/'none.parquet')

def test_refusals(tmp_path, quick):
    t = sky()
    emb,out = stored(t, tmp_path/'e.parquet'),tmp_path/'map.parquet'
    assert not call(emb, '--out', out).exit_code
    other = stored(t, tmp_path/'other.parquet', 'another')
    narrow = stored(sky(d=5), tmp_path/'narrow.parquet')
    blank = stored(sky(9, holes=range(9)), tmp_path/'blank.parquet')
    new = tmp_path/'new.parquet'
    for args,says in (((emb, '--out', out), 'exists'), ((emb, '--out', tmp_path/'new.txt'), '.parquet or .fits'),
                      ((other, '--out', new, '--like', out), 'another model'), ((narrow, '--out', new, '--like', out), '12 numbers'),
                      ((blank, '--out', new), 'all of them are NaN'), ((out, '--out', new), 'embedding'),
                      ((emb, '--out', new, '--color', 'mag_r'), '--figure'), ((tmp_path/'none.parquet', '--out', new), 'none.parquet'),
                      ((emb, '--out', new, '--figure', tmp_path/'f.png', '--color', 'mag_q'), 'no column mag_q'),
                      ((emb, '--out', new, '--figure', tmp_path/'f.png', '--cutouts', tmp_path/'none.h5'), 'none.h5'),
                      ((emb, '--out', new, '--like', emb), 'map.safetensors'), ((emb, '--out', new, '--space', 'round'), 'no space')):
        r = call(*args)
        assert r.exit_code == 2 and says in r.stderr, (args, r.stderr)
        assert not new.exists()

@pytest.mark.parametrize('suffix', ['parquet','fits'])
def test_an_id_that_is_there_twice(tmp_path, quick, suffix):
    t = sky(60)
    emb,out,new = stored(t, tmp_path/f'e.{suffix}'),tmp_path/'map.parquet',tmp_path/'new.parquet'
    again = stored(t[[*range(60),9,9]], tmp_path/f'again.{suffix}')
    assert not call(emb, '--out', out).exit_code
    for more in ((), ('--like',out)):
        r = call(again, '--out', new, *more)
        assert r.exit_code == 2 and f'again.{suffix} has 2 rows whose id is that of another, such as 0-00009: give each' in r.stderr
        assert not new.exists()

def test_missing_packages_and_failures_are_sentences(monkeypatch):
    x = np.random.default_rng(0).normal(size=(120,4)).astype(np.float32)
    with monkeypatch.context() as patched:
        patched.setattr(layouts, 'find_spec', lambda name: None)
        for kind in ('umap','tsne'):
            with pytest.raises(InputError, match=r"astromask\[search\]"): lay_out(x, x[:,:2], kind)
    monkeypatch.setattr(subprocess, 'run', lambda *a, **kw: subprocess.CompletedProcess(a, -11, '', ''))
    with pytest.raises(InputError, match='signal 11'): lay_out(x, x[:,:2], 'umap')

def test_the_other_process_has_no_torch():
    code = 'import sys, astromask.discover.layouts; assert "torch" not in sys.modules'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

def test_other_makers_and_figures(tmp_path, quick):
    t = sky(60)
    t.rename_column('embedding', 'vector')
    t.write(tmp_path/'theirs.fits')
    images = np.random.default_rng(0).normal(size=(60,3,8,8)).astype(np.float32)
    Cutouts.write(tmp_path/'c.h5', images, 'gri', catalog={k: np.asarray(t[k]) for k in ('id','ra','dec')})
    r = call(tmp_path/'theirs.fits', '--column', 'vector', '--out', tmp_path/'map.parquet', '--figure', tmp_path/'map.png', '--color', 'class',
             '--cutouts', tmp_path/'c.h5', '--clusters', 5)
    assert r.exit_code == 0 and '58 objects' in r.output and '2 have no embedding' in r.output, r.output + r.stderr
    assert (tmp_path/'map.png').read_bytes()[:4] == b'\x89PNG'
    table = read_table(tmp_path/'map.parquet')
    assert len(table.meta['clusters']) == 5 and sum(c['n'] for c in table.meta['clusters']) == 58
    assert 'vector' not in table.colnames and (np.diff([c['n'] for c in table.meta['clusters']]) <= 0).all()

def test_names_of_clusters():
    "Colours are of neighbouring bands, whatever the order of columns; errors and what is the same for all tell nothing"
    rng = np.random.default_rng(0)
    n,inside = 400,np.arange(400) < 100
    blue = dict(mag_z=18+.1*rng.normal(size=n), mag_err_g=np.where(inside, 9., 0)+rng.normal(size=n), mag_g=18.5+.1*rng.normal(size=n)-inside,
                label=np.where(inside, 'odd', 'usual'), survey=np.full(n, 'sdss'), depth=np.full(n, 3.), gap=np.full(n, np.nan))
    names = name_clusters(np.where(inside, 0, 1), blue)
    assert names[0].startswith('odd 100%') and 'blue g-z -0.5' in names[0] and 'bright mag_g 17.5' in names[0] and 'red g-z' not in names[0], names
    assert not any(word in o for o in names for word in ('err','sdss','depth','gap')), names
    masked = np.ma.masked_array(np.arange(n) % 7, np.arange(n) % 2 == 0)
    assert name_clusters(np.zeros(n, int), dict(flag=masked)) == ['like the whole']

def png(table, *args):
    f = io.BytesIO()
    map_figure(table, *args, size=2).savefig(f, format='png', dpi=40)
    return f.getvalue()

@pytest.mark.parametrize('points', [10**6, 10])
def test_a_picture_does_not_depend_on_the_order(monkeypatch, quick, points):
    monkeypatch.setattr(charts, 'POINTS', points)
    t = sky(200)
    xy = SurveyMap.fit(t, 'umap').place(t['embedding'])
    t = Table(dict(id=t['id'], map_x=xy[:,0], map_y=xy[:,1], kind=t['class'], mag=t['mag_r']))
    t['mag'][:50] = np.nan
    for color in ('mag','kind',''): assert png(t, color) == png(t[::-1], color)
    assert png(t, 'mag') != png(t, 'kind')

def test_pictures_never_overlap():
    rng = np.random.default_rng(0)
    for xy in (rng.normal(size=(500,2)), np.zeros((3,2)), rng.normal(size=(40,2))*[1,1e-6]):
        rows,middle,side = thumbnail_places(xy, np.arange(len(xy)), (xy.min(0),xy.max(0)), 9)
        apart = np.abs(middle[:,None]-middle).max(2) + 1e9*np.eye(len(rows))
        assert len(rows) and apart.min() > .999*side and (np.abs(xy[rows]-middle) <= .501*side).all()

@pytest.mark.slow
@pytest.mark.parametrize('kind', ['umap','tsne'])
def test_umap_and_tsne(kind):
    "The same bits twice, whatever the order; groups of five stay apart, those placed too"
    t = sky(400, holes=())
    m,again = (SurveyMap.fit(o, kind, n=200) for o in (t, t[::-1]))
    np.testing.assert_array_equal(m.layout, again.layout)
    xy = m.place(t['embedding'])
    group = np.asarray(t['class'])
    d = np.linalg.norm(xy[:,None]-xy, axis=2) + 1e9*np.eye(400)
    assert (group[d.argmin(1)] == group).mean() > .95
