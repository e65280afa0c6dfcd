"Cutout files that are damaged, hostile, foreign or large, and files read from several processes"
import os, subprocess, sys
from dataclasses import replace
from pathlib import Path
import h5py, numpy as np, pytest, torch
from astromask.core import AstroMaskError, DataError, InputError
from astromask.data.cutouts import Cutouts, check_usable, class_labels, redshifts
from astromask.data.inspect import inspect_cutouts
from astromask.surveys import get_survey

real = Path(__file__).parents[1].parent/'shared'/'data'
needs_real = pytest.mark.skipif(not (real/'gz2_train.h5').exists(), reason=f'the real data of {real} are not here')

def numbered(path, n=200, c=3, size=16, **kw):
    "Each object carries its row number as its pixels"
    images = np.broadcast_to(np.arange(n, dtype=np.float32)[:,None,None,None], (n,c,size,size))
    return Cutouts.write(path, images, bands='ugrizy'[:c], catalog=dict(redshift=np.linspace(0, 1, n)), **kw)

@pytest.mark.parametrize('share', (0.1, 0.5, 0.99))
def test_truncated(tmp_path, share):
    whole = numbered(tmp_path/'a.h5').read_bytes()
    short = tmp_path/'short.h5'
    short.write_bytes(whole[:int(share*len(whole))])
    with pytest.raises(DataError, match='short.h5 is damaged or truncated'): Cutouts.open(short)
    with pytest.raises(DataError, match='short.h5'): inspect_cutouts(short)

def test_damage_names_file_and_rows(tmp_path):
    path = tmp_path/'a.h5'
    with h5py.File(path, 'w') as f:
        d = f.create_dataset('cutouts', data=np.random.default_rng(0).normal(size=(60,1,8,8)), chunks=(10,1,8,8), fletcher32=True)
        f.attrs['bands'] = ['r']
        chunk = d.id.get_chunk_info(2)
    whole = bytearray(path.read_bytes())
    whole[chunk.byte_offset+100] ^= 1
    path.write_bytes(whole)
    c = Cutouts.open(path)
    assert np.isfinite(c[:20]).all()
    with pytest.raises(DataError, match='a.h5.*row 28'): c[[28,25]]

def test_any_flipped_byte_gives_our_error_or_a_reading(tmp_path):
    whole = numbered(tmp_path/'a.h5', n=4, c=1, size=4).read_bytes()
    rng,path = np.random.default_rng(0),tmp_path/'b.h5'
    for _ in range(150):
        bad = bytearray(whole)
        for at in rng.integers(0, len(whole), 3): bad[at] = rng.integers(256)
        path.write_bytes(bad)
        try:
            c = Cutouts.open(path)
            c[:],c.catalog
        except AstroMaskError as e: assert 'b.h5' in str(e)

def test_other_bad_files(tmp_path):
    def bad(**datasets):
        with h5py.File(tmp_path/'bad.h5', 'w') as f:
            for k,v in datasets.items(): f[k] = v
        return tmp_path/'bad.h5'
    (tmp_path/'empty.h5').touch()
    for path,kind,words in ((tmp_path/'none.h5', DataError, 'No such file'), (tmp_path/'empty.h5', DataError, 'is empty'),
                            (__file__, DataError, 'is a file of kind text'), (tmp_path/'*.fits', DataError, 'No file matches')):
        with pytest.raises(kind, match=words): Cutouts.open(path)
    with pytest.raises(DataError, match='`flux` .5, 3.*Galaxy10 SDSS'): Cutouts.open(bad(flux=np.zeros((5,3))))
    with pytest.raises(DataError, match='no cutouts'): Cutouts.open(bad(cutouts=np.zeros((0,3,8,8))), bands='gri')
    with pytest.raises(DataError, match='`ra` has 4 values for 5'): Cutouts.open(bad(cutouts=np.zeros((5,3,8,8)), ra=np.zeros(4)), bands='gri')
    with pytest.raises(InputError, match='names 4 bands .*have 3'): Cutouts.open(bad(cutouts=np.zeros((5,3,8,8))), bands='ugri')
    with pytest.raises(InputError, match='does not tell the bands'): Cutouts.open(bad(images=np.zeros((5,64,64,3), np.uint8), ans=np.zeros(5)))
    with pytest.raises(InputError, match='No survey is called'): Cutouts.open(bad(cutouts=np.zeros((5,3,8,8))), survey='nosuch')
    with pytest.raises(DataError, match='only NaN'): check_usable(Cutouts.open(bad(cutouts=np.full((600,3,8,8), np.nan)), bands='gri'))
    for words in ('Cutouts', 'known'):
        with pytest.raises(DataError) as e: Cutouts.open(bad(flux=np.zeros(3)))
        assert '\n' not in str(e.value)

