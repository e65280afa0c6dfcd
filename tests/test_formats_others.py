"Pictures, tar archives, Parquet, ASDF and Zarr: the right values, packed and unpacked, or a true refusal"
import io, json, pickle, struct, sys, tarfile, zlib
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest
from astropy.io import fits
from click.testing import CliRunner
from PIL import Image
from astromask.cli import main
from astromask.core import DataError, InputError
from astromask.data.catalogs import merge
from astromask.data.cutouts import Cutouts, class_labels, redshifts

rng = np.random.default_rng(0)
def colour(seed, h=12, w=10): return np.random.default_rng(seed).integers(0, 255, (h,w,3)).astype('u1')
def saved(x, path, **kw):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(path, **kw)
    return path
def blob(x, format='PNG', **kw):
    Image.fromarray(x).save(f := io.BytesIO(), format=format, **kw)
    return f.getvalue()
def first(x): return np.moveaxis(x, -1, 0)

def packed(source, tmp_path, **kw):
    "As they are opened, and as they come back from our own file: pixels, columns, facts must be the same"
    c = Cutouts.open(source, **kw)
    back = Cutouts.open(merge(c, tmp_path/'packed.h5', overwrite=True))
    np.testing.assert_array_equal(back[:], c[:])
    assert (back.bands,back.origin,back.zero_point,back.pixel_scale,list(back.catalog['id'])) == (c.bands,c.origin,c.zero_point,c.pixel_scale,list(c.catalog['id']))
    if c.has_ivar: np.testing.assert_array_equal(back.ivar(slice(None)), c.ivar(slice(None)))
    return c

# ---- folders

def test_a_folder_for_each_class(tmp_path):
    for i,k in enumerate(('spiral','smooth','spiral','odd one')): saved(colour(i), tmp_path/f'gz/{k}/{i}.png')
    saved(colour(9), tmp_path/'gz/spiral/._3.png')
    c = packed(tmp_path/'gz', tmp_path, bands='RGB')
    labels,names = class_labels(c.catalog)
    assert [names[k] for k in labels] == ['odd one','smooth','spiral','spiral'] and list(c.catalog['id']) == ['3','1','0','2'] and c.origin == 'upper'
    for row,i in enumerate((3,1,0,2)): np.testing.assert_array_equal(c[row], first(colour(i)))
    assert c.unit.startswith('8-bit colour image') and c.zero_point is None
    alone = Cutouts.open(tmp_path/'gz/spiral', bands='RGB')
    assert class_labels(alone.catalog)[1] == () and alone.catalog['file'].tolist() == ['0.png','2.png']

def test_train_and_test_are_no_classes(tmp_path):
    for s in ('train','test'):
        for k in ('a','b'): saved(colour(1), tmp_path/f'd/{s}/{k}/{s}{k}.png')
        saved(colour(1), tmp_path/f'e/{s}/{s}.png')
    t = Cutouts.open(tmp_path/'d', bands='RGB').catalog
    assert t['class'].tolist() == ['a','b']*2 and t['split'].tolist() == ['test']*2 + ['train']*2
    t = Cutouts.open(tmp_path/'e', bands='RGB').catalog
    assert 'class' not in t.colnames and t['split'].tolist() == ['test','train']

@pytest.mark.parametrize('table', ('stem','name','path','integer','parquet','jsonl','parent'))
def test_a_table_beside_pictures(tmp_path, table, caplog):
    ids = [587722981741363294,587722981741363323,587722981742084144]
    names = [str(i) for i in ids]
    root = tmp_path/'gz'
    for i,k in enumerate(names): saved(colour(i), root/'images'/f'{k}.jpg', quality=95)
    rows = dict(stem=names, name=[f'{k}.jpg' for k in names], path=[f'images/{k}.jpg' for k in names]).get(table, names)
    where = root/'images' if table != 'parent' else root
    order = [2,0,1]
    data = dict(galaxy=[rows[i] for i in order] + ['999'], z=[.2,.0,.1,.9])
    if table == 'integer' or table == 'parquet': data['galaxy'] = [ids[i] for i in order] + [999]
    if table == 'path': data['galaxy'] = [o.split('/')[-1] if '/' in o else o for o in data['galaxy']]
    if table == 'parquet': pq.write_table(pa.table(data), where/'t.parquet')
    elif table == 'jsonl': (where/'metadata.jsonl').write_text('\n'.join(json.dumps(dict(file_name=k, z=z)) for k,z in zip(data['galaxy'], data['z'])))
    else: (where/'t.csv').write_text('galaxy,z\n' + '\n'.join(f'{k},{z}' for k,z in zip(data['galaxy'], data['z'])))
    c = packed(root, tmp_path, bands='RGB')
    assert np.allclose(redshifts(c.catalog), [0,.1,.2]) and list(c.catalog['id']) == names

