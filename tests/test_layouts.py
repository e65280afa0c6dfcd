"Every layout of notes/formats.md, from files made in exactly that structure; hostile and damaged files; very many rows and files"
import os, subprocess, sys, time, zipfile
from pathlib import Path
import h5py, numpy as np, pytest, torch
from astropy.io import fits
from torch.utils.data import TensorDataset
from astromask.core import AstroMaskError, DataError, InputError
from astromask.data.cutouts import Cutouts, class_labels, redshifts
from astromask.data.inspect import inspect_cutouts

real = Path(__file__).parents[1].parent/'shared'/'data'

def h5(path, attrs={}, **datasets):
    "An HDF5 file of these datasets; a str column is stored as h5py does by default"
    with h5py.File(path, 'w') as f:
        for k,v in datasets.items(): f[k] = v
        f.attrs.update(attrs)
    return path

def pixels(*shape, dtype='f4', seed=0):
    "Numbers that tell every pixel from every other"
    x = np.random.default_rng(seed).normal(size=shape)
    return (x*60).astype(dtype) if np.dtype(dtype).kind in 'iu' else x.astype(dtype)

def first(x): return np.moveaxis(x, -1, 1)

def galaxy10(path, size, n=5, **more):
    x = np.random.default_rng(size).integers(0, 256, (n,size,size,3), np.uint8)
    return h5(path, images=x, ans=np.arange(n) % 10, ra=np.arange(n)*10., dec=np.arange(n)-2., redshift=np.r_[.1,np.nan,np.arange(n-2)], **more),first(x)

# each makes its file(s) and gives: what to open, how, the pixels (N,C,H,W), bands, layout

def astromask(d):
    x = pixels(6,5,16,16, dtype='f2')
    return h5(d/'a', dict(format='astromask-1', bands=list('ugriz'), survey='sdss', unit='nanomaggies'), cutouts=x, id=list('abcdef')),{},x,'ugriz','astromask'

def foreign(d):
    x = pixels(6,3,16,16, dtype='>f8')
    return h5(d/'a', dict(bands=np.array([b'g',b'r',b'i'])), cutouts=x),{},x,'gri','astromask'

def decals(d):
    p,x = galaxy10(d/'a', 256, pxscale=np.full(5, 0.262))
    return p,{},x,'zrg','Galaxy10 DECaLS'

def sdss10(d):
    p,x = galaxy10(d/'a', 69)
    return p,{},x,'irg','Galaxy10 SDSS'

def hsc(d):
    x = pixels(6,5,64,64)
    x[2,4] = np.nan
    z = np.array([.1,np.nan,.3,.4,.5,.6], 'f4')
    return h5(d/'a', cutouts=x, ra=np.arange(6, dtype='f4'), dec=np.zeros(6, 'f4'), zspec=z, zspec_err=z/10),dict(survey='hsc'),x,'giryz','cutouts without band names'

def unions(d):
    x = pixels(9,40,40,5)
    for i in range(3): h5(d/f'cutout.stacks.ugriz.lsb.200x200.{8+i}.10000.h5', images=x[3*i:3*i+3])
    return d,dict(survey='unions'),first(x),'ugriz','images without band names'

def unions_first(d):
    x = pixels(6,5,40,40)
    return h5(d/'a.h5', images=x),dict(bands='ugriz'),x,'ugriz','images without band names'

def unions_new(d):
    x = pixels(6,5,40,40)
    return h5(d/'a.h5', cutouts=x, ra=np.zeros(6), dec=np.zeros(6), zspec=np.zeros(6), is_dwarf=np.arange(6) % 2),dict(survey='unions'),x,'ugriz','cutouts without band names'

def legacy(d):
    x = pixels(6,3,152,152)
    return h5(d/'a', images=x, ra=np.zeros(6), dec=np.zeros(6), flux=pixels(6,5), inds=np.arange(6), source_type=[b'DEV']*6, ebv=np.zeros(6)),{},x,'grz','Legacy Survey'

def universe(d):
    x,w = pixels(6,4,16,16),np.ones((6,4,16,16), 'f4')
    w[1,2,3:5],w[4,0] = 0,0
    bands = np.array([[f'des-{b}'.encode() for b in 'griz']]*6)
    for i in range(2):
        (d/f'healpix={100+i}').mkdir()
        s = slice(3*i, 3*i+3)
        h5(d/f'healpix={100+i}'/'001-of-001.hdf5', image_array=x[s], image_ivar=w[s], image_mask=np.ones((3,4,16,16), bool), image_band=bands[s],
           image_psf_fwhm=pixels(3,4), image_scale=pixels(3,4), object_id=np.arange(6)[s]+1000, ra=np.zeros(3), dec=np.zeros(3))
    return d,{},np.where(w > 0, x, np.nan),['des-g','des-r','des-i','des-z'],'Multimodal Universe'