def test_nothing_outside_the_file_is_read(tmp_path):
    secret = tmp_path/'secret'
    secret.write_bytes(bytes(range(256))*12)
    other = numbered(tmp_path/'other.h5', n=4)
    def hostile(add):
        with h5py.File(tmp_path/'h.h5', 'w') as f:
            f.attrs['bands'] = ['u','g','r']
            add(f)
        with pytest.raises(DataError, match='not followed'): Cutouts.open(tmp_path/'h.h5')
    hostile(lambda f: f.create_dataset('cutouts', (4,3,16,16), 'u1', external=[(str(secret), 0, 3072)]))
    hostile(lambda f: f.__setitem__('cutouts', h5py.ExternalLink(str(other), 'cutouts')))
    def soft(f):
        f['away'] = h5py.ExternalLink(str(other), '/')
        f['cutouts'] = h5py.SoftLink('/away/cutouts')
    hostile(soft)
    def virtual(f):
        layout = h5py.VirtualLayout((4,3,16,16), 'f4')
        layout[:] = h5py.VirtualSource(str(other), 'cutouts', (4,3,16,16))
        f.create_virtual_dataset('cutouts', layout)
    hostile(virtual)

class Items(torch.utils.data.Dataset):
    def __init__(self, c): self.c = c
    def __len__(self): return len(self.c)
    def __getitem__(self, i): return int(self.c[i][0,0,0]),i

def test_handles_do_not_cross_processes(tmp_path):
    c = Cutouts.open([numbered(tmp_path/'a.h5', 400, 1), numbered(tmp_path/'b.h5', 200, 1)])
    assert c[[399]][0,0,0,0] == 399
    workers = torch.utils.data.DataLoader(Items(c), 50, shuffle=True, num_workers=2, multiprocessing_context='fork')
    for _ in range(2):
        for got,asked in workers: assert (got == torch.where(asked < 400, asked, asked-400)).all()
        assert c[[599]][0,0,0,0] == 199

def test_a_full_disk_leaves_nothing_and_ends_with_one_sentence(tmp_path):
    code = f'''import resource, numpy as np
from astromask.core import StorageError
from astromask.data.cutouts import Cutouts
resource.setrlimit(resource.RLIMIT_FSIZE, (1<<20, 1<<20))
try: Cutouts.write({str(tmp_path/"a.h5")!r}, np.zeros((200,5,32,32)), bands='ugriz', overwrite=True)
except StorageError as e: print(e)'''
    before = numbered(tmp_path/'a.h5').read_bytes()
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and 'free some space' in done.stdout, done
    assert os.listdir(tmp_path) == ['a.h5'] and (tmp_path/'a.h5').read_bytes() == before

def test_replaced_while_open(tmp_path):
    old = Cutouts.open(numbered(tmp_path/'a.h5', 10))
    assert old[9][0,0,0] == 9
    new = Cutouts.open(numbered(tmp_path/'a.h5', 20, overwrite=True))
    assert new[19][0,0,0] == 19
    with pytest.raises(DataError, match='has changed since it was opened'): old[9]

def test_stored_types_and_missing_pixels(tmp_path):
    x = np.random.default_rng(0).integers(0, 200, (6,2,5,7))
    for dtype in ('>f4','<f8','>i2','<u2','u1','f2'):
        with h5py.File(tmp_path/'a.h5', 'w') as f:
            f['cutouts'] = x.astype(dtype)
            f['mask'] = x < 20
            f.attrs['bands'] = ['g','r']
        got = Cutouts.open(tmp_path/'a.h5', bands='rg')[[5,0]]
        assert got.dtype == np.float32 and got.flags.c_contiguous
        np.testing.assert_array_equal(got, np.where(x < 20, np.nan, x)[[5,0]][:,[1,0]])