def test_tables_that_do_not_fit(tmp_path, caplog):
    for i in range(3): saved(colour(i), tmp_path/f'{i}.png')
    (tmp_path/'other.csv').write_text('name,z\nx,1\ny,2\n')         # numbers of classes are no names of files
    assert 'z' not in Cutouts.open(tmp_path, bands='RGB').catalog.colnames
    assert 'other.csv is beside the pictures' in caplog.text and 'it is not used' in caplog.text
    (tmp_path/'part.csv').write_text('file,z,n\n0.png,1,7\n2.png,2,8\n')
    t = Cutouts.open(tmp_path, bands='RGB').catalog
    assert t['z'].tolist() == [1,None,2] and t['n'].tolist() == [7,None,8] and '1 of 3 pictures, such as 1.png, are not in' in caplog.text
    (tmp_path/'twin.csv').write_text('file,w\n0.png,1\n')
    with pytest.raises(DataError, match='part.csv and .*twin.csv both name the pictures'): Cutouts.open(tmp_path, bands='RGB').catalog
    (tmp_path/'twin.csv').unlink()
    (tmp_path/'part.csv').write_text('file,z\n0.png,1\n0.png,2\n')
    with pytest.raises(DataError, match='names the picture 0.png in several rows'): Cutouts.open(tmp_path, bands='RGB').catalog

def test_a_table_made_elsewhere(tmp_path):
    for k in 'ab': saved(colour(0), tmp_path/'im'/f'{k}.png')
    (tmp_path/'im'/'t.csv').write_text('id_str,file_loc,z\n7,/home/other/png/b.png,.2\n8,C:\\data\\a.png,.1\n')
    t = Cutouts.open(tmp_path/'im', bands='RGB').catalog
    assert redshifts(t).tolist() == [.1,.2] and t['id'].tolist() == ['8','7']
    (tmp_path/'im'/'t.csv').write_text('file_loc,z\n/one/b.png,.2\n/two/b.png,.1\n')
    with pytest.raises(DataError, match='names the picture b.png in several rows'): Cutouts.open(tmp_path/'im', bands='RGB').catalog
    (tmp_path/'im'/'t.csv').write_text('id,z\nx/a,.2\ny/a,.1\n')
    assert 'z' not in Cutouts.open(tmp_path/'im', bands='RGB').catalog.colnames

def test_a_table_with_arrays_beside_pictures(tmp_path):
    "A column of the table may be an array for each object, and a picture may be in no row of it"
    for k in 'ab': saved(colour(0), tmp_path/f'{k}.png')
    pq.write_table(pa.table(dict(id=['b'], z=[.5], profile=[[[1.,2.],[3.,4.]]])), tmp_path/'t.parquet')
    t = Cutouts.open(tmp_path/'*.png', bands='RGB').catalog
    assert t['z'].mask.tolist() == [True,False] and t['profile'].mask.all((1,2)).tolist() == [True,False] and t['profile'][1].tolist() == [[1,2],[3,4]]

def test_tables_of_embeddings_are_no_labels(tmp_path):
    saved(colour(0), tmp_path/'gz'/'a.png')
    told = pa.table(dict(id=['a'], z=[.5]))
    pq.write_table(told, tmp_path/'e.parquet')
    assert 'z' in Cutouts.open(tmp_path/'gz', bands='RGB').catalog.colnames
    pq.write_table(told.replace_schema_metadata({'astromask': '{}'}), tmp_path/'e.parquet')       # as `embed` and `predict` write them
    assert 'z' not in Cutouts.open(tmp_path/'gz', bands='RGB').catalog.colnames

def test_bands_are_named_by_the_caller(tmp_path):
    saved(colour(0), tmp_path/'a.png')
    with pytest.raises(InputError, match='does not tell the bands of its 3 channels'): Cutouts.open(tmp_path/'a.png')
    with pytest.raises(InputError, match='names 2 bands'): Cutouts.open(tmp_path/'a.png', bands='gr')
    assert Cutouts.open(tmp_path/'a.png', bands='irg').select('g').shape == (1,12,10)

def png16(x):
    h,w,c = x.shape
    chunk = lambda t,d: struct.pack('>I', len(d)) + t + d + struct.pack('>I', zlib.crc32(t+d))
    raw = b''.join(b'\0' + row.astype('>u2').tobytes() for row in x)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 16, {1:0,2:4,3:2,4:6}[c], 0, 0, 0)) + chunk(b'IDAT', zlib.compress(raw)) + chunk(b'IEND', b'')

@pytest.mark.parametrize('c', (1,2,3,4))
def test_16_bits_stay_16_bits(tmp_path, c):
    x = rng.integers(0, 65535, (7,6,c)).astype('u2')
    (tmp_path/'a.png').write_bytes(png16(x))
    got = packed(tmp_path/'a.png', tmp_path, bands='RGB' if c > 2 else 'g')
    np.testing.assert_array_equal(got[0], first(x)[:3 if c > 2 else 1])
    assert 'uint16' in got.unit