def astromae(d):
    x = pixels(6,5,32,32)
    torch.save(TensorDataset(torch.from_numpy(x), torch.zeros(6,5,dtype=torch.float64), torch.linspace(0, 1, 6)), d/'a')
    return d/'a',{},x,'ugriz','SDSS AstroMAE'

def astromae_old(d):
    x = pixels(6,64,64,5)
    torch.save(TensorDataset(torch.from_numpy(x), torch.zeros(6,5), torch.linspace(0, 1, 6)[:,None]), d/'a')
    return d/'a',{},first(x),'ugriz','SDSS AstroMAE'

def pasquet(d):
    x = pixels(6,64,64,5)
    labels = np.zeros(6, [('z','f4'),('EBV','f4'),('ra','f8'),('dec','f8'),('dered_petro_r','f4')])
    labels['z'] = np.linspace(0, .4, 6)
    with open(d/'a', 'wb') as f: np.savez(f, cube=x, labels=labels)
    return d/'a',{},first(x),'ugriz','Pasquet et al. 2019'

def npy(d):
    x = pixels(6,16,16,3, dtype='>i2')
    with open(d/'a', 'wb') as f: np.save(f, x)
    return d/'a',dict(bands='gri'),first(x),'gri','arrays'

def npz(d):
    x = pixels(6,4,16,16)
    with open(d/'a', 'wb') as f: np.savez_compressed(f, anything=x, redshift=np.arange(6.), name=np.array(['größer']*6))
    return d/'a',dict(survey='nosuch', bands='griz'),x,'griz','arrays'

def fits_cubes(d):
    x = pixels(6,4,16,17, dtype='>f4')
    for i in range(6):
        h = fits.PrimaryHDU(x[i])
        h.header['BANDS'],h.header['RA'],h.header['DEC'],h.header['Z'] = 'griz',10.*i,-5.,i/10
        h.writeto(d/f'object{i+7}.fits')
    return d,{},x,'griz','FITS cubes'

def fits_bands(d):
    x = pixels(6,3,16,17, dtype='>f8')
    for i in range(6):
        order = [2,0,1] if i == 4 else [0,1,2]     # one file has its bands in another order
        hdus = [fits.ImageHDU(x[i,j], fits.Header(dict(FILTER='gri'[j]))) for j in order]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(d/f'object{i+7}.fits')
    return str(d/'*.fits'),{},x,'gri','FITS cubes'

made = [astromask,foreign,decals,sdss10,hsc,unions,unions_first,unions_new,legacy,universe,astromae,astromae_old,pasquet,npy,npz,fits_cubes,fits_bands]

@pytest.mark.parametrize('make', made, ids=lambda f: f.__name__)
def test_every_layout(tmp_path, make):
    source,how,x,bands,layout = make(tmp_path)
    c,want = Cutouts.open(source, **how),x.astype('f4')
    n = len(want)
    assert (len(c), c.shape, c.bands, c.parts[0].layout.name) == (n, want.shape[1:], tuple(bands), layout)
    assert c[3].dtype == np.float32 and c[3].flags.c_contiguous and c[1:4].flags.c_contiguous
    for rows in (slice(None), slice(1,4), [4,0,2,2], [n-1], np.arange(n) % 2 == 0, slice(None,None,-2)): np.testing.assert_array_equal(c[rows], want[rows])
    np.testing.assert_array_equal(c[-1], want[-1])
    t = c.catalog
    assert t.colnames[:3] == ['id','ra','dec'] and len(t) == n and len({*t['id']}) == n and str(t['ra'].unit) == 'deg'
    if x.dtype.kind in 'iu': assert f'{x.dtype.newbyteorder("=")}' in c.unit and 'as stored' in c.unit, c.unit
    some = list(c.bands)[::-2]
    if 'survey' not in how and 'bands' not in how: np.testing.assert_array_equal(Cutouts.open(source, bands=some)[[2,0]], want[[2,0]][:,::-2])
    np.testing.assert_array_equal(c.select(some)[[2,0]], want[[2,0]][:,::-2])
    packed = Cutouts.open(Cutouts.write(tmp_path/'ours', c, bands=c.bands, catalog=t))
    np.testing.assert_array_equal(packed[:], want)
    assert sorted(packed.catalog.colnames) == sorted(t.colnames) and list(packed.catalog['id']) == list(t['id'])
    assert inspect_cutouts(source, **how)['n'] == n

