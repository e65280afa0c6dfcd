"An index on disk: made block by block, the same as what is made in memory"
import shutil
import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner
from astromask.cli import main
from astromask.core import DataError, InputError
from astromask.discover import index as room
from astromask.discover.index import index_table, open_index
from astromask.discover.neighbours import Neighbours
from astromask.space import Space
from astromask.tasks.tables import arrow_table, read_table, write_table

pytest.importorskip('faiss')

@pytest.fixture(scope='module')
def columns():
    rng = np.random.default_rng(4)
    x = rng.normal(3, 1, (500,6)).astype(np.float32)*np.array([9,1,1,1,1,.2], np.float32)
    x[11] = np.nan
    gaps = np.ma.array(np.arange(500), mask=np.arange(500) % 7 == 0)
    return dict(id=np.array([f'o{i:03}' for i in rng.permutation(500)]), ra=rng.uniform(0, 360, 500), dec=rng.uniform(-90, 90, 500),
                z=rng.random(500), n=gaps, embedding=x)

@pytest.fixture(scope='module')
def ours(columns, tmp_path_factory):
    "As embed writes it, in small blocks"
    path = tmp_path_factory.mktemp('ours')/'e.parquet'
    facts = dict(verb='embed', model='abc', settings=dict(views=1, pool='mean', columns=[]))
    blocks = [{k: v[i:i+60] for k,v in columns.items()} for i in range(0, 500, 60)]
    write_table(path, arrow_table(blocks[0]).schema, blocks, facts)
    return path

def test_same_as_in_memory(ours, columns, tmp_path, monkeypatch):
    "Vectors come in blocks of 100; space and neighbours are those of the whole, and ties go by id"
    index_table(ours, tmp_path/'i')
    ix = open_index(tmp_path/'i')
    space = Space.fit(columns['embedding'], 'balanced')
    order = np.argsort(np.argsort(columns['id']))
    whole = Neighbours.build(space.direction(columns['embedding']), order=order)
    q = space.direction(columns['embedding'][:40:3])
    np.testing.assert_array_equal(ix.neighbours.search(q, 9)[1], whole.search(q, 9)[1])
    np.testing.assert_array_equal(ix.neighbours.order, order)
    table = read_table(ours)
    assert ix.facts == table.meta and ix.space.made_by['model'] == 'abc'
    for k in ('id','ra','dec','z','n'):
        np.testing.assert_array_equal(np.ma.getdata(ix.objects[k]), np.ma.getdata(table[k]))
    assert (np.ma.getmaskarray(ix.objects['n']) == columns['n'].mask).all()

def test_space_kept_with_the_table(ours, columns, tmp_path):
    "It is taken as it is, and read as it is asked for"
    path = shutil.copy(ours, tmp_path/'e.parquet')
    Space.fit(columns['embedding'][:100], 'cosine').save(path)
    ix = index_table(path, tmp_path/'i', 'partly')
    assert (ix.space.kind,ix.space.moments.n) == ('partly',99)
    assert index_table(path, tmp_path/'j', tmp_path/'i').space.kind == 'partly'
    with pytest.raises(InputError, match='no space'): index_table(path, tmp_path/'k', 'round')

def test_of_other_makers(columns, tmp_path):
    "Parquet, FITS and HDF5; the only column of vectors, or a named one; lists of any length"
    t = Table(dict(objID=np.char.replace(columns['id'], 'o', 'J'), RA=columns['ra'], DEC=columns['dec'], vector=columns['embedding']))
    found = []
    for end in ('parquet','fits','hdf5'):
        t.write(tmp_path/f't.{end}')
        ix = index_table(tmp_path/f't.{end}', tmp_path/end, 'centered', kind='ivf')
        assert list(ix.objects['id'][:3]) == list(t['objID'][:3])
        np.testing.assert_array_equal(ix.objects['ra'], columns['ra'])
        found.append(ix.neighbours.search(ix.space.direction(columns['embedding'][:10]), 5)[1])
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
    t['more'] = columns['embedding'][:,:3]
    t.write(tmp_path/'two.parquet')
    with pytest.raises(InputError, match='--column'): index_table(tmp_path/'two.parquet', tmp_path/'two')
    assert index_table(tmp_path/'two.parquet', tmp_path/'two', column='more').neighbours.x.shape == (500,3)
    t[['vector']].write(tmp_path/'alone.parquet')
    assert open_index_ids(index_table(tmp_path/'alone.parquet', tmp_path/'alone')) == ['0','1','2']