def test_tiff_of_every_kind(tmp_path, monkeypatch):
    tifffile = pytest.importorskip('tifffile')
    for x in (rng.integers(0, 65535, (6,5)).astype('u2'), rng.integers(0, 65535, (6,5)).astype('>u2'), rng.normal(size=(6,5)).astype('f4'), rng.integers(0, 1<<20, (6,5)).astype('i4'),
              rng.integers(0, 255, (6,5,3)).astype('u1'), rng.integers(0, 65535, (6,5,3)).astype('u2')):
        tifffile.imwrite(tmp_path/'a.tif', x)
        np.testing.assert_array_equal(Cutouts.open(tmp_path/'a.tif', bands='RGB' if x.ndim == 3 else 'r')[0], first(x) if x.ndim == 3 else x[None])
    monkeypatch.setitem(sys.modules, 'tifffile', None)
    with pytest.raises(DataError, match=r'16 bits in each colour: pip install .astromask\[formats\]'): Cutouts.open(tmp_path/'a.tif', bands='RGB')[0]
    Image.fromarray(colour(0)).save(tmp_path/'b.tif', save_all=True, append_images=[Image.fromarray(colour(1))])
    with pytest.raises(DataError, match='holds 2 images'): Cutouts.open(tmp_path/'b.tif', bands='RGB')

def test_modes_of_pictures(tmp_path, caplog):
    x = colour(0)
    saved(x, tmp_path/'a.png')
    Image.fromarray(x).convert('P', palette=Image.Palette.ADAPTIVE, colors=256).save(tmp_path/'p.png')
    saved(np.dstack([x, np.full(x.shape[:2], 7, 'u1')]), tmp_path/'rgba.png')
    saved(x[...,0], tmp_path/'grey.png')
    exif = Image.Exif()
    exif[0x0112] = 6                                        # 'turn me by 90 degrees'
    saved(np.ascontiguousarray(x), tmp_path/'turned.png', exif=exif)
    c = Cutouts.open(tmp_path, bands='RGB')
    at = {k: i for i,k in enumerate(c.catalog['id'])}
    for k in ('a','p','rgba','turned'): np.testing.assert_array_equal(c[at[k]], first(x), err_msg=k)
    np.testing.assert_array_equal(c[at['grey']], np.stack([x[...,0]]*3))
    assert '1 of 5 pictures are grey' in caplog.text

def test_other_sizes_are_padded(tmp_path, caplog):
    for i,(h,w) in enumerate(((12,10),(12,10),(8,10),(11,7))): saved(colour(i, h, w), tmp_path/'d'/f'{i}.png')
    c = packed(tmp_path/'d', tmp_path, bands='RGB')
    assert c.shape == (3,12,10) and '2 of 4 pictures are smaller than 12 x 10' in caplog.text and c.dtype == np.float32
    np.testing.assert_array_equal(c[2][:,2:10], first(colour(2, 8, 10)))
    assert np.isnan(c[2]).sum() == 3*4*10 and np.isnan(c[3]).sum() == 3*(120-77)
    saved(colour(5, 200, 200), tmp_path/'d/5.png')
    with pytest.raises(DataError, match='more than 16 times'): Cutouts.open(tmp_path/'d', bands='RGB')

def test_sets_that_are_none(tmp_path):
    saved(colour(0), tmp_path/'a.png')
    saved(rng.integers(0, 9, (12,10)).astype('u2'), tmp_path/'b.png')
    with pytest.raises(DataError, match='b.png holds uint16, but a.png uint8'): Cutouts.open(tmp_path, bands='RGB')
    whole = (tmp_path/'a.png').read_bytes()
    (tmp_path/'b.png').write_bytes(whole[:-40])
    c = Cutouts.open(tmp_path, bands='RGB')
    with pytest.raises(DataError, match='b.png .*(damaged|cannot be)'): c[1]
    np.testing.assert_array_equal(c[0], first(colour(0)))
    (tmp_path/'b.png').write_bytes(b'\x89PNG\r\n\x1a\n' + b'\0'*40)
    with pytest.raises(DataError, match='b.png'): Cutouts.open(tmp_path, bands='RGB')
    (tmp_path/'b.png').write_text('<html>')
    with pytest.raises(DataError, match='b.png'): Cutouts.open(tmp_path, bands='RGB')

def test_decompression_bombs_are_refused(tmp_path):
    chunk = lambda t,d: struct.pack('>I', len(d)) + t + d + struct.pack('>I', zlib.crc32(t+d))
    for side in (20_000,10_000):
        (tmp_path/'a.png').write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)) + chunk(b'IDAT', b'x') + chunk(b'IEND', b''))
        with pytest.raises(DataError, match='too many for a cutout|decompression bomb'): Cutouts.open(tmp_path/'a.png', bands='RGB')

# ---- archives