def test_what_their_catalogues_say(tmp_path):
    def opened(make):
        (d := tmp_path/make.__name__).mkdir()
        source,how,*_ = make(d)
        return Cutouts.open(source, **how).catalog
    t = opened(decals)
    assert class_labels(t)[1][9] == 'Edge-on with Bulge' and np.isnan(redshifts(t)[1]) and t['pxscale'][0] == 0.262
    t = Cutouts.open(h5(tmp_path/'sdss', images=np.zeros((10,69,69,3), 'u1'), ans=np.arange(10))).catalog
    assert class_labels(t)[1][0] == 'Disk, Face-on, No Spiral' and class_labels(t)[1][6] == 'Disk, Edge-on, No Bulge'
    assert opened(legacy)['flux'].shape == (6,5)
    t = opened(universe)
    assert list(t['id']) == [str(1000+i) for i in range(6)] and t['image_psf_fwhm'].shape == (6,4)
    t = opened(astromae_old)
    assert t['magnitude'].shape == (6,5) and np.allclose(redshifts(t), np.linspace(0, 1, 6))
    assert np.allclose(redshifts(opened(pasquet)), np.linspace(0, .4, 6))
    assert opened(npz)['name'][0] == 'größer'
    t = opened(fits_cubes)
    assert t['id'][0] == 'object7:0' and list(t['ra']) == [0,10,20,30,40,50] and np.allclose(redshifts(t), np.arange(6)/10)
    assert list(opened(fits_bands)['id'])[3:5] == ['object10:0','object11:0']
    assert class_labels(Cutouts.open(h5(tmp_path/'c', cutouts=pixels(3,5,8,8), **{'class': np.array([0,2,1], 'f4'), 'class name': ['galaxy','star','qso']}),
                                     survey='hsc').catalog) [1] == ('galaxy','qso','star')

def test_multimodal_universe_masks_and_orders(tmp_path):
    x,m = pixels(3,2,8,8),np.ones((3,2,8,8), bool)
    m[1,0,2] = False
    kw = dict(image_array=x, image_mask=m)
    c = Cutouts.open(h5(tmp_path/'a', **kw, image_band=[[b'g',b'r'],[b'r',b'g'],[b'g',b'']]))
    want = np.where(m, x, np.nan)
    want[1],want[2,1] = want[1,::-1].copy(),np.nan
    np.testing.assert_array_equal(c[[2,1,0]], want[[2,1,0]])
    np.testing.assert_array_equal(c.select('r')[:], want[:,1:])
    with pytest.raises(DataError, match='row 1 has the bands g,z'): Cutouts.open(h5(tmp_path/'b', **kw, image_band=[[b'g',b'r'],[b'g',b'z'],[b'g',b'r']]))[:]
    w = np.ones(x.shape, 'f4')
    w[0,1] = 0
    c = Cutouts.open(h5(tmp_path/'c', **kw, image_ivar=w, image_band=[[b'g',b'r'],[b'r',b'g'],[b'g',b'r']]))
    np.testing.assert_array_equal(c.ivar(slice(None)), np.stack([w[0], w[1,::-1], w[2]]))
    assert np.isnan(c[0][1]).all() and not np.isnan(c[1]).any()   # the ivar decides, not the mask

def test_hsc_in_nine_bands_is_not_ordered_by_wavelength(tmp_path):
    x = pixels(2,9,16,16)
    c = Cutouts.open(h5(tmp_path/'a', cutouts=x), survey='hsc')
    assert c.bands == ('g','i','r','y','z','NB0387','NB0816','NB0921','NB1010')
    np.testing.assert_array_equal(c.select(['NB0816','r'])[:], x[:,[6,2]])

def test_kinds_are_told_by_content_alone(tmp_path):
    x = pixels(3,2,8,8)
    fits.PrimaryHDU(x[1], fits.Header(dict(BANDS='gr'))).writeto(tmp_path/'b.dat')
    with open(tmp_path/'c.dat', 'wb') as f: np.save(f, x[2:])
    c = Cutouts.open([h5(tmp_path/'a.dat', dict(bands='gr'), cutouts=x[:1]), tmp_path/'b.dat', tmp_path/'c.dat'], bands='gr')
    np.testing.assert_array_equal(c[[2,0,1]], x[[2,0,1]])

