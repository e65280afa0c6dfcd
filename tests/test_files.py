"Which files are meant, and true sentences about those that cannot be read"
import gzip, os, pickle, socket, subprocess, sys, tarfile, time, zipfile
from pathlib import Path
import h5py, numpy as np, pytest
from astromask.core import DataError
from astromask.data.cutouts import Cutouts
from astromask.surveys import band_names
from astromask.data.files import SIGNATURES, cutout_paths, damage, file_format, file_labels, natural_key
from astromask.files import check_file

def touched(folder, *names):
    for k in names:
        p = folder/k
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_text('-')
    return folder

def below(folder, source): return [str(Path(p).relative_to(folder)) for p in cutout_paths(source)]

def test_hidden_and_other_files_do_not_count(tmp_path):
    touched(tmp_path, 'a.h5', '._a.h5', '.x.h5', 'README.md', 'a.json', 'notes.csv', 'preview.png', 'cat.parquet', '.git/z.h5', 'log.h5.bak')
    assert below(tmp_path, tmp_path) == below(tmp_path, tmp_path/'*.h5') == ['a.h5']
    assert below(tmp_path, f'{tmp_path}/**/*.h5') == ['a.h5'] and below(tmp_path, tmp_path/'.x*') == ['.x.h5']

@pytest.mark.parametrize('name', ('run [1]','fields,deep','a b','plain é','e\u0301','#1','100%','x[!a]','q?','star*','~n','-n',"it's",'日本','[g]'))
def test_any_name_of_a_folder(tmp_path, name):
    touched(tmp_path, f'{name}/a2.h5', f'{name}/a10.h5', 'run 1/other.h5', 'g/other.h5', 'star1/other.h5')
    want = [f'{name}/a2.h5', f'{name}/a10.h5']
    for source in (tmp_path/name, f'{tmp_path}/{name}/*.h5', f'{tmp_path}/{name}/a*', f'{tmp_path}/{name}/a2.h5,{tmp_path}/{name}/a10.h5', [f'{tmp_path}/{name}/a2.h5', tmp_path/name/'a10.h5']):
        assert below(tmp_path, source) == want, source

def test_accents_are_compared_as_they_look(tmp_path):
    touched(tmp_path, 'e\u0301te\u0301/a\u0301.h5')
    assert below(tmp_path, f'{tmp_path}/\u00e9t\u00e9/\u00e1.h5') == below(tmp_path, f'{tmp_path}/\u00e9*/*.h5') == below(tmp_path, tmp_path/'\u00e9t\u00e9') == ['e\u0301te\u0301/a\u0301.h5']

def test_brackets_are_a_pattern_where_nothing_is_called_so(tmp_path):
    touched(tmp_path, 'p1.h5', 'p2.h5', 'p[1].h5', 'q[3]x.h5', 'q[3]y.h5')
    assert below(tmp_path, f'{tmp_path}/p[12].h5') == ['p1.h5','p2.h5']
    assert below(tmp_path, f'{tmp_path}/p[1].h5') == ['p[1].h5']                      # it is there as it is written
    assert below(tmp_path, f'{tmp_path}/q[3]*.h5') == ['q[3]x.h5','q[3]y.h5']         # as a pattern it would match nothing

def test_lists_with_commas(tmp_path):
    touched(tmp_path, 'a,b.h5', 'c.h5', 'd/e.h5')
    t = str(tmp_path)
    assert below(tmp_path, f'{t}/a,b.h5, {t}/c.h5') == ['a,b.h5','c.h5'] and below(tmp_path, f'{t}/c.h5,{t}/d') == ['c.h5','d/e.h5']
    assert len(cutout_paths(','.join([f'{t}/c.h5']*5000))) == 5000
    with pytest.raises(DataError, match='No file matches .*x'): cutout_paths(f'{t}/c.h5,{t}/x*')