def tar_of(path, members, **kw):
    with tarfile.open(path, 'w', **kw) as tar:
        for name,data in members:
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(data, bytes): info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path

def npy(x, **kw):
    np.save(f := io.BytesIO(), x, **kw)
    return f.getvalue()

def test_webdataset(tmp_path):
    def sample(i): return [(f'./{i:04}.png', blob(colour(i))), (f'./{i:04}.cls', str(i % 3).encode()), (f'./{i:04}.json', json.dumps(dict(id=10**18+i, redshift=None if i == 1 else i/10, nested=[1], ok=True)).encode())]
    shards = [tar_of(tmp_path/f's-{k}.tar', [o for i in range(k*3, k*3+3) for o in sample(i)]) for k in range(2)]
    c = packed(f'{tmp_path}/s-*.tar', tmp_path, bands='RGB')
    np.testing.assert_array_equal(c[[5,0,3]], [first(colour(i)) for i in (5,0,3)])
    assert list(c.catalog['id']) == [str(10**18+i) for i in range(6)] and class_labels(c.catalog)[0].tolist() == [0,1,2]*2
    np.testing.assert_array_equal(redshifts(c.catalog), [0,np.nan,.2,.3,.4,.5])
    again = pickle.loads(pickle.dumps(c))
    np.testing.assert_array_equal(again[5], c[5])

def test_webdataset_of_arrays_and_folders(tmp_path):
    x = rng.normal(size=(2,5,8,8)).astype('f4')
    c = packed(tar_of(tmp_path/'a.tar', [(f'{k}/{i}.npy', npy(o)) for k,i,o in (('star',0,x[0]), ('galaxy',1,np.moveaxis(x[1], 0, -1)))]), tmp_path, bands='grizy')
    assert c.catalog['class'].tolist() == ['galaxy','star'] and c.catalog['id'].tolist() == ['1','0']
    np.testing.assert_array_equal(c[:], x[[1,0]])
    assert c.origin == 'lower'             # arrays of numbers are no photographs

def test_hostile_archives(tmp_path, caplog):
    link,device = tarfile.TarInfo('b.png'),tarfile.TarInfo('c.png')
    link.type,link.linkname = tarfile.SYMTYPE,'/etc/passwd'
    device.type = tarfile.CHRTYPE
    c = Cutouts.open(tar_of(tmp_path/'a.tar', [('../../a.png', blob(colour(0))), ('', link), ('', device), ('._a.png', b'x'), ('a.seg.png', blob(colour(1)))]), bands='RGB')
    assert len(c) == 1 and (c[0] == first(colour(0))).all() and not (tmp_path.parent/'a.png').exists()
    with pytest.raises(DataError, match='0.npy of .*b.tar'): Cutouts.open(tar_of(tmp_path/'b.tar', [('0.npy', npy(np.array([{}], dtype=object)))]), bands='r')
    with pytest.raises(DataError, match=r'holds no pictures .* but 1 .pkl'): Cutouts.open(tar_of(tmp_path/'c.tar', [('0.pkl', pickle.dumps(1))]), bands='r')
    huge = b'\x93NUMPY\1\0v\0' + b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 99999999, 99999999), }".ljust(117) + b'\n'
    with pytest.raises(DataError, match='0.npy of'): Cutouts.open(tar_of(tmp_path/'d.tar', [('0.npy', huge)]), bands='gri')
    with pytest.raises(DataError, match='kind gzip'): Cutouts.open(Path(tar_of(tmp_path/'z.tar', []).with_suffix('.tar.gz')).write_bytes(__import__('gzip').compress((tmp_path/'a.tar').read_bytes())) and tmp_path/'z.tar.gz')
    whole = (tmp_path/'a.tar').read_bytes()
    (tmp_path/'e.tar').write_bytes(whole[:700])
    with pytest.raises(DataError, match='damaged or truncated'): Cutouts.open(tmp_path/'e.tar', bands='RGB')
    got = Cutouts.open(tar_of(tmp_path/'f.tar', [('0.png', blob(colour(0))), ('0.json', b'{"a": '), ('0.seg.png', blob(colour(0))), ('0.pth', b'x')]), bands='RGB')
    with pytest.raises(DataError, match='0.json of'): got.catalog

# ---- Parquet

FEATURES = {b'huggingface': json.dumps(dict(info=dict(features=dict(image=dict(_type='Image'), label=dict(names=['no','yes'], _type='ClassLabel'))))).encode()}
ENCODED = pa.struct([('bytes', pa.binary()), ('path', pa.string())])

def hf(path, rows, **columns):
    schema = pa.schema([('image', ENCODED)] + [(k, pa.array(v).type) for k,v in columns.items()], FEATURES)
    pq.write_table(pa.table(dict(image=[dict(bytes=b, path=None) for b in rows]) | columns, schema), path, row_group_size=2)
    return path