def test_ambiguous_or_unknown(tmp_path):
    def saved(*arrays):
        path = tmp_path/f'{len(os.listdir(tmp_path))}.npz'
        np.savez(path, **dict(zip('ab', arrays)))
        return path
    for source,how,words in (
        (h5(tmp_path/'a', spectra=np.zeros((5,9))), {}, '`spectra` .5, 9..*Known are astromask.*Multimodal.*Legacy'),
        (h5(tmp_path/'b', images=pixels(2,8,8,8)), dict(survey='unions'), 'first or last'),
        (h5(tmp_path/'c', cutouts=pixels(2,4,8,8)), dict(bands='ugriz'), 'names 5 bands.*have 4'),
        (h5(tmp_path/'d', images=pixels(2,3,8,8)), {}, 'does not tell the bands'),
        (saved(pixels(2,3,8,8), pixels(2,3,8,8)), {}, 'no layout.*`a` .2, 3, 8, 8'),
        (saved(pixels(8,8)), {}, 'no layout'), (saved(pixels(2,8,8,8)), {}, 'first or last')):
        with pytest.raises(InputError, match=words) as e: Cutouts.open(source, **how)
        assert '\n' not in str(e.value) and str(source) in str(e.value)
    assert Cutouts.open(h5(tmp_path/'e', images=pixels(2,8,9,7)), bands='ugrizyjh').shape == (8,9,7)     # the number of names decides
    assert Cutouts.open(h5(tmp_path/'e', images=pixels(2,8,9,7)), bands='ugrizyj').shape == (7,8,9)
    (tmp_path/'mixed').mkdir()
    h5(tmp_path/'mixed'/'a.h5', cutouts=pixels(2,3,8,8))
    np.save(tmp_path/'mixed'/'b.npy', pixels(2,3,8,8))
    with pytest.raises(DataError, match='several kinds .1 .h5, 1 .npy'): Cutouts.open(tmp_path/'mixed', bands='gri')
    (tmp_path/'none').mkdir()
    with pytest.raises(DataError, match='holds no file of cutouts'): Cutouts.open(tmp_path/'none')
    both = Cutouts.open([tmp_path/'mixed'/'a.h5', tmp_path/'mixed'/'b.npy'], bands='gri')                # but a list may mix kinds
    np.testing.assert_array_equal(both[[3,0]], pixels(2,3,8,8)[[1,0]])

@pytest.mark.parametrize('dtype', ('>f4','<f8','>i2','<u2','u1','f2','>i4'))
@pytest.mark.parametrize('kind', ('h5','npy','npz','fits'))
def test_types_and_byte_orders(tmp_path, dtype, kind):
    if kind == 'fits' and dtype == 'f2': pytest.skip('FITS has no float16')
    x,path = np.random.default_rng(0).integers(0, 200, (4,2,5,7)).astype(dtype),tmp_path/f'a.{kind}'
    if kind == 'h5': h5(path, cutouts=x)
    if kind == 'npy': np.save(path, x)
    if kind == 'npz': np.savez(path, x=x)
    if kind == 'fits':
        path = tmp_path
        for i in range(4): fits.PrimaryHDU(x[i]).writeto(tmp_path/f'{i}.fits')
    c = Cutouts.open(path, bands='gr')
    assert c.dtype == np.dtype(dtype).newbyteorder('=')
    np.testing.assert_array_equal(c[[3,0,1]], x[[3,0,1]].astype('f4'))
    assert ('as stored' in c.unit) == (np.dtype(dtype).kind in 'iu')

def test_blank_whole_numbers_of_fits_are_missing(tmp_path):
    x = np.arange(32, dtype='i2').reshape(2,4,4)
    for name,cards in (('a', {}), ('b', dict(BSCALE=.5, BZERO=100.))):
        fits.PrimaryHDU(x, fits.Header(dict(BANDS='gr', BLANK=7))).writeto(tmp_path/f'{name}.fits')
        with fits.open(tmp_path/f'{name}.fits', mode='update', do_not_scale_image_data=True) as f: f[0].header.update(cards)
        c = Cutouts.open([tmp_path/f'{name}.fits'])
        want = np.where(x == 7, np.nan, x*cards.get('BSCALE', 1)+cards.get('BZERO', 0))
        np.testing.assert_array_equal(c[0], want)

def test_numbers_that_float32_cannot_hold(tmp_path):
    c = Cutouts.open(h5(tmp_path/'a', cutouts=np.full((2,1,4,4), 1<<24, 'i4')), bands='r')
    assert c[0].max() == 1<<24
    with pytest.raises(DataError, match='would not survive as float32'): Cutouts.open(h5(tmp_path/'b', cutouts=np.full((2,1,4,4), (1<<24)+1, 'i4')), bands='r')[0]
    x = pixels(2,1,4,4, dtype='f8')
    x[0,0,0,0],x[1,0,1,1] = 1e300,-np.inf
    assert np.isnan(Cutouts.open(h5(tmp_path/'c', cutouts=x), bands='r')[:]).sum() == 2

# damage (row 8) and hostility (row 15)

whole_files = [o for o in made if o not in (unions,universe,fits_bands)]

@pytest.mark.parametrize('make', whole_files, ids=lambda f: f.__name__)
def test_truncated_anywhere(tmp_path, make):
    source,how,x,*_ = make(tmp_path)
    path = sorted(source.iterdir())[0] if source.is_dir() else source
    whole = path.read_bytes()
    for share in (0.0005, 0.1, 0.5, 0.99):
        (tmp_path/'short').write_bytes(whole[:max(1, int(share*len(whole)))])
        try:
            c = Cutouts.open(tmp_path/'short', **how)
            got = c[:]
            c.catalog
        except AstroMaskError as e: assert 'short' in str(e)
        else:       # what is gone is the padding at the end of a FITS file
            assert make is fits_cubes and share > 0.9
            assert any((got == o).all() for o in x)