def test_links_in_circles_end(tmp_path):
    touched(tmp_path, 'a/one.h5')
    for i in range(6):
        (tmp_path/'a'/f'up{i}').symlink_to('..')
        (tmp_path/'a'/f'self{i}').symlink_to('.')
        (tmp_path/f'again{i}').symlink_to('a')
    at = time.monotonic()
    assert below(tmp_path, tmp_path) == ['a/one.h5'] and [Path(p).name for p in cutout_paths(f'{tmp_path}/**/*.h5')] == ['one.h5']
    assert time.monotonic()-at < 1
    (tmp_path/'b').mkdir()
    (tmp_path/'b/up').symlink_to('..')
    (tmp_path/'a/one.h5').unlink()
    with pytest.raises(DataError, match='holds no file of cutouts'): cutout_paths(tmp_path)

def test_a_link_to_what_is_there_is_the_same_file(tmp_path):
    touched(tmp_path, 'a.h5', 'b.h5', 'other/c.h5')
    (tmp_path/'latest.h5').symlink_to('b.h5')
    (tmp_path/'far.h5').symlink_to('other/c.h5')
    assert below(tmp_path, tmp_path) == below(tmp_path, f'{tmp_path}/*.h5') == ['a.h5','b.h5','far.h5']
    (tmp_path/'gone.h5').symlink_to('nowhere.h5')
    with pytest.raises(DataError, match='1 of 5 files are links to nothing .*gone.h5 -> nowhere.h5'): cutout_paths(tmp_path)
    (tmp_path/'round.h5').symlink_to('round.h5')
    with pytest.raises(DataError, match='links to nothing'): cutout_paths(f'{tmp_path}/r*.h5')
    with pytest.raises(DataError, match='cannot be read: Too many levels'): check_file(tmp_path/'round.h5')

def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path/'p.h5')
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path/'s.h5'))
        for path,what in ((tmp_path/'p.h5','a pipe'), (tmp_path/'s.h5','a socket'), ('/dev/zero','a device'), ('/dev/null','a device'), (tmp_path,'a folder')):
            with pytest.raises(DataError, match=what): check_file(path)
        for path in (tmp_path/'p.h5', '/dev/zero'):
            with pytest.raises(DataError, match='not a file'): Cutouts.open(path)
    for path in ('a\0b.h5', 'x'*5000, ''):
        with pytest.raises(DataError): Cutouts.open(path)

@pytest.mark.skipif(os.geteuid() == 0, reason='nothing is closed to the superuser')
def test_what_may_not_be_read(tmp_path):
    touched(tmp_path, 'a.h5', 'closed/b.h5')
    (tmp_path/'a.h5').chmod(0)
    (tmp_path/'closed').chmod(0)
    try:
        with pytest.raises(DataError, match='check its permissions'): Cutouts.open(tmp_path/'a.h5')
        with pytest.raises(DataError, match='closed cannot be read'): cutout_paths(tmp_path/'closed')
    finally: (tmp_path/'closed').chmod(0o700)

def test_a_folder_of_many_files_is_listed_fast(tmp_path):
    for i in range(20_000): os.close(os.open(tmp_path/f'{i}.fits', os.O_CREAT))
    at = time.process_time()
    found = cutout_paths(tmp_path)
    assert [Path(p).name for p in found[:11]] == [f'{i}.fits' for i in range(11)] and len(found) == 20_000
    assert time.process_time()-at < 2