def test_hugging_face(tmp_path):
    files = [hf(tmp_path/f'data-{k}-of-2.parquet', [blob(colour(5*k+i), 'PNG') for i in range(5)], label=[i % 2 for i in range(5)], big=[2**62+k*5+i for i in range(5)], name=[f'n{k}{i}' for i in range(5)]) for k in range(2)]
    c = packed(tmp_path, tmp_path/'out', bands='RGB') if (tmp_path/'out').mkdir() is None else None
    np.testing.assert_array_equal(c[[9,0,4,5,3]], [first(colour(i)) for i in (9,0,4,5,3)])
    assert class_labels(c.catalog) [1] == ('no','yes') and class_labels(c.catalog)[0].tolist() == [0,1,0,1,0]*2 and c.catalog['big'].tolist() == [2**62+i for i in range(10)]
    again = pickle.loads(pickle.dumps(c))
    np.testing.assert_array_equal(again[3], c[3])

def test_parquet_of_bytes_and_of_lists(tmp_path):
    pq.write_table(pa.table(dict(img=pa.array([blob(colour(i)) for i in range(3)], pa.binary()), id=['a','b','c'])), tmp_path/'a.parquet')
    assert packed(tmp_path/'a.parquet', tmp_path, bands='RGB').catalog['id'].tolist() == ['a','b','c']
    x = rng.normal(size=(4,3,8,8))
    for k,(y,t) in dict(first=(x, pa.list_(pa.list_(pa.list_(pa.float64())))), last=(np.moveaxis(x, 1, -1), pa.list_(pa.list_(pa.list_(pa.float32())))), fixed=(x, pa.list_(pa.list_(pa.list_(pa.float64(), 8), 8), 3))).items():
        pq.write_table(pa.table(dict(image=pa.array(y.tolist(), t))), tmp_path/'b.parquet', row_group_size=3)
        np.testing.assert_allclose(packed(tmp_path/'b.parquet', tmp_path, bands='gri')[[3,0]], x[[3,0]], rtol=1e-6, err_msg=k)
    pq.write_table(pa.table(dict(image=[[[1.,2],[3,4]],[[1.,2],[3]]])), tmp_path/'c.parquet')
    with pytest.raises(DataError, match='row 1 of `image` cannot be used: its lists differ in length'): Cutouts.open(tmp_path/'c.parquet', bands='r')[:]

def test_parquet_that_holds_no_images(tmp_path):
    pq.write_table(pa.table(dict(a=[1,2], spectrum=[[1.,2.],[3.,4.]])), tmp_path/'a.parquet')
    with pytest.raises(DataError, match='holds no images: its columns are a'): Cutouts.open(tmp_path/'a.parquet', bands='r')
    hf(tmp_path/'b.parquet', [None, blob(colour(0))])
    with pytest.raises(DataError, match='row 0 of `image` holds no image'): Cutouts.open(tmp_path/'b.parquet', bands='RGB')
    pq.write_table(pa.table(dict(one=pa.array([blob(colour(0))]), two=pa.array([blob(colour(0))]))), tmp_path/'c.parquet')
    with pytest.raises(DataError, match='several columns with images \\(one, two\\)'): Cutouts.open(tmp_path/'c.parquet', bands='RGB')

BAND = dict(band=pa.string(), flux=pa.list_(pa.list_(pa.float32())), ivar=pa.list_(pa.list_(pa.float32())), mask=pa.list_(pa.list_(pa.bool_())), psf_fwhm=pa.float32(), scale=pa.float32())

def mmu(path, x, ivar, mask, bands, how='list of structs', leave=(), scale=.168):
    "As the Multimodal Universe 1.5 writes it; `bands` of each row in its own order"
    fields = {k: t for k,t in BAND.items() if k not in leave}
    rows = [[{k: v for k,v in dict(band=b, flux=x[i][b].tolist(), ivar=ivar[i][b].tolist(), mask=mask[i][b].tolist(), psf_fwhm=.7, scale=scale).items() if k in fields} for b in names] for i,names in enumerate(bands)]
    if how == 'list of structs': column = pa.array(rows, pa.list_(pa.struct(list(fields.items()))))
    else: column = pa.array([{k: [o[k] for o in r] for k in fields} for r in rows], pa.struct([(k, pa.list_(t)) for k,t in fields.items()]))
    n = len(bands)
    pq.write_table(pa.table(dict(image=column, object_id=[f'o{i}' for i in range(n)], ra=np.arange(n)+.25, dec=np.zeros(n), _healpix_29=np.arange(n)+2**60)), path, row_group_size=3)