def test_inverse_variances(tmp_path):
    rng = np.random.default_rng(0)
    x,w = rng.normal(size=(6,2,5,7)).astype('f4'), rng.uniform(1, 2, (6,2,5,7))
    x[0,0,0,0],w[1,1,2,3],w[2,0,1,1],w[3,1,4,4],w[4,0,0,0],w[5,0,3,3] = np.nan,0,-1,np.nan,np.inf,1e60
    mask = np.zeros(x.shape, bool)
    mask[5,1] = True
    missing = mask.copy()
    for at in ((0,0,0,0),(1,1,2,3),(2,0,1,1),(3,1,4,4),(4,0,0,0)): missing[at] = True
    files = []
    for k,s in enumerate((slice(0,4),slice(4,6))):
        with h5py.File(tmp_path/f'{k}.h5', 'w') as f:
            f['cutouts'],f['ivar'],f['mask'],f.attrs['bands'] = x[s],w[s],mask[s],['g','r']
        files.append(tmp_path/f'{k}.h5')
    c,rows = Cutouts.open(files, bands='rg'), [5,0,4,3,2,1,5]
    got,want = c.ivar(rows), np.where(missing, 0, np.minimum(w, np.finfo('f4').max)).astype('f4')[rows][:,[1,0]]
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got == 0, np.isnan(c[rows]))
    assert c.has_ivar and got.dtype == np.float32 and got.flags.c_contiguous and c.ivar([]).shape == (0,2,5,7)
    mixed = Cutouts.open([files[0], Cutouts.write(tmp_path/'none.h5', x, bands='gr')])
    assert not mixed.has_ivar
    with pytest.raises(InputError, match='none.h5 holds no inverse variances'): mixed.ivar([0])

def test_labels_as_others_store_them(tmp_path):
    with h5py.File(tmp_path/'hsc.h5', 'w') as f:
        f['cutouts'] = np.zeros((4,5,8,8), np.float32)
        f['class'] = np.array([0,2,np.nan,1], np.float32)
        f['zspec'] = [0.5,np.nan,1,2]
    c = Cutouts.open(tmp_path/'hsc.h5', survey='hsc')
    assert c.bands == ('g','i','r','y','z') and c.survey == 'hsc'
    assert class_labels(c.catalog)[0].tolist() == [0,2,-1,1] and class_labels(c.catalog)[1] == ('galaxy','qso','star')
    assert np.array_equal(redshifts(c.catalog), [0.5,np.nan,1,2], equal_nan=True)
    with h5py.File(tmp_path/'g.h5', 'w') as f:
        f['images'],f['ans'],f['pxscale'] = np.zeros((3,256,256,3), np.uint8),np.array([0,9,3]),np.full(3, 0.262)
    c = Cutouts.open(tmp_path/'g.h5')
    labels,names = class_labels(c.catalog)
    assert c.bands == ('z','r','g') and c.shape == (3,256,256)
    assert names[9] == 'Edge-on with Bulge' and len(names) == 10 and labels.tolist() == [0,9,3]

@needs_real
def test_real_galaxies():
    c = Cutouts.open(real/'gz2_*.h5')
    assert len(c) == 6197 and c.shape == (3,69,69) and c.bands == ('i','r','g') and '8-bit' in c.unit
    with h5py.File(real/'gz2_train.h5') as f: want = f['images'][[3,77]][::-1]
    np.testing.assert_array_equal(c[[77,3]], np.moveaxis(want, -1, 1).astype(np.float32))
    labels,names = class_labels(c.catalog)
    assert names[0] == 'smooth' and (labels[5000:] == -1).all() and np.isnan(redshifts(c.catalog)).all()
    assert c.catalog['votes37'].shape == (6197,37)

@needs_real
def test_real_infrared_cutouts(tmp_path):
    c = Cutouts.open(real/'nircam7_train.h5')
    assert c.bands[0] == 'f115w' and c.shape == (7,100,100) and np.isfinite(redshifts(c.catalog)).all()
    assert class_labels(c.catalog)[1] == ('spheroid','disk','peculiar')
    np.testing.assert_array_equal(Cutouts.open(real/'nircam7_train.h5', bands='f444w,f115w')[4], c[4][[6,0]])
    with pytest.raises(InputError, match='does not tell the bands'): Cutouts.open(real/'fields_multiband.h5')
    assert Cutouts.open(real/'fields_multiband.h5', bands='gri').shape == (3,48,48)
    whole = (real/'nircam7_train.h5').read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path/'short.h5').write_bytes(whole[:int(share*len(whole))])
        with pytest.raises(DataError, match='short.h5'): Cutouts.open(tmp_path/'short.h5')

