"Neighbours against brute force in double precision, and what is kept on disk"
import logging, shutil
import numpy as np
import pytest
from astromask.core import DataError, InputError, log
from astromask.discover import neighbours
from astromask.discover.neighbours import Neighbours

faiss = pytest.importorskip('faiss')

def unit(x): return (x/np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

@pytest.fixture(scope='module')
def x():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(30,24))
    x = unit(centres[rng.integers(0, 30, 3000)] + .5*rng.normal(size=(3000,24)))
    x[[5,77]] = np.nan
    x[9] = 0
    return x

def brute(x, q, k, keep=None):
    "Best first: by scores as they are in float64"
    s = q.astype(float) @ np.nan_to_num(x).astype(float).T
    s[:,~np.isfinite(x).all(1) | ~x.any(1)] = -np.inf
    if keep is not None: s[:,~keep] = -np.inf
    rows = np.argsort(-s, axis=1, kind='stable')[:,:k]
    return np.take_along_axis(s, rows, 1),rows

@pytest.mark.parametrize('kind', ['exact','ivf','coarse'])
def test_equals_brute_force(x, kind):
    nb = Neighbours.build(x, kind)
    q = unit(np.nan_to_num(x[:40]) + .01)
    true,rows = brute(x, q, 12)
    scores,found = nb.search(q, 12)
    if kind == 'exact': np.testing.assert_array_equal(found, rows)
    assert (found[:,:,None] == rows[:,None]).any(1).mean() > .95
    np.testing.assert_allclose(scores[found == rows], true[found == rows], atol=1e-6)
    assert (np.diff(scores.astype(float)) <= 0).all()

def test_faiss_exact_is_ours(x):
    good = np.nan_to_num(x)
    q = good[100:160]
    flat = faiss.IndexFlatIP(x.shape[1])
    flat.add(good)
    np.testing.assert_array_equal(flat.search(q, 20)[1], Neighbours.build(x).search(q, 20)[1])

@pytest.mark.parametrize('block', [7,256])
def test_many_blocks_and_many_queries(x, block, monkeypatch):
    "What is compared at once makes no difference"
    whole = Neighbours.build(x).search(x[10:60], 9)
    cut = neighbours.blocks_of
    monkeypatch.setattr(neighbours, 'blocks_of', lambda x, rows=1<<14: cut(x, min(rows, block)))
    again = Neighbours.build(x).search(x[10:60], 9)
    np.testing.assert_array_equal(again[1], whole[1])
    np.testing.assert_array_equal(again[0], whole[0])
    np.testing.assert_array_equal(Neighbours.build(x).search(x[13], 9)[1][0], whole[1][3])

@pytest.mark.parametrize('kind', ['exact','ivf'])
def test_order_of_the_file(x, kind):
    "Rows in another order, with the same names, are the same index"
    shuffle = np.random.default_rng(2).permutation(len(x))
    ids = np.arange(len(x))
    twice,names = np.concatenate([x,x[:50]]),np.arange(len(x)+50)          # fifty rows are there twice
    shuffle = np.random.default_rng(2).permutation(len(names))
    one = Neighbours.build(twice, kind, order=names)
    other = Neighbours.build(twice[shuffle], kind, order=names[shuffle])
    q = x[20:60]
    np.testing.assert_array_equal(shuffle[other.search(q, 8)[1]], one.search(q, 8)[1])

def test_ties_go_by_order(x):
    many = np.repeat(x[:3], 50, axis=0)
    order = np.random.default_rng(0).permutation(150)
    rows = Neighbours.build(many, order=order).search(x[1], 50)[1][0]
    assert set(rows) == set(range(50,100)) and (np.diff(order[rows]) > 0).all()

@pytest.mark.parametrize('kind', ['exact','ivf','coarse'])
def test_rows_without_direction(x, kind):
    nb = Neighbours.build(x[:400], kind)
    scores,rows = nb.search(x[0], 410)
    assert set(rows[0]) == {-1,*range(400)} - {5,9,77}
    assert (rows[0] == -1).sum() == 13 and np.isneginf(scores[rows == -1]).all()
    assert not {5,9,77} & set(nb.graph(1)['id'])
    with pytest.raises(InputError, match='all of them are NaN or zero'): Neighbours.build(x[[5,77,9]], kind)

@pytest.mark.parametrize('kind', ['exact','ivf','coarse'])
@pytest.mark.parametrize('share', [.001,.05,.6])
def test_keep(x, kind, share):
    keep = np.random.default_rng(3).random(len(x)) < share
    q = x[200:230]
    scores,rows = Neighbours.build(x, kind).search(q, 10, keep)
    true = brute(x, q, 10, keep)[1]
    there = min(10, keep.sum())
    assert keep[rows[rows >= 0]].all() and (rows >= 0).sum(1).tolist() == [there]*30
    assert (rows[:,:there] == true[:,:there]).mean() > .95
    assert (Neighbours.build(x, kind).search(q, 3, np.zeros(len(x), bool))[1] == -1).all()

def test_a_query_is_not_helped_by_others():
    "Where cells hold too few, that query looks on; the others, and so the recall that is told, are as they are alone"
    rng = np.random.default_rng(6)
    lonely = rng.normal(size=(300,24))
    x = unit(np.concatenate([lonely[:3].repeat(900, axis=0) + .2*rng.normal(size=(2700,24)), lonely]))
    nb = Neighbours.build(x, 'ivf')
    nb.facts['probe'] = 1
    calls = []
    search = nb.cells.search
    nb.cells.search = lambda q, *a, **k: calls.append(len(q)) or search(q, *a, **k)
    q = x[2600:2800]
    together = nb._probed(q, 9, nb.known)
    assert 0 < calls[1] < len(q) == calls[0] and min(map(len, together)) >= 9
    for a,o in zip(together, q): np.testing.assert_array_equal(a, nb._probed(o[None], 9, nb.known)[0])

