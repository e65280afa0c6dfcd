"Batches: their order, their coverage, and what the file's kind must not change"
import gc, hashlib, subprocess, sys, threading
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from astromask.core import DataError, InputError, shuffled
from astromask.data.cutouts import Cutouts
from astromask.data import loaders
from astromask.data.loaders import CutoutLoader, Pixels, Windows, ahead, block_edges, cutout_dls, fit_size, free_memory, set_shards
from astromask.data.splits import split_rows

real = Path(__file__).parents[1].parent/'shared'/'data'
needs_real = pytest.mark.skipif(not (real/'gz2_train.h5').exists(), reason=f'the real data of {real} are not here')

@pytest.fixture(scope='module')
def cutouts(tmp_path_factory):
    folder,files = tmp_path_factory.mktemp('loaders'),[]
    for k,n in enumerate((300,203)):
        images = np.random.default_rng(k).normal(size=(n,2,20,24)).astype(np.float16)
        images[:,:,0] = np.nan
        files.append(Cutouts.write(folder/f'{k}.h5', images, bands='gr', dtype='float16'))
    return Cutouts.open(files)

@pytest.mark.parametrize('memory', (0, 1<<30))
@pytest.mark.parametrize('workers', (0, 1, 2, 3))
def test_every_object_once_in_the_stated_order(cutouts, memory, workers):
    dl = CutoutLoader(Pixels(cutouts, memory=memory), 32, shuffle=True, seed=7, epoch=3, num_workers=workers)
    batches = list(dl)
    rows = torch.cat([r for _,r in batches]).numpy()
    np.testing.assert_array_equal(rows, shuffled(np.arange(503), 7, 3))
    np.testing.assert_array_equal(torch.cat([x for x,_ in batches]).numpy(), cutouts[rows])
    assert len(batches) == len(dl) == 16 and dl.epoch == 4

@pytest.mark.parametrize('workers', (0, 2))
@pytest.mark.parametrize('start', (0, 1, 15, 16))
@pytest.mark.parametrize('window', (1, 30_000, 1<<28))
def test_start_skips_batches(cutouts, start, workers, window):
    def dl(start): return CutoutLoader(Pixels(cutouts, memory=0, window=window), 32, shuffle=True, start=start, num_workers=workers)
    got,whole = list(dl(start)),list(dl(0))
    assert len(got) == 16-start
    for (x,r),(x0,r0) in zip(got, whole[start:], strict=True): assert torch.equal(r, r0) and torch.equal(x.nan_to_num(), x0.nan_to_num())

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 200), st.booleans(), st.booleans(), st.integers(0, 2), st.sampled_from((1, 5_000, 60_000, 1<<28)),
       st.integers(0, 3), st.data())