def test_folders_of_hats(tmp_path):
    touched(tmp_path, 'cat/properties', 'cat/point_map.fits', 'cat/dataset/_common_metadata', 'cat/dataset/_metadata', 'cat/dataset/data_thumbnail.parquet',
            'cat/dataset/Norder=1/Dir=0/Npix=10.parquet', 'cat/dataset/Norder=1/Dir=0/Npix=9.parquet', 'cat/dataset/Norder=0/Dir=0/Npix=3/part0.parquet')
    want = ['Norder=0/Dir=0/Npix=3/part0.parquet','Norder=1/Dir=0/Npix=9.parquet','Norder=1/Dir=0/Npix=10.parquet']
    assert below(tmp_path/'cat/dataset', tmp_path/'cat/dataset') == want
    touched(tmp_path, 'cat/skymap.fits', 'cat_10arcs/dataset/_common_metadata', 'cat_10arcs/dataset/Norder=0/Dir=0/Npix=3.parquet')
    assert below(tmp_path/'cat/dataset', tmp_path/'cat') == want            # maps of the sky beside it are no cutouts
    (tmp_path/'cat_10arcs/hats.properties').write_text('obs_collection=cat_10arcs\ndataproduct_type=margin\n')
    (tmp_path/'cat/hats.properties').write_text('dataproduct_type=object\n')
    assert below(tmp_path/'cat/dataset', tmp_path) == want                  # a margin repeats objects of its neighbours

def test_links_to_folders_repeat_no_files_of_a_pattern(tmp_path):
    touched(tmp_path, 'train/a.h5', 'test/b.h5')
    (tmp_path/'latest').symlink_to('train')
    assert below(tmp_path, f'{tmp_path}/*/*.h5') == below(tmp_path, tmp_path) == ['test/b.h5','train/a.h5']
    assert below(tmp_path, f'{tmp_path}/lat*/*.h5') == ['latest/a.h5']

def test_variables_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv('DATA', str(tmp_path))
    touched(tmp_path, 'a.h5', '$DATA/b.h5')
    assert below(tmp_path, '$DATA/a.h5') == below(tmp_path, '${DATA}/*.h5') == ['a.h5']
    monkeypatch.chdir(tmp_path)
    assert cutout_paths('$DATA/b.h5') == ['$DATA/b.h5']

def test_natural_order(): assert sorted(['f10','f9','f09','F1','f1a2','f1a10'], key=natural_key) == ['F1','f1a2','f1a10','f9','f09','f10']

def test_labels_of_files():
    assert file_labels(['a/x.FITS.gz','b/x.fits.fz','c/y.tar','d/z','e/v1.2.dat']) == ['a/x','b/x','y','z','v1.2']
    assert file_labels(['r/1/x.h5','s/1/x.h5','t/2/x.h5']) == ['r/1/x','s/1/x','2/x']

# ---- what a file is

def test_formats_are_told_by_their_bytes(tmp_path):
    p = tmp_path/'f'
    for kind,at,magic in SIGNATURES:
        p.write_bytes((b'\0'*at + magic).ljust(64, b'\0') if kind not in ('gzip','bzip2','xz') else magic)
        try: assert file_format(p) == kind
        except DataError: assert kind in ('gzip','bzip2','xz')          # what is packed in it cannot be looked at
    for text,kind in (('<!DOCTYPE html>','HTML'), ('  <html>','HTML'), ('<?xml version="1.0"?><VOTABLE>','VOTable'), ('{"a":1}','JSON'), ('id,ra\n1,2','text'), ('\ufeffid,ra','text')):
        p.write_text(text)
        assert file_format(p) == kind
    p.write_bytes(bytes(range(14,32)))
    assert file_format(p) == ''

def others(tmp_path):
    def made(name, data):
        (tmp_path/name).write_bytes(data)
        return tmp_path/name
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z: z.writestr('a.txt', 'a')
    return {'pickle': made('a.pkl', pickle.dumps([1])), 'zip': tmp_path/'a.zip', 'HTML': made('a.fits', b'<!DOCTYPE html><p>Please log in'), 'Git LFS pointer': made('a.h5', b'version https://git-lfs.github.com/spec/v1\n'),
            'gzip': made('a.h5.gz', gzip.compress(b'\x89HDF\r\n\x1a\n')), 'NetCDF 3': made('a.nc', b'CDF\1'+b'\0'*20), 'ROOT': made('a.root', b'root'+b'\0'*20), 'text': made('a.csv', b'id,ra,dec\n1,2,3'),
            'PDF': made('a.pdf', b'%PDF-1.7'), 'MATLAB': made('a.mat', b'MATLAB 5.0 MAT-file'), 'SQLite': made('a.db', b'SQLite format 3\0'), 'Zstandard': made('a.zst', b'\x28\xb5\x2f\xfd1234'), 'GIF': made('a.gif', b'GIF89a')}