@pytest.mark.parametrize('how', ('list of structs','struct of lists'))
@pytest.mark.parametrize('leave', ((),('ivar',),('ivar','mask')))
def test_multimodal_universe(tmp_path, how, leave):
    names,n = ('hsc-g','hsc-r','hsc-i'),7
    x = [{b: rng.normal(size=(8,8)).astype('f4') for b in names} for _ in range(n)]
    ivar = [{b: rng.uniform(1, 2, (8,8)).astype('f4') for b in names} for _ in range(n)]
    mask = [{b: np.ones((8,8), bool) for b in names} for _ in range(n)]
    ivar[2]['hsc-r'][3,4],mask[4]['hsc-i'][1,1] = 0,False
    bands = [names]*n
    bands[3],bands[5] = names[::-1],names[:1] + names[2:]
    where = tmp_path/'cat/dataset/Norder=0/Dir=0'
    where.mkdir(parents=True)
    (tmp_path/'cat/dataset/_common_metadata').touch()
    (tmp_path/'cat/properties').touch()
    mmu(where/'Npix=3.parquet', x[:4], ivar[:4], mask[:4], bands[:4], how, leave)
    mmu(where/'Npix=12.parquet', x[4:], ivar[4:], mask[4:], bands[4:], how, leave)
    c = packed(tmp_path/'cat', tmp_path)
    right = np.stack([[x[i][b] if b in bands[i] else np.full((8,8), np.nan) for b in names] for i in range(n)])
    if 'ivar' not in leave: right[2,1,3,4] = np.nan           # the inverse variance decides, not the mask
    elif 'mask' not in leave: right[4,2,1,1] = np.nan         # True says good
    np.testing.assert_array_equal(c[:], right)
    assert c.bands == names and np.isclose(c.pixel_scale, .168) and c.origin == 'lower' and c.has_ivar == ('ivar' not in leave) and c.zero_point is None
    assert c.catalog['id'].tolist() == ['o0','o1','o2','o3','o0','o1','o2'] and c.catalog['_healpix_29'][1] == 2**60+1 and c.catalog['ra'][2] == 2.25
    if c.has_ivar: np.testing.assert_array_equal(c.ivar(5), np.where(np.isnan(right[5]), 0, [ivar[5].get(b) for b in names]))
    np.testing.assert_array_equal(Cutouts.open(tmp_path/'cat', bands='hsc-i,hsc-g')[[6,3]], right[[6,3]][:,[2,0]])

def test_multimodal_universe_refusals(tmp_path):
    names = ('g','r')
    some = lambda n, shape=(4,4): [{b: np.ones(shape, 'f4') for b in (*names,'z')} for _ in range(n)]
    good = [{b: np.ones((4,4), bool) for b in (*names,'z')}]*3
    mmu(tmp_path/'a.parquet', some(2) + some(1, (5,5)), some(2) + some(1, (5,5)), good[:2] + [{b: np.ones((5,5), bool) for b in names}], [names]*3)
    with pytest.raises(DataError, match=r'row 2 has \(5, 5\) image, but the first \(4, 4\)'): Cutouts.open(tmp_path/'a.parquet')[:]
    mmu(tmp_path/'b.parquet', some(2), some(2), good, [names,('g','z')])
    with pytest.raises(DataError, match='row 1 has the bands g,z, but the first one g,r'): Cutouts.open(tmp_path/'b.parquet')[:]

def test_a_large_file_is_read_in_bounded_memory(tmp_path):
    "A file of one row group, much larger than what may be held"
    import subprocess
    one = pa.array([np.ones((4,128,128)).tolist()], pa.list_(pa.list_(pa.list_(pa.float32()))))
    with pq.ParquetWriter(tmp_path/'a.parquet', pa.schema([('image', one.type)]), compression='none', use_dictionary=False) as w: w.write_table(pa.table(dict(image=pa.concat_arrays([one]*1200))), row_group_size=1200)
    code = '''import resource, sys
from astromask.data.cutouts import Cutouts
c = Cutouts.open(sys.argv[1], bands='griz')
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for i in range(0, len(c), 60): assert c[i:i+60].sum() == 60*4*128*128
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)/1024)'''
    assert (tmp_path/'a.parquet').stat().st_size > 300e6
    assert float(subprocess.run([sys.executable, '-c', code, tmp_path/'a.parquet'], capture_output=True, text=True, check=True).stdout) < 200

# ---- ASDF and Zarr