@pytest.mark.parametrize('pixels, words', ((np.ones((2,1,4,4), complex), 'real numbers'), (np.full((2,1,4,4), 2**40+1), 'whole numbers beyond'),
                                           (np.full((2,1,4,4), 2**24+1, 'u4'), 'whole numbers beyond'), (np.full((2,1,4,4), 'a'), 'real numbers'), (None, 'not NoneType')))
def test_pixels_that_cannot_be_stored(tmp_path, pixels, words):
    with pytest.raises(InputError, match=words): Cutouts.write(tmp_path/'a.h5', pixels, 'r')
    assert not list(tmp_path.iterdir())

def test_arguments_of_other_types(tmp_path):
    for source in (None, 3, [3], b'a.h5'):
        with pytest.raises(InputError, match='opened by path'): Cutouts.open(source)
    x = np.ones((2,1,4,4), 'f4')
    for how,words in ((dict(catalog='foo'), 'Table or a dict'), (dict(dtype='foo'), 'not foo'), (dict(pixel_scale='a'), 'is a number'),
                      (dict(catalog=dict(a=[1,2], b=[1])), 'one length')):
        with pytest.raises(InputError, match=words): Cutouts.write(tmp_path/'a.h5', x, 'r', **how)
    for path in ('.', None, tmp_path):
        with pytest.raises(InputError): Cutouts.write(path, x, 'r')

def test_what_killed_writers_left_is_removed(tmp_path):
    host = __import__('socket').gethostname()
    dead,alive = subprocess.Popen(['true']),os.getppid()
    dead.wait()
    for name in (f'.a.h5.{host}.{dead.pid}.1', f'.a.h5.{host}.{alive}.1', f'.a.h5.elsewhere.{dead.pid}.1', f'.b.h5.{host}.{dead.pid}.1'): (tmp_path/name).touch()
    numbered(tmp_path/'a.h5', n=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f'.a.h5.{host}.{alive}.1', f'.a.h5.elsewhere.{dead.pid}.1', f'.b.h5.{host}.{dead.pid}.1', 'a.h5'])

def test_ids_of_files_of_one_name(tmp_path):
    for k in 'AB': numbered(tmp_path/k/'p.h5', n=2)
    assert list(Cutouts.open([tmp_path/'A/p.h5', tmp_path/'B/p.h5']).catalog['id']) == ['A/p:0','A/p:1','B/p:0','B/p:1']
    with pytest.warns(UserWarning, match='2 of 4'): Cutouts.open([tmp_path/'A/p.h5']*2).catalog

def test_positions_of_any_name_and_unit(tmp_path, caplog):
    from astropy.table import Table
    t = Table(dict(RAJ2000=np.radians([10.,20]), i_dec=[1.,2], decsys=[1,2]))
    t['RAJ2000'].unit = 'rad'
    got = Cutouts.open(Cutouts.write(tmp_path/'a.h5', np.ones((2,1,4,4), 'f4'), 'r', catalog=t)).catalog
    assert got.colnames == ['id','ra','dec','decsys'] and np.allclose(got['ra'], [10,20]) and list(got['dec']) == [1,2]
    t['RAJ2000'].unit = 'm'
    got = Cutouts.open(Cutouts.write(tmp_path/'a.h5', np.ones((2,1,4,4), 'f4'), 'r', catalog=t, overwrite=True)).catalog
    assert 'is in m, which is no angle' in caplog.text and np.isnan(got['ra']).all()      # an odd column costs itself, not the file

def test_names_of_classes_and_what_is_none(tmp_path):
    from astropy.table import Column, Table
    def part(name, codes, names): return Cutouts.write(tmp_path/name, np.ones((2,1,4,4), 'f4'), 'r', catalog=Table([Column(codes, name='class', meta=dict(names=names))]))
    same = [part('a.h5', [0,1], ['star','galaxy']), part('b.h5', [1,1], ['star','galaxy'])]
    assert class_labels(Cutouts.open(same).catalog)[1] == ('star','galaxy')
    labels,names = class_labels(Cutouts.open([*same, part('c.h5', [0,1], ['qso','star'])]).catalog)
    assert (list(labels),names) == ([0,1,1,1,2,0],('star','galaxy','qso'))
    with pytest.raises(DataError, match='names only 2'): Cutouts.open([same[0], part('d.h5', [0,7], ['qso','star'])]).catalog
    for odd in ([1e300,1.], np.array([2**63,1], 'u8')): assert list(class_labels(Table(dict(ans=odd)))[0]) == [-1,-1]
    with h5py.File(tmp_path/'e.h5', 'w') as f:
        f['cutouts'],f.attrs['bands'] = np.ones((2,1,4,4)),'r'
        f.create_dataset('class', data=np.array([1,0], 'u1'), dtype=h5py.enum_dtype(dict(star=0, galaxy=1), 'u1'))
    assert class_labels(Cutouts.open(tmp_path/'e.h5').catalog)[1] == ('star','galaxy')