def test_other_formats_are_named_and_not_called_damaged(tmp_path):
    for kind,path in others(tmp_path).items():
        with pytest.raises(DataError, match=f'is a file of kind {kind} \\(') as e: Cutouts.open(path)
        assert 'damaged' not in str(e.value) and len(str(e.value).split('. ')) == 1
    touched(tmp_path, 'saved/data-00000-of-00001.arrow', 'saved/state.json', 'saved/.hidden')
    with pytest.raises(DataError, match=r'other endings \(1 .arrow, 1 .json\)'): Cutouts.open(tmp_path/'saved')
    (tmp_path/'odd').write_bytes(bytes(range(14,32)))
    with pytest.raises(DataError, match='no kind that is known, or its beginning is damaged'): Cutouts.open(tmp_path/'odd')

def test_sentences_about_trouble_are_true():
    for e,want,not_ in ((PermissionError(13, 'Permission denied'), 'Permission denied', 'damaged'), (OSError(5, 'Input/output error'), 'Input/output error', 'damaged'), (OSError(24, 'Too many open files'), 'Too many open', 'damaged'),
                        (NotImplementedError('compression type 9'), 'not supported here', 'damaged'), (MemoryError('1 TB'), 'more memory', 'damaged'), (OSError('truncated file'), 'damaged or truncated', 'xyz'),
                        (tarfile.ReadError('bad'), 'damaged or truncated', 'xyz'), (ModuleNotFoundError('lz4'), 'holds what is not read here', 'truncated'), (TypeError('a'), 'or holds what is not read', 'truncated')):
        with pytest.raises(DataError, match=want) as got:
            with damage('a.h5'): raise e
        assert not_ not in str(got.value)

# ---- HDF5 of others

def test_one_group_with_images_is_read_as_the_root(tmp_path):
    x = np.random.default_rng(0).normal(size=(6,3,8,8)).astype('f4')
    with h5py.File(tmp_path/'g.h5', 'w') as f:
        g = f.create_group('a/b')
        g['images'],g['redshift'],f['other/redshift'] = x,np.arange(6.),np.zeros(3)
        g['images'].attrs['filters'],f.attrs['survey'] = np.array([b'g',b'r',b'i']),'hsc'
        f['loop'],g['up'] = f['a'],f['/a']
    c = Cutouts.open(tmp_path/'g.h5', bands='ir')
    np.testing.assert_array_equal(c[[5,0]], x[[5,0]][:,[2,1]])
    assert list(c.catalog['redshift']) == list(range(6)) and c.survey == 'hsc'
    many = Cutouts.open([tmp_path/'g.h5']*3)
    np.testing.assert_array_equal(many[12:], x)
    with h5py.File(tmp_path/'g.h5', 'a') as f: f['test/images'] = x
    with pytest.raises(DataError, match=r'images in several groups \(test, a/b\)'): Cutouts.open(tmp_path/'g.h5', bands='gri')
    with h5py.File(tmp_path/'o.h5', 'w') as f: f['objects/7/image'] = x[0]
    with pytest.raises(DataError, match=r'it holds `objects/7/image` \(3, 8, 8\)'): Cutouts.open(tmp_path/'o.h5', bands='gri')
    with h5py.File(tmp_path/'l.h5', 'w') as f: f['images'],f['away'] = x,h5py.ExternalLink('g.h5', '/a')
    with pytest.raises(DataError, match='links are not followed'): Cutouts.open(tmp_path/'l.h5', bands='gri')

