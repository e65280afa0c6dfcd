"HATS: catalogues that we write, as LSDB reads them, and tables of images, partition by partition"
import json, os, signal, subprocess, sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest
from astropy import units as u
from astropy.coordinates import SkyCoord, search_around_sky
from click.testing import CliRunner
from astromask.catalogs import hats
from astromask.catalogs.ensembles import read_ensemble, write_ensemble
from astromask.catalogs.hats import Run, TableRows, main_catalog, placed, write_hats, write_run
from astromask.cli import main
from astromask.core import InputError
from astromask.data.cutouts import Cutouts
from astromask.tasks.tables import arrow_table, read_table, write_table
from toys import optional

def objects(n, seed=0, width=20.):
    "Columns of n objects in a square field, with gaps of every kind"
    r = np.random.default_rng(seed)
    x,y = r.random((2,n))
    return dict(id=np.array([f'o{i}' for i in range(n)]), ra=150+width*x, dec=width*(y-.5),
                mag_r=np.where(x < .1, np.nan, 18+4*y), flag=np.ma.MaskedArray(np.arange(n), y < .05),
                embedding=r.normal(size=(n,8)).astype(np.float32))

def table(path, columns, **facts):
    write_table(path, arrow_table(columns).schema, [columns], dict(verb='embed') | facts)
    return path

def parts(folder): return sorted(main_catalog(folder).glob('dataset/Norder=*/Dir=*/Npix=*.parquet'))

def content(folder): return {p.relative_to(folder): p.read_bytes() for p in Path(folder).rglob('*') if p.is_file() and p.name != 'hats.properties'}

def call(*args): return CliRunner().invoke(main, [str(a) for a in args])

def test_nothing_is_lost_or_rounded(tmp_path):
    columns = objects(500)
    columns['ra'][3] = np.inf
    columns['dec'][4] = 91
    r = call('export', table(tmp_path/'t.parquet', columns, units=dict(mag_r='mag')), '--hats', tmp_path/'a b.hats')
    assert r.exit_code == 0 and '498 objects' in r.output and '2 have no position' in r.output, r.output
    found = pa.concat_tables([pq.read_table(p, partitioning=None) for p in parts(tmp_path/'a b.hats')])
    mine = np.array([int(o[1:]) for o in found['id'].to_pylist()])
    assert sorted(mine) == [i for i in range(500) if i not in (3,4)] and (np.diff(found['_healpix_29'].to_numpy()) >= 0).all()
    assert found['flag'].to_pylist() == columns['flag'][mine].tolist() and found['mag_r'].null_count == 0
    for k in ('ra','dec','mag_r'): np.testing.assert_array_equal(found[k].to_numpy(), columns[k][mine])
    np.testing.assert_array_equal(np.stack(found['embedding'].to_numpy()), columns['embedding'][mine])
    told = pq.read_schema(parts(tmp_path/'a b.hats')[0])
    assert told.field('mag_r').metadata == {b'unit': b'mag'} and json.loads(told.metadata[b'astromask'])['units'] == dict(mag_r='mag')
    assert call('export', tmp_path/'t.parquet', '--hats', tmp_path/'a b.hats').exit_code == 0          # is left alone
    r = call('export', tmp_path/'t.parquet', '--hats', tmp_path/'a b.hats', '--margin', 5)
    assert r.exit_code == 2 and '--overwrite' in r.stderr
    assert call('export', tmp_path/'t.parquet', '--hats', tmp_path/'a b.hats', '--margin', 5, '--overwrite').exit_code == 0

def test_a_margin_has_all_that_is_near(tmp_path):
    columns = objects(3000, width=.5)
    write_run(tmp_path/'run', placed(arrow_table(columns)))
    run,at = Run(tmp_path/'run'),SkyCoord(columns['ra']*u.deg, columns['dec']*u.deg)
    for order,pixel in hats.divided([run], 1200):
        a,b = run.span(order, pixel)
        inside = np.isin(columns['id'], run.rows['id'].to_numpy(zero_copy_only=False)[a:b])
        i,j,_,_ = search_around_sky(at[inside], at[~inside], 60*u.arcsec)
        near = {*columns['id'][~inside][j]}
        found = {*run.around(order, pixel, 60.)['id'].to_pylist()}
        assert near and near <= found and not found & {*columns['id'][inside]} and len(found) < 1500