def test_roman(tmp_path):
    asdf = pytest.importorskip('asdf')
    x = rng.normal(size=(9,9)).astype('f4')
    def put(name, **kw): asdf.AsdfFile(dict(roman=kw)).write_to(tmp_path/name)
    put('a.asdf', data=x, err=np.full((9,9), .5, 'f4'), dq=np.eye(9, dtype='u4'), var_poisson=np.ones((9,9), 'f4'), var_rnoise=np.ones((9,9), 'f4'), meta=dict(instrument=dict(optical_element='F158'), photometry=dict(conversion_megajanskys=.3, pixel_area=2.8e-13)))
    c = packed(tmp_path/'a.asdf', tmp_path)
    np.testing.assert_array_equal(c[0][0], np.where(np.eye(9) == 1, np.nan, x))
    np.testing.assert_array_equal(c.ivar(0)[0], np.where(np.eye(9) == 1, 0, 4))
    assert c.bands == ('F158',) and c.unit == 'DN/s' and abs(c.zero_point - (8.9-2.5*np.log10(.3e6*2.8e-13))) < 1e-6 and abs(c.pixel_scale-.10915) < 1e-4 and c.catalog['id'].tolist() == ['a']
    put('q.asdf', data=dict(value=x, unit='nJy'), meta=dict(instrument=dict(optical_element='F158')))
    assert Cutouts.open(tmp_path/'q.asdf').zero_point == 31.4
    put('n.asdf', data=np.stack([x]*3))
    with pytest.raises(InputError, match='does not tell the bands of its 3 channels'): Cutouts.open(tmp_path/'n.asdf')
    assert Cutouts.open(tmp_path/'n.asdf', bands='gri').zero_point is None
    put('g.asdf', data=x, meta=dict(instrument=dict(optical_element='F106')))
    with pytest.raises(DataError, match='names do not tell'): Cutouts.open([tmp_path/'a.asdf', tmp_path/'g.asdf'])
    put('big.asdf', data=np.zeros((2100,2100), 'f4'))
    with pytest.raises(DataError, match='astrocut'): Cutouts.open(tmp_path/'big.asdf', bands='r')

def test_asdf_files_in_other_units(tmp_path, caplog):
    "They are brought to the zero point of the first, as FITS files are; what one knows of its noise, all must"
    asdf = pytest.importorskip('asdf')
    x = rng.normal(size=(9,9)).astype('f4')
    def put(name, **kw): asdf.AsdfFile(kw).write_to(tmp_path/name)
    put('a.asdf', data=x, err=np.full((9,9), .5, 'f4'), unit='nJy', band='r')
    put('b.asdf', data=x/1000, err=np.full((9,9), .0005, 'f4'), unit='uJy', band='r')
    c = Cutouts.open(tmp_path)
    np.testing.assert_allclose(c[:], [[x],[x]], rtol=1e-6)
    np.testing.assert_allclose(c.ivar([0,1]), 4, rtol=1e-5)
    assert c.zero_point == 31.4 and 'brought to the zero point of the first' in caplog.text
    put('c.asdf', data=x, unit='nJy', band='r')
    with pytest.raises(DataError, match='c.asdf has inverse variances False, but .*a.asdf has True'): Cutouts.open(tmp_path)

def test_hostile_asdf(tmp_path):
    asdf = pytest.importorskip('asdf')
    head = '#ASDF 1.0.0\n#ASDF_STANDARD 1.5.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n--- !core/asdf-1.1.0\n'
    asdf.AsdfFile(dict(data=np.ones((4,4)))).write_to(tmp_path/'other.asdf')
    def refused(body, words):
        (tmp_path/'a.asdf').write_text(f'{head}{body}\n...\n')
        with pytest.raises(DataError, match=words): Cutouts.open(tmp_path/'a.asdf', bands='r')
    refused('data: {$ref: "other.asdf#/data"}', 'points at other files')
    refused('data: !core/ndarray-1.0.0 {source: other.asdf, datatype: float64, byteorder: little, shape: [4,4]}', 'points at other files')
    refused('data: !core/ndarray-1.0.0 {source: "http://127.0.0.1:9/x.asdf", datatype: float64, byteorder: little, shape: [4,4]}', 'points at other files')
    refused('data: !!python/object/apply:os.system ["true"]', 'a.asdf')
    refused('a: &a [x,x,x,x,x,x,x,x,x]\n' + '\n'.join(f'{k}: &{k} [{",".join(["*"+p]*9)}]' for p,k in zip('abcdefghij', 'bcdefghijk')), 'repeats its own parts')
    refused('a: &a\n  b: *a', 'repeats its own parts')
    refused('data: !core/ndarray-1.0.0 {source: 0, datatype: float64, byteorder: little, shape: [4,4]}', 'a.asdf')
    refused('data: [1, 2', 'a.asdf')

@pytest.mark.parametrize('version', (2,3))
def test_zarr(tmp_path, version, caplog):
    zarr = pytest.importorskip('zarr')
    x = rng.normal(size=(10,3,8,8)).astype('f4')
    g = zarr.open_group(tmp_path/'a.zarr', mode='w', zarr_format=version)
    g = g.create_group('data')
    def put(k, v, **kw): g.create_array(k, data=v, chunks=(4,*v.shape[1:]), **kw)
    put('images', x)
    put('redshift', np.arange(10.))
    put('object_id', np.arange(10)+2**60)
    put('name', np.array([f'n{i}' for i in range(10)]))
    put('ivar', np.ones(x.shape, 'f4'))
    g.attrs.update(filters=['g','r','i'], BUNIT='nJy', pixscale=.2)
    c = packed(tmp_path/'a.zarr', tmp_path)
    np.testing.assert_array_equal(c[[9,0,5]], x[[9,0,5]])
    assert (c.zero_point,c.pixel_scale,c.bands) == (31.4,.2,('g','r','i')) and c.catalog['id'].tolist() == [str(2**60+i) for i in range(10)] and c.catalog['name'][9] == 'n9'
    gone = next(p for p in (tmp_path/'a.zarr/data/images').rglob('*') if p.is_file() and p.name not in ('zarr.json','.zarray','.zattrs') and ('/1/' in str(p) or p.name.startswith('1.')))
    gone.unlink()
    lost = Cutouts.open(tmp_path/'a.zarr')[:]
    assert np.isnan(lost[4:8]).all() and 'count as missing' in caplog.text
    with pytest.raises(DataError, match='has changed'): ((tmp_path/'a.zarr'/('zarr.json' if version == 3 else '.zgroup')).write_text('{}'), c[0])