@pytest.mark.parametrize('name', ('Blosc','Blosc2','Bitshuffle','Zstd','LZ4'))
def test_filters_of_others(tmp_path, name):
    plugin = pytest.importorskip('hdf5plugin')
    x = np.random.default_rng(0).integers(0, 9, (20,2,8,8)).astype('f4')
    with h5py.File(tmp_path/'a.h5', 'w') as f:
        f.create_dataset('cutouts', data=x, chunks=(5,2,8,8), compression=getattr(plugin, name)())
        f.attrs['bands'] = 'gr'
    say = 'import numpy as np, pickle, sys; from astromask.data.cutouts import Cutouts; c = pickle.loads(pickle.dumps(Cutouts.open(sys.argv[1]))); print(float(c[[19,3]].sum()))'
    fresh = lambda code: subprocess.run([sys.executable, '-c', code, tmp_path/'a.h5'], capture_output=True, text=True)
    assert float(fresh(say).stdout) == x[[19,3]].sum()
    without = fresh("import sys; sys.modules['hdf5plugin'] = None\n" + say).stderr
    assert 'DataError' in without and "pip install 'astromask[formats]'" in without and 'damaged' not in without and name[:4].lower() in without.lower()

def test_a_column_that_cannot_be_unpacked_is_left_out(tmp_path, monkeypatch, caplog):
    plugin = pytest.importorskip('hdf5plugin')
    from astromask.data import hdf5
    with h5py.File(tmp_path/'a.h5', 'w') as f:
        f['cutouts'],f['z'],f.attrs['bands'] = np.ones((4,1,8,8), 'f4'),np.arange(4.),'r'
        f.create_dataset('w', data=np.arange(4.), chunks=(2,), compression=plugin.Zstd())
    monkeypatch.setattr(hdf5, '_with_plugin', lambda code: code != 32015)
    t = Cutouts.open(tmp_path/'a.h5').catalog
    assert 'z' in t.colnames and 'w' not in t.colnames and 'Zstandard' in caplog.text

def test_a_file_that_another_program_writes(tmp_path):
    say = '''import h5py, os, sys, time
f = h5py.File(sys.argv[1], 'w', libver='latest')
f['cutouts'] = [[[[1.]]]]
f.flush()
print('.', flush=True)
if len(sys.argv) > 2: os._exit(1)
time.sleep(60)'''
    p = subprocess.Popen([sys.executable, '-c', say, tmp_path/'a.h5'], stdout=subprocess.PIPE)
    p.stdout.readline()
    try:
        with pytest.raises(DataError, match='being written by another process|open for writing') as e: Cutouts.open(tmp_path/'a.h5', bands='r')
    finally:
        p.kill()
        p.wait()
    assert 'damaged' not in str(e.value)
    subprocess.run([sys.executable, '-c', say, tmp_path/'b.h5', 'die'], stdout=subprocess.DEVNULL)
    with pytest.raises(DataError, match='h5clear -s') as e: Cutouts.open(tmp_path/'b.h5', bands='r')
    assert 'damaged' not in str(e.value)

def test_attributes_in_other_spellings(tmp_path):
    x = np.ones((3,2,8,8), 'f4')
    for attrs,zero,scale in ((dict(BUNIT='nJy', PIXSCALE=.2), 31.4, .2), (dict(magzero=27., pixelscale=b'0.168'), 27., None), (dict(units=np.array([b'nanomaggies']), pixscale=[.262]), 22.5, .262),
                             (dict(zeropoint='30.0', unit='counts'), 30., None), (dict(FLUXMAG0=10**10.8), 27., None), (dict(zp=-99.), None, None), (dict(unit=['nJy','nJy']), 31.4, None),
                             (dict(unit='MJy/sr', pixel_scale=.03), 8.9-2.5*np.log10(1e6*(.03/206264.806)**2), .03), (dict(unit='nJy', zero_point=27.), 31.4, None), (dict(unit=h5py.Empty('S1')), None, None)):
        with h5py.File(tmp_path/'a.h5', 'w') as f:
            f['cutouts'],f.attrs['bands'] = x,'gr'
            for k,v in attrs.items(): f.attrs[k] = v
        c = Cutouts.open(tmp_path/'a.h5')
        assert (c.zero_point is None) == (zero is None) and (zero is None or abs(c.zero_point-zero) < 1e-6), (attrs, c.zero_point)
        assert c.pixel_scale == scale or scale is None, attrs