@pytest.mark.parametrize('first, second', ((dict(unit='mJy'), dict(unit='nanomaggy')), (dict(zero_point=22.5), dict(zero_point=23.9)), (dict(pixel_scale=.2), dict(pixel_scale=.4)),
                                           (dict(unit='counts'), dict(unit='electron')), (dict(unit='counts'), dict(unit='nJy'))))
def test_measures_are_not_mixed(tmp_path, first, second):
    a,b,silent = numbered(tmp_path/'a.h5', n=2, **first),numbered(tmp_path/'b.h5', n=2, **second),numbered(tmp_path/'c.h5', n=2)
    with pytest.raises(DataError, match=r'[ab].h5 has .* but .*[ab].h5 has'): Cutouts.open([silent, a, b])
    c = Cutouts.open([silent, a, a])
    assert len(c) == 6 and (c.zero_point,c.pixel_scale) == (None,None)

def test_fluxes_are_brought_to_the_first_zero_point(tmp_path):
    a,b = numbered(tmp_path/'a.h5', n=2, unit='nanomaggy', ivar=np.full((2,3,16,16), 4.)),numbered(tmp_path/'b.h5', n=2, unit='nJy', ivar=np.full((2,3,16,16), 4.))
    both,other = Cutouts.open([a, b]),Cutouts.open([b, a])
    assert (both.unit,both.zero_point,other.unit,other.zero_point) == ('nanomaggy',22.5,'nJy',31.4)
    alone = Cutouts.open(b)[:]
    np.testing.assert_allclose(both[2:], alone*10**(.4*(22.5-31.4)), rtol=1e-6)
    np.testing.assert_allclose(both.ivar(slice(2, 4)), 4*10**(.8*(31.4-22.5)), rtol=1e-6)
    np.testing.assert_array_equal(other[:2], alone)
    many = Cutouts.open([a]*130 + [b])                    # the last is described when it is first needed
    np.testing.assert_allclose(many[[260,261]], both[2:], rtol=1e-6)

def test_the_callers_word(tmp_path, caplog):
    silent,told = numbered(tmp_path/'a.h5', n=2),numbered(tmp_path/'b.h5', n=2, unit='nJy', pixel_scale=.2)
    facts = lambda c: (c.unit,c.zero_point,c.pixel_scale)
    assert facts(Cutouts.open(silent)) == ('',None,None) and facts(Cutouts.open(silent, survey='nobody')) == ('',None,None)
    assert facts(Cutouts.open(silent, unit='uJy', pixel_scale=.3)) == ('uJy',23.9,.3) and facts(Cutouts.open(silent, zero_point=27)) == ('27 mag AB',27.,None)
    assert not [r for r in caplog.records if r.levelname == 'WARNING']
    assert facts(Cutouts.open(told, zero_point=22.5, pixel_scale=.4)) == ('nanomaggy',22.5,.4) and caplog.text.count('yours is taken') == 2
    with pytest.raises(InputError, match='state one of them'): Cutouts.open(silent, unit='nJy', zero_point=27)
    with pytest.raises(InputError, match='no number'): Cutouts.open(silent, zero_point='27')
    assert facts(Cutouts.open(silent, survey='hsc')) == ('27 mag AB',27.,.168)

def test_row_0_is_turned_to_where_the_first_file_has_it(tmp_path):
    x = np.arange(2*16, dtype='f4').reshape(2,1,4,4)
    up,down = (Cutouts.write(tmp_path/f'{o}.h5', x, 'r', origin=o, ivar=x+1) for o in ('upper','lower'))
    c,d = Cutouts.open([up, down]),Cutouts.open([down, up])
    assert (c.origin,d.origin,Cutouts.open(up).select('r').origin) == ('upper','lower','upper')
    for o in (c,d):
        np.testing.assert_array_equal(o[:2], x)
        np.testing.assert_array_equal(o[[3,2]], x[::-1,:,::-1])
        np.testing.assert_array_equal(o.ivar(slice(2, 4)), x[:,:,::-1]+1)
    with pytest.raises(InputError, match='origin'): Cutouts.write(tmp_path/'x.h5', x, 'r', origin='top')