WRITE = """import sys
from astromask.catalogs import hats
n,was = int(sys.argv[1]),hats.whole_file
def counted(path, *a):
    global n
    n -= 1
    if not n: import os; os.kill(os.getpid(), 9)
    return was(path, *a)
hats.whole_file = hats.write_atomic.__globals__['whole_file'] = counted
hats.write_hats(sys.argv[3:], sys.argv[2], margin=10., most=1<<15)"""

@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_bits(tmp_path):
    paths = [table(tmp_path/f'{i}.parquet', objects(700, seed=i)) for i in range(2)]
    whole = write_hats(paths, tmp_path/'whole.hats', margin=10., most=1<<15)
    assert whole['parts'] > 3
    def run(n): return subprocess.run([sys.executable,'-c',WRITE,str(n),str(tmp_path/'x/whole.hats'),*map(str, paths)]).returncode
    codes = [run(n) for n in (1, 3, 6, 10, 14, 17)] + [run(10**6)]
    assert codes[:3] == [-signal.SIGKILL]*3 and codes[-1] == 0
    assert content(tmp_path/'x/whole.hats') == content(tmp_path/'whole.hats')
    assert not any(p.name.startswith('.') for p in (tmp_path/'x/whole.hats').rglob('*'))

def test_what_cannot_be_a_catalogue(tmp_path):
    columns = objects(5)
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine/letter').touch()
    t = table(tmp_path/'t.parquet', columns)
    nowhere = table(tmp_path/'n.parquet', columns | dict(ra=np.full(5, np.nan)))
    pq.write_table(arrow_table(dict(id=columns['id'])), tmp_path/'bare.parquet')
    pq.write_table(arrow_table(columns).drop_columns('flag'), tmp_path/'other.parquet')
    for args,said in (((t,'--hats',tmp_path/'mine'), 'is no catalogue'), ((nowhere,'--hats',tmp_path/'n.hats'), 'no object with a position'),
                      ((tmp_path/'bare.parquet','--hats',tmp_path/'b.hats'), 'no column ra and dec'), ((t,), '--page DIR'),
                      ((t,tmp_path/'other.parquet','--hats',tmp_path/'o.hats'), 'differ in the columns flag'), ((t,t,'--page',tmp_path/'p'), 'one too many'),
                      ((tmp_path/'absent','--hats',tmp_path/'a.hats'), 'absent')):
        r = call('export', *args)
        assert r.exit_code in (1,2) and said in r.stderr and 'Traceback' not in r.stderr, (args,r.stderr)
    assert (tmp_path/'mine/letter').exists()

def test_units_come_along_from_the_catalogue(tmp_path):
    from astropy.table import Table
    from astromask.models.mae import MAE
    from astromask.tasks.predict import embedding, table_of
    t = Table(dict(mag_r=[1.,2], n=[1,2]), units=dict(mag_r='mag'))
    Cutouts.write(tmp_path/'c.h5', np.ones((2,2,32,32), np.float32), bands='gr', catalog=t)
    table_of(embedding(MAE.preset('tiny', bands='gr', img_size=32)), [tmp_path/'c.h5'], tmp_path/'e.parquet', columns=['mag_r','n'], progress=False)
    found = read_table(tmp_path/'e.parquet')
    assert str(found['mag_r'].unit) == 'mag' and found['n'].unit is None and found.meta['units'] == dict(mag_r='mag')