def test_bands_in_different_units_are_brought_to_one(tmp_path, caplog):
    x = np.ones((3,2,8,8), 'f4')
    with h5py.File(tmp_path/'a.h5', 'w') as f:
        f['cutouts'],f.attrs['bands'],f.attrs['unit'] = x,['g','r'],['nJy','uJy']
        f['variance'] = x*4
    c = Cutouts.open(tmp_path/'a.h5')
    assert c.unit == 'nJy' and np.allclose(c[0].mean((1,2)), [1,1000], rtol=1e-6) and np.allclose(c.ivar(0).mean((1,2)), [.25,.25e-6], rtol=1e-6)
    assert Cutouts.open(tmp_path/'a.h5', bands='r').unit == 'uJy' and Cutouts.open(tmp_path/'a.h5', bands='r')[0].mean() == 1
    with h5py.File(tmp_path/'a.h5', 'a') as f: f.attrs['unit'] = ['nJy','counts']
    c = Cutouts.open(tmp_path/'a.h5')
    assert (c.unit,c.zero_point) == ('',None) and 'not of r' in caplog.text and (c[0] == 1).all()

@pytest.mark.parametrize('size', (1e-45, 1e-40, 1e-20, 1e12, 1e40))
def test_float64_beyond_float32_is_scaled_exactly(tmp_path, size):
    x = np.random.default_rng(0).normal(1, .1, (5,1,8,8))*size
    with h5py.File(tmp_path/'a.h5', 'w') as f:
        f['cutouts'],f.attrs['bands'],f.attrs['unit'],f['ivar'] = x,'r','erg/s/cm2/Hz',np.full(x.shape, 1/size**2 if size > 1e-150 else 1)
    c = Cutouts.open(tmp_path/'a.h5')
    got = c[:].astype(float)
    assert np.isfinite(got).all() and (got > 0).all() and np.isfinite(c.ivar(0)).all() and (c.ivar(0) > 0).all()
    np.testing.assert_allclose(got*10**(-.4*(c.zero_point+48.6)), x, rtol=1e-6)
    np.testing.assert_allclose(got**2*c.ivar(slice(None)), (x/size)**2, rtol=1e-5)

def test_old_files_have_their_origin(tmp_path):
    for unit,want in (('8-bit colour image, uint8 as stored','upper'), ('nJy','lower')):
        path = Cutouts.write(tmp_path/'a.h5', np.ones((2,3,8,8), 'f4'), 'RGB', unit=unit, overwrite=True)
        with h5py.File(path, 'a') as f: del f.attrs['origin']
        assert Cutouts.open(path).origin == want

@pytest.mark.parametrize('spec', ("['g', 'r', 'i']", '["g","r","i"]', b"('g','r','i')"))
def test_bands_as_a_list_is_printed(spec): assert band_names(spec) == ('g','r','i')

def test_tables_that_are_not_beside_the_images_are_named(tmp_path, caplog):
    with h5py.File(tmp_path/'a.h5', 'w') as f:
        f['data/images'],f['data/z'],f['redshift'],f['meta/id'],f['meta/few'] = np.zeros((6,3,8,8), 'f4'),np.arange(6.),np.arange(6.),np.arange(6),np.arange(5)
        f['data/table'] = np.zeros(6, [('id','i8'),('redshift','f8')])
    assert 'z' in Cutouts.open(tmp_path/'a.h5', bands='gri').catalog.colnames
    assert '`redshift`, `data/table`, `meta/id` have a row for each image, but are not read' in caplog.text and 'few' not in caplog.text
