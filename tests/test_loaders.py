"Batches: their order, their coverage, and what the file's kind must not change"
from pathlib import Path
import numpy as np, pytest, torch
from astromask.core import DataError, InputError, shuffled
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import CutoutLoader, Pixels, cutout_dls, fit_size
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
def test_start_skips_batches(cutouts, start, workers):
    dl = CutoutLoader(cutouts, 32, shuffle=True, start=start, num_workers=workers)
    got = [r for _,r in dl]
    want = shuffled(np.arange(503), 0, 0)[start*32:]
    assert len(got) == 16-start
    np.testing.assert_array_equal(np.concatenate([r.numpy() for r in got]) if got else np.zeros(0), want)

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
    kept = Pixels(c, 16, memory=63*2*16*16*8, ivar=True).kept_ivar                  # pixels and inverse variances count
    assert kept.shape == (63,2,16,16) and Pixels(c, 16, memory=63*2*16*16*8-1, ivar=True).kept_ivar is None

@needs_real
def test_real_galaxies():
    dls = cutout_dls(Cutouts.open(real/'gz2_*.h5'), 64, bs=128, device='cpu')
    x,rows = dls.one_batch()
    assert x.shape == (128,3,64,64) and 0 <= x.min() and x.max() <= 255
    raw = Cutouts.open(real/'gz2_*.h5')[rows.numpy()]
    np.testing.assert_array_equal(x.numpy(), raw[:,:,2:66,2:66])