def mmu(folder, n=9):
    "A table of images as the Multimodal Universe v1.5 has it: n objects in three partitions of HATS"
    r = np.random.default_rng(0)
    images = r.normal(size=(n,2,32,32)).astype(np.float32)
    images[0,1,:4] = np.nan
    rows = dict(object_id=[f'mmu-{i}' for i in range(n)], ra=[150.,151,152]*(n//3), dec=[0.,30,60]*(n//3),
                image=[dict(band=['hsc-g','hsc-r'], flux=o.tolist(), ivar=np.isfinite(o).astype(np.float32).tolist(), mask=np.isfinite(o).tolist(),
                            psf_fwhm=[.7,.6], scale=[.168,.168]) for o in images])
    f32 = pa.list_(pa.list_(pa.list_(pa.float32())))
    kind = pa.struct(dict(band=pa.list_(pa.string()), flux=f32, ivar=f32, mask=pa.list_(pa.list_(pa.list_(pa.bool_()))), psf_fwhm=pa.list_(pa.float32()), scale=pa.list_(pa.float32())))
    t = pa.table(dict(rows, image=pa.array(rows['image'], kind)))
    for k in range(3):
        p = folder/f'dataset/Norder=1/Dir=0/Npix={k}.parquet'
        p.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(t.take(np.arange(k, n, 3)), p)
    pq.write_metadata(t.schema, folder/'dataset/_common_metadata')
    (folder/'hats.properties').write_text('obs_collection=mmu\ndataproduct_type=object\nhats_nrows=9\n')
    return images[np.concatenate([np.arange(k, n, 3) for k in range(3)])]

def test_images_of_hats_are_packed_by_an_array(tmp_path, monkeypatch):
    images = mmu(tmp_path/'mmu')
    for task in (2,1,2): # one comes twice
        monkeypatch.setenv('SLURM_ARRAY_TASK_ID', str(task))
        r = call('pack', tmp_path/'mmu', '--out', tmp_path/'packed.h5', '--shard', 2)
        assert r.exit_code == 0 and f'packed.{task}-of-2.h5' in r.output, r.output
    c = Cutouts.open(f'{tmp_path}/packed.*.h5')
    np.testing.assert_array_equal(c[:], images)
    assert c.bands == Cutouts.open(tmp_path/'mmu').bands and c.has_ivar and c.pixel_scale == pytest.approx(.168)
    assert sorted(c.catalog['id']) == [f'mmu-{i}' for i in range(9)]
    r = call('pack', tmp_path/'mmu', '--out', tmp_path/'packed.h5', '--shard', '1/4')
    assert r.exit_code == 2 and '3 files are not enough for 4 shards' in r.stderr

@pytest.mark.slow
def test_images_of_hats_are_trained_on_and_come_back_as_hats(tmp_path, monkeypatch):
    mmu(tmp_path/'mmu', 60)
    for task in (1,2,3):
        monkeypatch.setenv('SLURM_ARRAY_TASK_ID', str(task))
        assert call('pack', tmp_path/'mmu', '--out', tmp_path/'packed.h5', '--shard', 3).exit_code == 0
    monkeypatch.delenv('SLURM_ARRAY_TASK_ID')
    r = call('run', 'pretrain', '--out', tmp_path/'run', '-p', 'data', f'{tmp_path}/packed.*.h5', '-p', 'preset', 'tiny', '-p', 'img_size', 32, '-p', 'bs', 16)
    assert r.exit_code == 0, r.output
    for task in (1,2,3):
        monkeypatch.setenv('SLURM_ARRAY_TASK_ID', str(task))
        r = call('embed', tmp_path/'run', f'{tmp_path}/packed.*.h5', '--out', tmp_path/'e.parquet', '--shard', 3, '--bs', 16)
        assert r.exit_code == 0, r.output
    r = call('export', *sorted(tmp_path.glob('e.*-of-3.parquet')), '--hats', tmp_path/'e.hats')
    assert r.exit_code == 0 and '60 objects' in r.output, r.output
    assert json.loads(pq.read_schema(parts(tmp_path/'e.hats')[0]).metadata[b'astromask'])['rows'] == [0,60,60]

LSDB = """import sys, json, numpy as np
import lsdb
from dask.distributed import Client
from hats.io.validation import is_valid_catalog
from hats.pixel_math import compute_spatial_index
from astromask.catalogs.ensembles import read_ensemble
def main(room):
    said = dict(valid=[bool(is_valid_catalog(f'{room}/{o}.hats', strict=True)) for o in ('survey','other')])
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        survey = lsdb.open_catalog(f'{room}/survey.hats')
        bright = survey.query('mag_r < 19').compute(progress_bar=False)
        other = lsdb.open_catalog(f'{room}/other.hats', columns=['id','ra','dec'])
        pairs = survey.crossmatch(other, radius_arcsec=2, suffixes=('','_other'), suffix_method='all_columns').compute(progress_bar=False)
        pdfs = lsdb.open_catalog(f'{room}/pdfs.hats').query('ra < 160').compute(progress_bar=False)
    index = compute_spatial_index(bright['ra'].to_numpy(), bright['dec'].to_numpy())
    ens = read_ensemble(f'{room}/pdfs.hats', pdfs)
    said |= dict(bright=sorted(bright['id']), nan=int(np.isnan(survey.compute(progress_bar=False)['mag_r'].to_numpy(dtype=float, na_value=0)).sum()),
                 null=int(bright['flag'].isna().sum()), index=int((index != bright.index.to_numpy()).sum()),
                 pairs=sorted(zip(pairs['id'], pairs['id_other'])), pdfs=[pdfs['id'].tolist(),ens.mode(np.linspace(0, 2, 201))[:,0].tolist()])
    with open(f'{room}/said.json', 'w') as f: json.dump(said, f)
if __name__ == '__main__': main(sys.argv[1])
"""

@pytest.mark.slow
def test_lsdb_opens_filters_and_matches(tmp_path):
    optional('lsdb')
    columns = objects(10_000)
    moved = columns | dict(ra=columns['ra']+1e-4, id=np.char.add('m', columns['id']))
    write_hats([table(tmp_path/'a.parquet', columns)], tmp_path/'survey.hats', most=1<<18)
    write_hats([table(tmp_path/'b.parquet', moved)], tmp_path/'other.hats', margin=10., most=1<<17)
    grid,z = np.linspace(0, 2, 201),np.random.default_rng(1).uniform(.2, 1.8, 200)
    pdf = np.exp(-.5*((grid-z[:,None])/.05)**2).astype(np.float32)
    few = {k: v[:200] for k,v in columns.items() if k in ('id','ra','dec')} | dict(pdf=pdf)
    write_hats([table(tmp_path/'c.parquet', few, grid=grid.tolist())], tmp_path/'pdfs.hats')
    (tmp_path/'lsdb_reads.py').write_text(LSDB)
    subprocess.run([sys.executable,tmp_path/'lsdb_reads.py',tmp_path], check=True, cwd=tmp_path, env=os.environ | dict(PYTHONPATH=str(Path(hats.__file__).parents[2])))
    said = json.loads((tmp_path/'said.json').read_text())
    assert said['valid'] == [True,True] and said['index'] == 0
    bright = columns['mag_r'] < 19
    assert said['bright'] == sorted(columns['id'][bright]) and said['null'] == columns['flag'].mask[bright].sum()
    assert said['nan'] == np.isnan(columns['mag_r']).sum()
    at,there = (SkyCoord(c['ra']*u.deg, c['dec']*u.deg) for c in (columns,moved))
    j,apart,_ = at.match_to_catalog_sky(there)
    near = apart < 2*u.arcsec
    assert near.all() and said['pairs'] == sorted([a,b] for a,b in zip(columns['id'][near], moved['id'][j[near]]))
    ids,modes = said['pdfs']
    assert sorted(ids) == sorted(few['id'][few['ra'] < 160])
    np.testing.assert_allclose(modes, z[[int(o[1:]) for o in ids]], atol=.011)

def test_ensembles_of_every_kind(tmp_path):
    qp = optional('qp')
    r = np.random.default_rng(0)
    ids = np.array([*'abc'])
    kinds = dict(interp=dict(xvals=np.linspace(0, 1, 5), yvals=r.random((3,5))), hist=dict(bins=np.linspace(0, 1, 6), pdfs=r.random((3,5))),
                 quant=dict(quants=np.linspace(.1, .9, 5), locs=np.sort(r.random((3,5)))),
                 mixmod=dict(means=r.random((3,2)), stds=.1+r.random((3,2)), weights=np.full((3,2), .5)))
    for name,data in kinds.items():
        e = qp.Ensemble(getattr(qp, name), data=data, ancil=dict(id=ids))
        write_ensemble(tmp_path/f'{name}.parquet', e, ra=np.array([1.,100,200]), dec=np.zeros(3))
        back = read_ensemble(tmp_path/f'{name}.parquet')
        x = np.linspace(.05, .95, 7)
        np.testing.assert_allclose(back.cdf(x), e.cdf(x), err_msg=name)
        assert back.ancil['id'].tolist() == ids.tolist()
    write_hats([tmp_path/'quant.parquet'], tmp_path/'q.hats')
    np.testing.assert_allclose(np.sort(read_ensemble(tmp_path/'q.hats').ppf(.5)[:,0]), np.sort(kinds['quant']['locs'][:,2]))
    with pytest.raises(InputError, match='column id of its own'): write_ensemble(tmp_path/'x.parquet', e, id=ids)

def test_a_set_by_its_name(tmp_path, monkeypatch):
    from astromask.core import RunDir
    from astromask.data import fetch
    from astromask.tasks.experiments import open_survey
    monkeypatch.chdir(tmp_path)
    known = Cutouts.write(tmp_path/'data/toy.h5', np.ones((3,2,8,8), np.float32), bands='gr')
    monkeypatch.setitem(fetch.sources, 'toy', fetch.FileSource('a toy', 'toy.h5', ('http://127.0.0.1:9/toy.h5',)))
    assert open_survey(RunDir(tmp_path/'run'), str(tmp_path/'toy')).files == (str(known),)