@pytest.mark.parametrize('checksum', (True,False))
def test_flipped_bits_are_named_or_at_least_no_zeros(tmp_path, checksum):
    x,path = pixels(40,2,8,8)+100,tmp_path/'a.h5'
    with h5py.File(path, 'w') as f:
        d = f.create_dataset('cutouts', data=x, chunks=(1,2,8,8), fletcher32=checksum)
        f.attrs['bands'] = list('gr')
        chunks = [d.id.get_chunk_info(i).byte_offset for i in range(40)]
    whole,rng = path.read_bytes(),np.random.default_rng(0)
    for trial in range(60):
        bad = bytearray(whole)
        in_data = trial < 20
        at = chunks[trial]+int(rng.integers(512)) if in_data else int(rng.integers(len(bad)))
        bad[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        try: got = Cutouts.open(path)[::-1][::-1]
        except AstroMaskError as e:
            assert 'a.h5' in str(e)
            if in_data: assert f'at row {trial} ' in str(e), e
        else:
            assert not (checksum and in_data)
            assert not (got == 0).all((1,2,3)).any(), 'silent zeros'

def test_rows_that_were_never_written(tmp_path):
    for k,(dtype,kw) in enumerate((('f4',{}), ('u1',{}), ('f4',dict(fillvalue=1)), ('f2',dict(compression='gzip')))):
        with h5py.File(tmp_path/f'{k}.h5', 'w') as f:
            f.create_dataset('cutouts', (50,1,8,8), dtype, chunks=(5,1,8,8), **kw)[:10] = 7
            f.attrs['bands'] = ['r']
        c = Cutouts.open(tmp_path/f'{k}.h5')
        assert (c[[9,0]] == 7).all() and ((c[[49,20]] == 1).all() if kw.get('fillvalue') else np.isnan(c[[49,20]]).all())
    with h5py.File(tmp_path/'none.h5', 'w') as f:
        f.create_dataset('cutouts', (50,1,8,8), 'f4', chunks=(5,1,8,8))
        f.attrs['bands'] = ['r']
    assert np.isnan(Cutouts.open(tmp_path/'none.h5')[[0,49]]).all()
    with h5py.File(tmp_path/'hole.h5', 'w') as f:
        d = f.create_dataset('cutouts', (50,1,8,8), 'u1', chunks=(5,1,8,8))
        d[:10],d[40:] = 7,7
        f.attrs['bands'] = ['r']
    with pytest.raises(DataError, match='hole.h5: row 20 was never written'): Cutouts.open(tmp_path/'hole.h5')[[0,20]]
    assert not Cutouts.open(h5(tmp_path/'black.h5', dict(bands='r'), cutouts=np.zeros((3,1,8,8), 'u1')))[:].any()    # zeros that were written are zeros

class Touch:
    "Touches a file when unpickled"
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)

def test_pickles_are_refused(tmp_path):
    owned,image = tmp_path/'owned',torch.zeros(2,5,8,8)
    sneaky = TensorDataset(image)
    sneaky.more = Touch(owned)
    for what in (Touch(owned), sneaky, {'image': image}, [image], torch.nn.Linear(2,2), TensorDataset(image.to_sparse())):
        torch.save(what, tmp_path/'a.pt')
        with pytest.raises(DataError, match='a.pt'): Cutouts.open(tmp_path/'a.pt')
    torch.save(Touch(owned), tmp_path/'a.pt', _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match='a.pt'): Cutouts.open(tmp_path/'a.pt')
    objects = np.array([Touch(owned)], dtype=object)
    np.save(tmp_path/'a.npy', objects, allow_pickle=True)
    np.savez(tmp_path/'a.npz', cutouts=pixels(2,5,8,8), ra=objects)
    np.savez(tmp_path/'b.npz', cutouts=np.zeros((2,5,8,8), object))
    for name in ('a.npy','a.npz','b.npz'):
        with pytest.raises(DataError, match=f'{name}.*pickled'): Cutouts.open(tmp_path/name, bands='ugriz')
    assert not owned.exists()