def test_same_seed_same_index(x):
    one,other,third = (Neighbours.build(x, 'ivf', seed=s) for s in (0,0,1))
    def centres(nb): return nb.cells.quantizer.reconstruct_n(0, nb.cells.nlist)
    np.testing.assert_array_equal(centres(one), centres(other))
    assert (centres(one) != centres(third)).any()

def test_recall_is_told(x, caplog):
    log.propagate,before = True,log.propagate
    with caplog.at_level(logging.INFO, 'astromask'): nb = Neighbours.build(x, 'ivf')
    log.propagate = before
    assert f'finds {nb.facts["recall"]:.1%} of the ten nearest' in caplog.text
    q = x[1000:1100]
    cells = nb.cells
    assert nb.facts['recall'] > .9
    cells.nprobe = nb.facts['probe']
    found = cells.search(q, 76)[1]
    recall = (brute(x, q, 11)[1][:,:,None] == found[:,None]).any(2).mean()
    assert abs(recall - nb.facts['recall']) < .05

@pytest.mark.parametrize('kind', ['exact','ivf','coarse'])
def test_saved_and_opened(x, kind, tmp_path):
    nb = Neighbours.build((b for b in np.array_split(x, 11)), kind, order=np.arange(3000)[::-1], n=3000, folder=tmp_path/'index')
    nb.save(tmp_path/'index')
    nb.save(tmp_path/'copy')
    whole = Neighbours.build(x, kind, order=np.arange(3000)[::-1])
    for folder in ('index','copy'):
        again = Neighbours.load(tmp_path/folder)
        for a,b in zip(again.search(x[30:50], 6), whole.search(x[30:50], 6)): np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match='not the 2999 rows'):
        Neighbours.build(iter([x]), kind, n=2999, folder=tmp_path/'short')

def test_damage_is_one_sentence(x, tmp_path):
    Neighbours.build(x, 'ivf').save(tmp_path/'good')
    for name in sorted(p.name for p in (tmp_path/'good').iterdir()):
        bad = tmp_path/f'bad-{name}'
        for how in ('flip','cut','gone'):
            shutil.copytree(tmp_path/'good', bad, dirs_exist_ok=True)
            raw = bytearray((bad/name).read_bytes())
            if how == 'flip': raw[len(raw)//2] ^= 64
            if how == 'cut': raw = raw[:len(raw)//2]
            if how == 'gone': (bad/name).unlink()
            else: (bad/name).write_bytes(raw)
            try: Neighbours.load(bad)
            except InputError as e: assert str(bad) in str(e), (name,how,e)
            else: assert name == 'neighbours.json' and how == 'flip', (name,how)

def test_long_tables_check_rows_as_they_are_found(x, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, 'EXACT', 1000)
    nb = Neighbours.build(iter([x]), n=3000, folder=tmp_path)
    assert nb.kind == 'ivf' and nb.x.dtype == np.float16
    nb.save(tmp_path)
    again = Neighbours.load(tmp_path)
    near = again.search(x[40], 5)[1][0]
    np.testing.assert_array_equal(near, nb.search(x[40], 5)[1][0])
    raw = bytearray((tmp_path/'rows.npy').read_bytes())
    raw[again.x.offset + near[2]*48] ^= 1
    (tmp_path/'rows.npy').write_bytes(raw)
    again = Neighbours.load(tmp_path)
    with pytest.raises(DataError, match=f'damaged at row {near[2]}'): again.search(x[40], 5)

def test_graph(x):
    x = x[:400]
    g = Neighbours.build(x).graph(4, ids=[f'g{i}' for i in range(400)])
    s,rows = brute(x, np.nan_to_num(x), 6)
    for i in (0,1,398):
        mine = g[g['id'] == f'g{i}']
        assert list(mine['rank']) == [1,2,3,4]
        assert list(mine['neighbour']) == [f'g{j}' for j in rows[i] if j != i][:4]
    assert len(g) == 4*397
    same = Neighbours.build(np.repeat(x[:1], 9, axis=0)).graph(2)           # a row need not be among its own nearest
    assert len(same) == 18 and (same['id'] != same['neighbour']).all() and list(same['rank']) == [1,2]*9
    few = Neighbours.build(x[:5]).graph(10)
    assert len(few) == 20 and (few['id'] != few['neighbour']).all()

@pytest.mark.parametrize('n', [1,3,20])
def test_few_rows(x, n):
    for kind in ('exact','ivf','coarse'): assert Neighbours.build(x[:n], kind).search(x[0], 2)[1][0,0] == 0

def test_bad_queries(x):
    nb = Neighbours.build(x)
    for q,k,keep,says in ((x[5],3,None,'finite directions of 24 numbers'), (x[0,:5],3,None,'do not fit'),
                          (x[0],0,None,'k is 0'), (x[0],3,[True],'a truth value for each of 3000')):
        with pytest.raises(InputError, match=says): nb.search(q, k, keep)
    with pytest.raises(InputError, match='no index of the kind'): Neighbours.build(x, 'hnsw')

def test_without_faiss(x, monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'faiss', None)
    assert Neighbours.build(x).search(x[0], 1)[1][0,0] == 0
    with pytest.raises(InputError, match=r"pip install 'astromask\[search\]'"): Neighbours.build(x, 'ivf')