def test_ranks_share_an_epoch(cutouts, world, bs, shuffle, drop_last, workers, window, epoch, data):
    "Whatever the ranks, threads and windows: every object once, and together the batches that one rank would have"
    rows = np.array(data.draw(st.lists(st.integers(0, 502), min_size=1, unique=True)))
    p = Pixels(cutouts, memory=data.draw(st.sampled_from((0, 1<<30))), window=window)
    def batches(bs, **at): return list(CutoutLoader(p, bs, rows, shuffle, 3, epoch, drop_last=drop_last, num_workers=workers, **at))
    dls = [CutoutLoader(p, bs, rows, shuffle, 3, epoch, drop_last=drop_last, num_workers=workers, rank=k, world=world) for k in range(world)]
    ranks,alone = [list(dl) for dl in dls],batches(bs*world)
    assert [len(r) for r in ranks] == [len(dl) for dl in dls]
    seen = np.concatenate([b[1].numpy() for r in ranks for b in r] or [np.zeros(0, int)])
    assert np.unique(seen).size == len(seen) == (len(rows)//(bs*world)*bs*world if drop_last else len(rows))
    for k,(_,want) in enumerate(alone):
        got = torch.cat([r[k][1] for r in ranks if k < len(r)])
        assert torch.equal(got, want) if len(want) == bs*world else set(got.tolist()) == set(want.tolist())
    for r in ranks:
        for x,i in r: np.testing.assert_array_equal(x.numpy(), cutouts[i.numpy()])

@pytest.mark.parametrize('memory', (0, None))
def test_rows_may_be_given_in_any_way(cutouts, memory):
    "Masks, repeated and negative rows, slices; what names no row is refused"
    p = Pixels(cutouts, memory=memory)
    for rows in (np.arange(503) >= 480, [3,3,4,3], [-1,3], slice(5, 20), []):
        want = np.arange(503)[rows if len(np.shape(rows)) != 1 or len(rows) else []] if not isinstance(rows, list) or rows else np.zeros(0, int)
        for shuffle in (False, True):
            got = list(CutoutLoader(p, 7, rows, shuffle))
            seen = np.concatenate([r.numpy() for _,r in got]) if got else np.zeros(0, int)
            np.testing.assert_array_equal(np.sort(seen) if shuffle else seen, np.sort(want) if shuffle else want)
            for x,r in got: np.testing.assert_array_equal(x.numpy(), cutouts[r.numpy()])
    for bad in ([503], [1.5], 'abc', np.ones(7, bool)):
        with pytest.raises(InputError, match='rows='): CutoutLoader(p, 7, bad)
    with pytest.raises(InputError, match='one object'): CutoutLoader(p, 0)
    with pytest.raises(InputError, match='number of pixels'): Pixels(cutouts, 'a')
    with pytest.raises(InputError, match='valid='): cutout_dls(cutouts, valid=np.ones(7, bool), device='cpu')

def test_windows_hold_whole_blocks_and_mix_files(cutouts):
    "Every block in one window; windows of about the size; all files among them; epochs differ"
    assert block_edges(cutouts, 20_000).tolist() == [0,300,503]                     # whole chunks, of 1 MiB as we write them
    edges = np.array([*range(0, 300, 10), *range(300, 503, 10), 503])
    windows = Windows(np.arange(503), edges, 60, 1, 0)
    order,number = np.concatenate(list(windows)),np.repeat(np.arange(len(windows)), np.diff(windows.ends, prepend=0))
    assert sorted(order) == list(range(503)) and [len(w) for w in windows] == np.diff(windows.ends, prepend=0).tolist()
    where = np.empty(503, int)
    where[order] = number
    for a,b in zip(edges, edges[1:]): assert len(set(where[a:b])) == 1
    assert np.bincount(number).max() <= 60+np.diff(edges).max()
    assert {bool((order[number == k] < 300).any() and (order[number == k] >= 300).any()) for k in range(5)} == {True}
    again,later = (np.concatenate(list(Windows(np.arange(503), edges, 60, 1, epoch))) for epoch in (0,1))
    assert (again == order).all() and (later != order).any()

def test_the_order_is_that_of_earlier_versions():
    "Digests of the orders of ff1c54a"
    for n,window,epoch,digest in ((1000,250,0,'43147ac9e4012755'), (20000,3000,2,'a8e330c4df1670ad'), (503,7,1,'d51d0bc4e0478a6e')):
        rows,edges = np.sort(np.random.default_rng(n).choice(2*n, n, replace=False)),np.append(np.arange(0, 2*n, 25), 2*n)
        order = np.concatenate(list(Windows(rows, edges, window, 3, epoch)))
        assert hashlib.blake2b(order.tobytes(), digest_size=8).hexdigest() == digest

class Reads:
    "`Cutouts`, and which rows were read of them"
    def __init__(self, cutouts): self.cutouts,self.rows = cutouts,[]
    def __getattr__(self, k): return getattr(self.cutouts, k)
    def __len__(self): return len(self.cutouts)
    def read(self, rows, **kw):
        self.rows.append(np.atleast_1d(rows))
        return self.cutouts.read(rows, **kw)

@pytest.mark.parametrize('resident', (False, True))
def test_ranks_read_their_own_blocks(cutouts, resident):
    "Four ranks: each row once, by one of them; a block by one rank, but for those that shards cut; batches of one rank"
    rows,shards = np.arange(3, 503),8
    def loader(p, rank, world, **kw): return CutoutLoader(p, 32//world, rows, True, 5, 2, rank=rank, world=world, drop_last=True, shards=shards, **kw)
    def pixels(c):
        p = Pixels(c, memory=0, window=40*20*24*2*2)                               # 40 rows
        p.edges = np.append(np.arange(0, 503, 10), 503)
        return p
    alone = [np.sort(r.numpy()) for _,r in loader(pixels(cutouts), 0, 1)]
    counts,got = [],[]
    for k in range(4):
        c = Reads(cutouts)
        dl = loader(pixels(c), k, 4)
        if resident:
            dl.dataset.memory = 1<<30
            dl.dataset.settle(dl.own_rows())
            assert len(dl.dataset.kept[0]) == 125
        batches = list(dl)
        for x,r in batches: np.testing.assert_array_equal(x.numpy(), cutouts[r.numpy()])
        assert {len(r) for _,r in batches} == {8} and len(batches) == len(dl) == 15
        got.append([r.numpy() for _,r in batches])
        counts.append(np.bincount(np.concatenate(c.rows), minlength=503))
        assert counts[-1].max() == 1                                              # within a rank, nothing is read twice
    for k,want in enumerate(alone): np.testing.assert_array_equal(np.sort(np.concatenate([g[k] for g in got])), want)
    seen = np.concatenate(sum(got, []))
    assert len(seen) == len(set(seen)) == 480 and np.sum(counts) <= 503+3*10 and set(seen) <= set(rows)
    where = np.array([[(n[a:a+10] > 0).any() for a in range(0, 503, 10)] for n in counts])
    assert (where.sum(0) > 1).sum() <= 3                                          # borders between four ranks
    part = np.array([[np.isin(g, rows[n*62+n//2:(n+1)*62+(n+1)//2]).sum() for n in range(8)] for g in alone])
    assert (part == 4).all()                                                      # of each shard equally many

def test_sixty_four_ranks_share_a_set(tmp_path):
    "Every row once but for what fills no batch; equally many each; the blocks of all ranks together at most 1.05 times the set"
    sys.path.insert(0, str(Path(__file__).parents[1]/'tools'))
    from growth import opened, virtual
    n,ranks = 100_003,64
    p = Pixels(opened(virtual(tmp_path/'set.h5', n)), memory=0)
    block = np.searchsorted(p.edges, np.arange(n), side='right')
    taken,blocks = [],0
    for k in range(ranks):
        dl = CutoutLoader(p, 16, None, True, 0, 3, rank=k, world=ranks, drop_last=True, shards=ranks)
        (rows,size),= dl.get_idxs()
        taken.append(np.concatenate(list(rows))[:len(dl)*size])
        blocks += len(np.unique(block[taken[-1]]))
    all_rows = np.concatenate(taken)
    assert len(np.unique(all_rows)) == len(all_rows) == n//(16*ranks)*16*ranks
    assert len({len(t) for t in taken}) == 1 and blocks <= 1.05*len(p.edges)

def test_a_run_keeps_its_shards(cutouts, monkeypatch):
    "Two ranks of a set of many windows: own rows are kept; what was begun without shards goes on without"
    monkeypatch.setattr(loaders, 'fit_shards', lambda *a: 4)
    for k,v in dict(WORLD_SIZE='2', RANK='1').items(): monkeypatch.setenv(k, v)
    dls = cutout_dls(cutouts, bs=16, valid=.1, device='cpu')
    p,half = dls.train.dataset,len(dls.train.rows)//2
    valid = np.concatenate([r for _,r in dls.valid])
    assert dls.train.shards == 4 and len(p.kept[0]) in range(half+len(valid), half+len(valid)+2) and np.isin(valid, p.rows).all()
    seen = np.concatenate([r for _,r in dls.train])
    assert seen.min() >= dls.train.rows[half] and np.isin(seen, dls.train.rows).all()
    x = p[np.array([0,502])]
    np.testing.assert_array_equal(x.numpy(), cutouts[[0,502]])                    # the first is another rank's, and read
    set_shards(dls, 1)
    assert len(p.kept[0]) == 503
    again = np.concatenate([r for _,r in dls.train])
    np.testing.assert_array_equal(again[:8], shuffled(dls.train.rows, 0, 1)[8:16])
    with pytest.raises(InputError, match='multiple of 5'): set_shards(dls, 5)

def test_what_is_made_ahead_may_be_left():
    "The thread ends with who uses it, and hands on what goes wrong"
    def numbers():
        for k in range(10):
            if k == 7: raise DataError('the seventh')
            yield k
    before = threading.active_count()
    for k in ahead(numbers()):
        if k == 3: break
    gc.collect()
    assert threading.active_count() == before
    with pytest.raises(DataError, match='the seventh'): list(ahead(numbers()))
    assert threading.active_count() == before

def test_damage_is_told_and_nothing_hangs(tmp_path):
    "A file that breaks in the middle of an epoch: our error from the thread, and the threads are gone"
    x = np.random.default_rng(0).normal(size=(3000,2,32,32)).astype('f4')
    path = Cutouts.write(tmp_path/'a.h5', x, bands='gr')
    dl = CutoutLoader(Pixels(Cutouts.open(path), memory=0, window=1<<18), 16, shuffle=True, num_workers=2)
    before = threading.active_count()
    with pytest.raises(DataError, match=str(path)):
        for k,_ in enumerate(dl):
            if k == 1:
                with open(path, 'r+b') as f: f.truncate(100_000)
    assert threading.active_count() == before

def test_an_epoch_may_be_left(cutouts):
    "one_batch, break, and two passes at once"
    dl = CutoutLoader(Pixels(cutouts, memory=0, window=30_000), 32, shuffle=True)
    before = threading.active_count()
    for _ in range(3): first = dl.one_batch()
    for b in dl: break
    del b
    gc.collect()
    assert threading.active_count() == before and dl.epoch == 0
    for (x,r),(x2,r2) in zip(dl, dl): assert torch.equal(r, r2) and torch.equal(x.nan_to_num(), x2.nan_to_num())
    assert dl.waited > 0 and torch.equal(first[1], next(iter(CutoutLoader(dl.dataset, 32, shuffle=True)))[1])

@pytest.mark.parametrize('dtype', ('u1','i2','>i2','u2','>f4','f8','f2'))
def test_stored_types(tmp_path, dtype):
    "Any type comes as float32 with the values of the file, from the file and resident"
    x = np.random.default_rng(0).integers(0, 120, (40,1,12,10)).astype(dtype)
    np.save(tmp_path/'a.npy', x)
    c = Cutouts.open(tmp_path/'a.npy', bands='r')
    for memory in (0, None):
        p = Pixels(c, (16,8), memory)
        for got,rows in CutoutLoader(p, 16, shuffle=True):
            assert got.dtype == torch.float32
            np.testing.assert_array_equal(got.numpy(), fit_size(c[rows.numpy()], (16,8)))
    assert p.nbytes == 40*12*8*(1 if dtype == 'u1' else 2 if dtype in ('i2','>i2','f2') else 4)

def test_free_memory_knows_the_jobs_limit(tmp_path, monkeypatch):
    "SLURM and containers limit memory by control groups, old and new; ranks of a machine share it"
    for name,files in (('new',('memory.max','memory.current')), ('old',('memory.limit_in_bytes','memory.usage_in_bytes'))):
        job = tmp_path/name/'job'/'step'
        job.mkdir(parents=True)
        for f,v in zip(files, (1<<20, 1<<18)): (tmp_path/name/'job'/f).write_text(str(v))
        (job/files[0]).write_text('max')
    monkeypatch.setattr(loaders, 'GROUPS', {'': (str(tmp_path/'new'),'memory.max','memory.current'),
                                            'memory': (str(tmp_path/'old'),'memory.limit_in_bytes','memory.usage_in_bytes')})
    for line in ('0::/job/step', '3:cpu:/x\n7:memory:/job/step'):
        (tmp_path/'cgroup').write_text(line+'\n')
        assert free_memory(tmp_path/'cgroup') == (1<<20)-(1<<18)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    assert free_memory(tmp_path/'cgroup') == ((1<<20)-(1<<18))//4
    (tmp_path/'cgroup').write_text('0::/\n')
    assert free_memory(tmp_path/'cgroup') > 1<<20

def test_sizes(cutouts):
    x = cutouts[:3]
    np.testing.assert_array_equal(fit_size(fit_size(x, (31,40)), (20,24)), x)
    for size in (16, (20,16), (32,8), 64, (1,1)):
        for memory in (0, 1<<30):
            got = Pixels(cutouts, size, memory)[np.arange(3)]
            np.testing.assert_array_equal(got.numpy(), fit_size(x, size))
            assert got.dtype == torch.float32 and got.is_contiguous()
    with pytest.raises(InputError, match='positive'): fit_size(x, 0)

def test_dls(cutouts):
    dls = cutout_dls(cutouts, 16, bs=64, valid=0.1, seed=1, device='cpu')
    train,valid,_ = split_rows(cutouts, 0.1, seed=1)
    np.testing.assert_array_equal(dls.train.rows, train)
    np.testing.assert_array_equal(torch.cat([r for _,r in dls.valid]).numpy(), valid)
    assert {len(r) for _,r in dls.train} == {64}
    small = cutout_dls(cutouts, 16, bs=1024, valid=[5,3], device='cpu')
    assert [len(r) for _,r in small.train] == [501] and small.valid.rows.tolist() == [3,5]
    three = cutout_dls(cutouts, 16, bs=64, split=(np.arange(400), [400,410], np.arange(411, 503)), device='cpu')
    assert three.train.rows.tolist() == list(range(400)) and three.valid.rows.tolist() == [400,410]
    for split,says in ((([0,1],[1,2]), 'train and validate'), (([0,600],[1]), 'between 0 and 502')):
        with pytest.raises(InputError, match=says): cutout_dls(cutouts, split=split)
    again = dls.train.new(num_workers=0)
    np.testing.assert_array_equal(again.rows, train)
    with pytest.raises(DataError, match='cannot be split'): cutout_dls(Cutouts.open(cutouts.files[0]), valid=0.9999)

@pytest.mark.parametrize('size', (16, (20,16), 32))
def test_inverse_variances_come_along(tmp_path, size):
    rng,files = np.random.default_rng(0),[]
    for k,n in enumerate((40,23)):
        x,w = rng.normal(size=(n,3,20,24)).astype('f4'), rng.uniform(1, 2, (n,3,20,24)).astype('f4')
        x[2],w[5,1] = np.nan,0
        files.append(Cutouts.write(tmp_path/f'{k}.h5', x, bands='gri', ivar=w))
    c = Cutouts.open(files, bands='ig')
    for memory,workers in ((0,0), (0,2), (1<<30,0)):
        dl = CutoutLoader(Pixels(c, size, memory, ivar=True), 16, shuffle=True, seed=1, num_workers=workers)
        for x,ivar,rows in dl:
            np.testing.assert_array_equal(x.numpy(), fit_size(c[rows.numpy()], size))
            np.testing.assert_array_equal(ivar.numpy(), fit_size(c.ivar(rows.numpy()), size, 0))
            assert ((ivar > 0) == x.isfinite()).all() and ivar.dtype == torch.float32
    kept = Pixels(c, 16, memory=63*2*16*16*8, ivar=True).kept                       # pixels and inverse variances count
    assert [o.shape for o in kept] == 2*[(63,2,16,16)] and Pixels(c, 16, memory=63*2*16*16*8-1, ivar=True).kept is None

@needs_real
def test_real_galaxies():
    dls = cutout_dls(Cutouts.open(real/'gz2_*.h5'), 64, bs=128, device='cpu')
    x,rows = dls.one_batch()
    assert x.shape == (128,3,64,64) and 0 <= x.min() and x.max() <= 255
    raw = Cutouts.open(real/'gz2_*.h5')[rows.numpy()]
    np.testing.assert_array_equal(x.numpy(), raw[:,:,2:66,2:66])

MEMORY = '''
import resource, sys
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import CutoutLoader, Pixels
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
c = Cutouts.open(sys.argv[1])
for x,_ in CutoutLoader(Pixels(c.select('g'), memory=0, window=1<<20), 64): pass     # what a loader needs for itself
before = peak()
dl = CutoutLoader(Pixels(c, memory=0, window=8<<20), 64, shuffle=True)
for _ in range(2):
    for x,_ in dl: pass
print(peak()-before)
'''

def test_memory_is_two_windows(tmp_path):
    "A set of 160 MiB through windows of 8 MiB: some tens of MiB, in two epochs"
    x = np.random.default_rng(0).normal(size=(256,5,64,64)).astype('f2')
    path = Cutouts.write(tmp_path/'a.h5', (x for _ in range(16)), bands='ugriz', dtype='float16')
    done = subprocess.run([sys.executable, '-c', MEMORY, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 110, done.stdout