def test_archives_write_nowhere(tmp_path):
    (tmp_path/'deep').mkdir()
    x = pixels(2,5,8,8)
    np.savez(tmp_path/'deep'/'a.npz', **{'../../slipped': x, '/tmp/slipped': np.zeros(2)})
    np.testing.assert_array_equal(Cutouts.open(tmp_path/'deep'/'a.npz', bands='ugriz')[:], x)
    torch.save(TensorDataset(torch.from_numpy(x)), tmp_path/'deep'/'a.pt')
    slipped = (tmp_path/'deep'/'a.pt').read_bytes().replace(b'a/data/0', b'../../00')
    (tmp_path/'deep'/'b.pt').write_bytes(slipped)
    with pytest.raises(DataError, match='b.pt'): Cutouts.open(tmp_path/'deep'/'b.pt')
    assert sorted(os.listdir(tmp_path)) == ['deep'] and not Path('/tmp/slipped').exists()

def test_the_password_file_is_not_read(tmp_path):
    def hostile(add):
        with h5py.File(tmp_path/'a.h5', 'w') as f:
            f.attrs['bands'] = ['r']
            add(f)
        with pytest.raises(DataError, match='a.h5.*not followed') as e: Cutouts.open(tmp_path/'a.h5')
        assert 'root:' not in str(e.value)
    size = os.path.getsize('/etc/passwd')
    layout = h5py.VirtualLayout((1,1,1,size), 'u1')
    layout[:] = h5py.VirtualSource('/etc/passwd', 'cutouts', (1,1,1,size))
    hostile(lambda f: f.create_dataset('cutouts', (1,1,1,size), 'u1', external=[('/etc/passwd', 0, size)]))
    hostile(lambda f: f.create_virtual_dataset('cutouts', layout))
    hostile(lambda f: f.__setitem__('cutouts', h5py.ExternalLink('/etc/passwd', '/')))
    hostile(lambda f: (f.create_dataset('cutouts', data=np.zeros((size,1,2,2))), f.create_dataset('id', (size,), 'S1', external=[('/etc/passwd', 0, size)])))

def zip_bomb(path, says, holds):
    "An archive of (says,1,1024,1024) bytes, of which it holds some MiB"
    head = np.lib.format.header_data_from_array_1_0(np.zeros((1,1,1,1), 'u1')) | dict(shape=(says,1,1<<10,1<<10))
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z, z.open('cutouts.npy', 'w', force_zip64=True) as f:
        np.lib.format.write_array_header_1_0(f, head)
        for _ in range(holds): f.write(bytes(1<<20))
    return path

def test_zip_bombs_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match='a.npz is damaged or truncated'): Cutouts.open(zip_bomb(tmp_path/'a.npz', 1<<14, 2), bands='r')
    with pytest.raises(DataError, match='b.npz.*times its size: that is no real data'): Cutouts.open(zip_bomb(tmp_path/'b.npz', 80, 80), bands='r')[0]
    monkeypatch.setattr('astromask.data.formats._most', 1<<25)
    with pytest.raises(DataError, match='b.npz.*GiB of memory: unpack it'): Cutouts.open(tmp_path/'b.npz', bands='r')[0]
    with h5py.File(tmp_path/'d.h5', 'w') as f:
        f.create_dataset('cutouts', (4096,1,1024,1024), 'u1', chunks=(4095,1,1024,1024), compression=9)
        f.attrs['bands'] = ['r']
    with pytest.raises(DataError, match='d.h5.*chunks of 4 GiB'): Cutouts.open(tmp_path/'d.h5')

# handles and processes (row 9)

class Items(torch.utils.data.Dataset):
    def __init__(self, c): self.c = c
    def __len__(self): return 10_000
    def __getitem__(self, i):
        row = i*7919 % len(self.c)
        return self.c[row][0,0].astype(np.int64),row

@pytest.mark.filterwarnings('ignore:This DataLoader will create')
@pytest.mark.slow
def test_ten_thousand_reads_by_four_workers(tmp_path):
    n,files = 1500,[]
    for k in range(3):
        x = np.broadcast_to(np.arange(n*k, n*k+n, dtype='f4')[:,None,None,None], (n,1,8,8))
        if k < 2: files.append(h5(tmp_path/f'{k}.h5', dict(bands='r'), cutouts=x))
        else:
            np.save(tmp_path/'2.npy', x)
            files.append(tmp_path/'2.npy')
    c = Cutouts.open(files[:2] + files[2:], bands='r')
    assert c[4499][0,0,0] == 4499                 # the parent has read, too
    for got,asked in torch.utils.data.DataLoader(Items(c), 250, num_workers=4, multiprocessing_context='fork'):
        assert (got == asked[:,None]).all()