def test_a_flipped_bit_in_our_own_file_is_named(tmp_path):
    from astromask.data.catalogs import merge
    path = merge(numbered(tmp_path/'a.h5', n=200, checksum=True), tmp_path/'b.h5', checksum=True)
    with h5py.File(path) as f: at,k = f['cutouts'].id.get_chunk_info(0).byte_offset,f['cutouts'].chunks[0]
    whole = bytearray(path.read_bytes())
    whole[at+1000] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match='b.h5 is damaged .*cannot be read at row 2 '): Cutouts.open(path)[[2]]

def test_columns_of_several_files_lose_no_digit(tmp_path, caplog):
    from astropy.table import Table
    def made(name, **columns):
        Cutouts.write(tmp_path/name, np.random.default_rng(0).normal(size=(2,1,16,16)).astype('f4'), 'g', Table(columns))
        return tmp_path/name
    big = 2**60+1
    files = [made('a.h5', objid=[big,2], src=[big,2], z=[.1,.2], w=[big,1], one=[1,2], small=[1,2]), made('b.h5', objid=[np.nan,4.], src=np.array([2**63+1,4], 'u8'), z=['0.3','null'], w=[.5,1.], one=[[1,2],[3,4]], small=[.5,1])]
    t = Cutouts.open(files).catalog
    assert [str(o) for o in t['objid']] == [str(big),'2','--','4'] and t['objid'].dtype == np.int64
    assert t['src'].dtype == np.uint64 and t['src'].tolist() == [big,2,2**63+1,4]
    assert list(t['w']) == [str(big),'1','0.5','1'] and np.array_equal(redshifts(t), [.1,.2,.3,np.nan], equal_nan=True)
    assert 'one' not in t.colnames and "The column 'one' has" in caplog.text and "The column 'w' is float64 and int64 in different files" in caplog.text
    assert t['small'].tolist() == [1,2,.5,1] and 'small' not in caplog.text

def test_cutouts_that_are_written_tell_all_that_they_know(tmp_path):
    x = np.random.default_rng(0).normal(size=(300,2,8,8)).astype('f4')
    about = dict(survey='sdss', unit='nanomaggy', zero_point=22.5, pixel_scale=.5, origin='upper', provenance=dict(made='here'))
    c = Cutouts.open(Cutouts.write(tmp_path/'a.h5', x, 'gr', dict(id=np.arange(300).astype(str), redshift=np.ones(300)), ivar=x**2, **about))
    again = Cutouts.open(Cutouts.write(tmp_path/'b.h5', c, c.bands))
    np.testing.assert_array_equal(again[:], c[:])
    np.testing.assert_array_equal(again.ivar(np.arange(300)), c.ivar(np.arange(300)))
    assert {k: getattr(again, k) for k in about} == about and again.catalog.colnames == c.catalog.colnames
    assert (again.catalog['id'] == c.catalog['id']).all() and (again.catalog['redshift'] == 1).all()
    bare = Cutouts.open(Cutouts.write(tmp_path/'d.h5', x, 'gr', unit='counts', zero_point=27.))
    assert Cutouts.open(Cutouts.write(tmp_path/'e.h5', bare, 'gr', unit='counts')).zero_point == 27
    other = Cutouts.open(Cutouts.write(tmp_path/'c.h5', c, c.bands, unit='counts', survey='hsc', catalog=dict(id=np.arange(300))))
    assert (other.unit, other.zero_point, other.survey, 'redshift' in other.catalog.colnames) == ('counts', None, 'hsc', False)

def test_a_survey_that_nobody_registered_is_written_as_it_is(tmp_path):
    mine = replace(get_survey('sdss'), name='mine', pixel_scale=.7, zero_point=25., unit='counts')
    c = Cutouts.open(Cutouts.write(tmp_path/'a.h5', np.ones((3,5,8,8), 'f4'), mine.bands, survey=mine, unit=mine.unit))
    assert (c.survey, c.pixel_scale, c.zero_point) == ('mine', .7, 25)