def open_index_ids(ix): return list(ix.objects['id'][:3])

def test_order_of_the_file(columns, tmp_path):
    shuffle = np.random.default_rng(0).permutation(500)
    for name,rows in (('a',np.arange(500)),('b',shuffle)):
        t = {k: v[rows] for k,v in columns.items()}
        write_table(tmp_path/f'{name}.parquet', arrow_table(t).schema, [t], {})
    a,b = (index_table(tmp_path/f'{k}.parquet', tmp_path/k, kind='ivf') for k in 'ab')
    q = a.space.direction(columns['embedding'][20:40])
    near = [np.asarray(ix.objects['id'])[ix.neighbours.search(q, 7)[1]] for ix in (a,b)]
    assert (near[0] == near[1]).all()

def test_damage_and_leftovers(ours, tmp_path):
    "Whatever is damaged is named; what is left of a stopped command is no index, and is made again"
    index_table(ours, tmp_path/'i', kind='ivf')
    names = sorted(p.name for p in (tmp_path/'i').iterdir())
    assert set(names) == {'manifest.json','neighbours.json','objects.parquet','space.safetensors','rows.npy','order.npy','known.npy','cells.faiss'}
    for name in names:
        for how in ('flip','gone'):
            bad = shutil.copytree(tmp_path/'i', tmp_path/f'{how}-{name}')
            raw = bytearray((bad/name).read_bytes())
            raw[len(raw)//2] ^= 255
            (bad/name).write_bytes(raw) if how == 'flip' else (bad/name).unlink()
            with pytest.raises(DataError, match=str(bad)): open_index(bad)
    left = tmp_path/'gone-manifest.json'
    index_table(ours, left)
    assert open_index(left).neighbours.kind == 'exact'
    with pytest.raises(InputError, match='exists'): index_table(ours, left)
    index_table(ours, left, overwrite=True)

@pytest.mark.parametrize('end', ['parquet','fits'])
def test_damaged_tables(columns, tmp_path, end):
    "Cut short, or overwritten in the middle: a sentence with the file's name, or the columns that are left are good"
    Table(columns).write(tmp_path/f't.{end}')
    raw = (tmp_path/f't.{end}').read_bytes()
    for i,bad in enumerate((raw[:len(raw)//2], raw[:len(raw)//2] + bytes(4000) + raw[len(raw)//2+4000:], raw[:4])):
        path = tmp_path/f'bad{i}.{end}'
        path.write_bytes(bad)
        try: index_table(path, tmp_path/f'i{i}')
        except InputError as e: assert path.name in str(e)
        else: assert i == 1

def test_duplicate_ids(columns, tmp_path):
    t = columns | dict(id=np.where(np.arange(500) == 3, columns['id'][2], columns['id']))
    write_table(tmp_path/'t.parquet', arrow_table(t).schema, [t], {})
    with pytest.raises(InputError, match=f'such as {columns["id"][2]}: give each object an id'): index_table(tmp_path/'t.parquet', tmp_path/'i')

def test_verb(ours, tmp_path):
    def call(*args): return CliRunner().invoke(main, ['index', *map(str, args)])
    said = call(ours, '--out', tmp_path/'i', '--space', 'partly', '--kind', 'ivf')
    assert said.exit_code == 0 and '500 objects (1 without an embedding), kind ivf' in said.output, said.output
    assert open_index(tmp_path/'i').space.kind == 'partly'
    for args in ((ours, '--out', tmp_path/'i'), (tmp_path/'none.parquet', '--out', tmp_path/'x'), (ours, '--out', tmp_path/'x', '--column', 'z')):
        said = call(*args)
        assert said.exit_code == 2 and said.stderr.startswith('astromask: ') and len(said.stderr.splitlines()) == 1, said.stderr