@pytest.mark.parametrize('version', (2,3))
def test_zarr_of_one_array(tmp_path, version):
    zarr = pytest.importorskip('zarr')
    x = rng.normal(size=(5,3,8,8)).astype('f4')
    a = zarr.open_array(tmp_path/'a.zarr', mode='w', shape=x.shape, dtype='f4', chunks=(2,3,8,8), zarr_format=version)
    a[:] = x
    np.testing.assert_array_equal(Cutouts.open(tmp_path/'a.zarr', bands='gri')[:], x)
    a.attrs['bands'] = ['z','r','g']
    c = Cutouts.open(tmp_path/'a.zarr')
    assert c.bands == ('z','r','g')
    np.testing.assert_array_equal(c[[4,1]], x[[4,1]])

def test_hostile_zarr(tmp_path, monkeypatch):
    zarr = pytest.importorskip('zarr')
    g = zarr.open_group(tmp_path/'a.zarr', mode='w', zarr_format=2)
    g.create_array('images', data=np.ones((2,3,8,8), 'f4'))
    meta = json.loads((tmp_path/'a.zarr/images/.zarray').read_text())
    (tmp_path/'a.zarr/labels').mkdir()
    (tmp_path/'a.zarr/labels/.zarray').write_text(json.dumps(meta | dict(dtype='|O', shape=[2], chunks=[2], filters=[dict(id='pickle', protocol=5)])))
    with pytest.raises(DataError, match='would run what is in the file'): Cutouts.open(tmp_path/'a.zarr', bands='gri')
    for name in ('zarr','asdf'): monkeypatch.setitem(sys.modules, name, None)
    (tmp_path/'a.zarr/labels/.zarray').unlink()
    (tmp_path/'b.asdf').write_bytes(b'#ASDF 1.0.0\n')
    for name,kind in (('a.zarr','Zarr'), ('b.asdf','ASDF')):
        with pytest.raises(DataError, match=rf'is {kind}: pip install .astromask\[formats\]'): Cutouts.open(tmp_path/name, bands='gri')

# ---- by the command line

def test_pack_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i,k in enumerate(('a','b')): saved(colour(i), tmp_path/f'gz/{k}/{i}.jpg')
    run = lambda *a: CliRunner().invoke(main, list(map(str, a)))
    r = run('pack', 'gz', '--out', 'o.h5', '--bands', 'R,G,B', '--pixel-scale', '.4')
    assert r.exit_code == 0, r.output
    c = Cutouts.open('o.h5')
    assert c.bands == ('R','G','B') and c.origin == 'upper' and c.pixel_scale == .4 and class_labels(c.catalog)[1] == ('a','b')
    r = run('pack', 'gz', '--out', 'p.h5')
    assert r.exit_code == 2 and 'does not tell the bands' in r.output
    r = run('inspect', 'gz', '--bands', 'R,G,B')
    assert r.exit_code == 0 and 'pictures' in r.output

@pytest.mark.parametrize('kind', ['parquet','asdf','png','npy','fits'])
def test_what_was_read_belongs_to_the_reader(tmp_path, kind):
    "Who computes in place with what was read does not change what is read next (a set that keeps its last rows gave them away)"
    x = np.arange(1, 2*3*8*8+1, dtype='f4').reshape(2,3,8,8)
    if kind == 'parquet': pq.write_table(pa.table(dict(image=[o.tolist() for o in x])), tmp_path/'a.parquet')
    if kind == 'npy': np.save(tmp_path/'a.npy', x)
    for i,o in enumerate(x):
        if kind == 'asdf': pytest.importorskip('asdf').AsdfFile(dict(data=o)).write_to(tmp_path/f'{i}.asdf')
        if kind == 'fits': fits.PrimaryHDU(o).writeto(tmp_path/f'{i}.fits')
        if kind == 'png': Image.fromarray(o.transpose(1,2,0).astype('u1')).save(tmp_path/f'{i}.png')
    c = Cutouts.open(tmp_path, bands='gri')
    first = c.read([0,1])
    before = first.copy()
    first *= 2
    assert (c.read([0,1]) == before).all()