def test_files_that_are_open_elsewhere(tmp_path):
    path = h5(tmp_path/'a.h5', dict(bands='gr'), cutouts=pixels(3,2,8,8))
    for how in (dict(mode='r'), dict(mode='a'), dict(mode='r', locking=False)):
        with h5py.File(path, **how) as f:                                # in this process
            np.testing.assert_array_equal(Cutouts.open(path)[2], f['cutouts'][2])
            np.testing.assert_array_equal(f['cutouts'][1], pixels(3,2,8,8)[1])
    code = 'import h5py,sys; f = h5py.File(sys.argv[1], "a"); print(flush=True); input()'
    with subprocess.Popen([sys.executable, '-c', code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        writer.stdout.readline()
        with pytest.raises(DataError, match='a.h5 is being written by another process'): Cutouts.open(path)
        writer.communicate('end\n')
    assert len(Cutouts.open(path)) == 3

def test_a_file_system_without_locks(tmp_path, monkeypatch):
    path,real_open = h5(tmp_path/'a.h5', dict(bands='gr'), cutouts=pixels(3,2,8,8)),h5py.File
    def opened(*args, **kw):
        if 'locking' not in kw: raise OSError("Unable to synchronously open file (unable to lock file, errno = 37, error message = 'No locks available')")
        return real_open(*args, **kw)
    monkeypatch.setattr(h5py, 'File', opened)
    np.testing.assert_array_equal(Cutouts.open(path)[:], pixels(3,2,8,8))

# a million rows

def measured(code, *args):
    "Seconds of CPU and of the clock, and MiB, that a statement takes in a process that has imported everything"
    code = f'''import sys, time, resource, numpy as np
from astromask.data.cutouts import Cutouts
Cutouts.open(sys.argv[2])[0]
def rss(): return int(open('/proc/self/statm').read().split()[1])*4096/2**20
before,cpu,wall = rss(),time.process_time(),time.perf_counter()
{code}
print(time.process_time()-cpu, time.perf_counter()-wall, rss()-before)'''
    done = subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr
    return [float(o) for o in done.stdout.split()]

def small(path): return h5(path, dict(bands=list('ugriz')), cutouts=np.zeros((2,5,8,8), 'f2'))

def a_million(path):
    "A file of 38 GiB that takes a few MiB of disk: all of its chunks are in the index, and nearly none was written to"
    with h5py.File(path, 'w') as f:
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk((25,5,64,64))
        how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        h5py.h5d.create(f.id, b'cutouts', h5py.h5t.IEEE_F16LE, h5py.h5s.create_simple((1_000_000,5,64,64)), how)
        f['cutouts'][999_999] = 7
        f.create_dataset('ra', (1_000_000,), 'f8')
        f.attrs['bands'] = list('ugriz')
    return path

def test_a_million_rows_of_one_file(tmp_path):
    big = a_million(tmp_path/'big.h5')
    cpu,wall,mib = measured("c = Cutouts.open(sys.argv[1]); assert len(c) == 10**6 and (c[999_999] == 7).all() and not c[5].any()", big, small(tmp_path/'a.h5'))
    assert cpu < 0.2 and mib < 100, (cpu,wall,mib)

def fastest(do, n=15):
    "Seconds of CPU of the quickest of n"
    took = []
    for i in range(n):
        start = time.process_time()
        do(i)
        took.append(time.process_time()-start)
    return min(took)

def test_a_row_of_a_million_costs_as_much_as_one_of_fifty(tmp_path):
    few = h5(tmp_path/'few.h5', dict(bands=list('ugriz')))
    with h5py.File(few, 'a') as f: f.create_dataset('cutouts', data=np.zeros((50,5,64,64), 'f2'), chunks=(25,5,64,64))
    big,(a,b) = a_million(tmp_path/'big.h5'),map(Cutouts.open, (few,tmp_path/'big.h5'))
    row = fastest(lambda i: b[i*61_803 % 10**6], 100)/fastest(lambda i: a[i % 50], 100)
    opened = fastest(lambda i: len(Cutouts.open(big)))/fastest(lambda i: len(Cutouts.open(few)))
    assert row < 2 and opened < 3, (row,opened)

def many(folder, n, rows):
    "n HDF5 files of `rows` rows each, one of them differently long"
    one = folder/'part0.h5'
    with h5py.File(one, 'w') as f:
        f.create_dataset('cutouts', (rows,5,64,64), 'f2', chunks=(min(rows, 25),5,64,64), fillvalue=3)
        f['ra'],f.attrs['bands'] = np.zeros(rows),list('ugriz')
    for i in range(1, n): os.link(one, folder/f'part{i}.h5')
    return folder

def test_a_million_rows_of_a_hundred_files(tmp_path):
    (tmp_path/'many').mkdir()
    many(tmp_path/'many', 100, 10_000)
    cpu,wall,mib = measured("c = Cutouts.open(sys.argv[1]); assert len(c) == 10**6 and (c[[999_999,0,500_500]] == 3).all()", tmp_path/'many', small(tmp_path/'a.h5'))
    assert cpu < 0.2 and mib < 100, (cpu,wall,mib)

EACH = """import glob,h5py
for p in glob.glob(sys.argv[1]+'/*.h5'):
    with h5py.File(p) as f: f['cutouts'].shape"""

def test_a_million_rows_of_a_thousand_files(tmp_path):
    "They open in less than it takes h5py to open each of them"
    (tmp_path/'many').mkdir()
    where = many(tmp_path/'many', 1000, 1000),small(tmp_path/'a.h5')
    cpu,wall,mib = measured("c = Cutouts.open(sys.argv[1]+'/*.h5'); assert (c.parts[0].read([5]) == 3).all()", *where)
    each = measured(EACH, *where)[0]
    assert cpu < .8*each and mib < 100, (cpu,each,wall,mib)
    c = Cutouts.open(tmp_path/'many')
    assert len(c) == 10**6 and (c[[999_999,0,500_500]] == 3).all()

def test_one_of_a_thousand_files_differs(tmp_path):
    many(tmp_path, 300, 2)
    os.unlink(tmp_path/'part290.h5')
    Cutouts.write(tmp_path/'part290.h5', np.ones((3,5,64,64), 'f4'), bands='ugriz')     # another type, far down the list
    with pytest.raises(DataError, match='part290.h5 is not stored like the first'): len(Cutouts.open(tmp_path))
    os.unlink(tmp_path/'part290.h5')
    x = pixels(3,5,64,64, dtype='f2')
    h5(tmp_path/'part290.h5', dict(bands=list('ugrzi')), cutouts=x, dec=np.ones(3))                              # bands in another order, another column
    c = Cutouts.open(tmp_path)
    assert (c.select('zi')[290*2] == x[0,[3,4]]).all() and (c[291*2+1] == 3).all() and c.catalog['dec'][290*2] == 1
    h5(tmp_path/'part290.h5', dict(bands=list('ugrzx')), cutouts=x, dec=np.ones(3))
    with pytest.raises(InputError, match='part290.h5 has no band i'): len(Cutouts.open(tmp_path))
    os.rename(tmp_path/'part290.h5', tmp_path/'part20.h5')                              # within the first few hundred
    with pytest.raises(DataError, match='part20.h5 has bands'): Cutouts.open(tmp_path)
    os.unlink(tmp_path/'part20.h5')
    os.unlink(tmp_path/'part299.h5')
    with h5py.File(tmp_path/'part299.h5', 'w') as f: f['cutouts'],f['ra'],f.attrs['bands'] = np.ones((5,5,64,64), 'f2'),np.zeros(5),list('ugriz')
    c = Cutouts.open(tmp_path)                                                          # only the number of rows: fine
    assert len(c) == 2*297+5 and (c[[-1,0]][:,0,0,0] == [1,3]).all() and len(c.catalog) == len(c)

def test_many_fits_files_open_at_a_bounded_cost(tmp_path):
    fits.PrimaryHDU(pixels(3,8,8), fits.Header(dict(BANDS='gri'))).writeto(tmp_path/'0.fits')
    for i in range(1, 2000): os.link(tmp_path/'0.fits', tmp_path/f'{i}.fits')
    os.unlink(tmp_path/'7.fits')
    fits.PrimaryHDU(pixels(3,9,8), fits.Header(dict(BANDS='gri'))).writeto(tmp_path/'7.fits')
    cpu,wall,mib = measured("c = Cutouts.open(sys.argv[1]); assert len(c) == 2000", tmp_path, small(tmp_path/'a'))
    assert cpu < 0.3 and mib < 100, (cpu,wall,mib)
    with pytest.raises(DataError, match='7.fits has shape .3, 9, 8.*0.fits has .3, 8, 8'): Cutouts.open(str(tmp_path/'*.fits'))[[1,7]]

# the real data

@pytest.mark.skipif(not (real/'fits').exists(), reason=f'the real data of {real} are not here')
def test_real_fits():
    c = Cutouts.open([real/'fits'/'hsc_g.fits'], bands='g')
    assert c.shape == (1,466,466) and np.isfinite(c[0]).mean() > 0.9
    with fits.open(real/'fits'/'hsc_g.fits') as f: np.testing.assert_array_equal(c[0][0], f[0].data.astype('f4'))
    assert abs(c.catalog['ra'][0]-29.75) < 2 and abs(c.catalog['dec'][0]+2.23) < 2
    c = Cutouts.open(real/'fits'/'hsc_coadd_r_9071.fits')         # image, mask and variance without names
    with fits.open(real/'fits'/'hsc_coadd_r_9071.fits', do_not_scale_image_data=True) as f: image,mask,variance = (f[i].data for i in (1,2,3))
    bad = (mask & 0x110b) != 0
    np.testing.assert_array_equal(c[0][0], np.where(bad, np.nan, image))
    np.testing.assert_allclose(c.ivar(0)[0], np.where(bad, 0, 1/variance), rtol=1e-6)
    assert c.bands == ('r',) and abs(c.zero_point-27) < 1e-6
