"Whatever a file holds, its reader gives an answer or one of our errors in one sentence. ASTROMASK_FUZZ=10000 for the long run"
import json, os
import h5py, numpy as np, torch, yaml
from astropy.io import fits
from hypothesis import HealthCheck, given, settings, strategies as st
from torch.utils.data import TensorDataset
from astromask.core import AstroMaskError, DataError, RunDir
from astromask.files import read_json
from astromask.data.cutouts import Cutouts, class_labels, redshifts
from astromask.data.splits import load_split
from astromask.models.mae import MAE
from astromask.models.weights import load_model, save_model
from astromask.runs import is_done
from astromask.parameters import Parameter, check_parameters, read_parameters, read_params_file
from astromask.train.checkpoint import newest_checkpoint, save_checkpoint, verify

cases = int(os.environ.get('ASTROMASK_FUZZ', 200))
fuzz = settings(max_examples=cases, deadline=None, database=None, derandomize=cases < 1000, suppress_health_check=list(HealthCheck))

def pixels(*shape, dtype='f4'):
    x = np.random.default_rng(0).normal(size=shape)
    return (x*60).astype(dtype) if np.dtype(dtype).kind in 'iu' else x.astype(dtype)

def ours(do, *args, **kw):
    "What a function gives, or None if it refuses with an error of ours"
    try: return do(*args, **kw)
    except AstroMaskError as e: assert str(e) and '\n' not in str(e), e

scalars = st.one_of(st.integers(-2**63, 2**63-1), st.floats(), st.text(max_size=8), st.binary(max_size=8).map(np.void), st.booleans())
names = st.sampled_from(['bands','unit','survey','format','class_names','ans_names','names','missing','z','pixel_scale'])
values = st.one_of(scalars, st.lists(st.text(max_size=6), max_size=6), st.lists(st.floats(width=32), max_size=6).map(np.array),
                   st.just(h5py.Empty('f4')), st.lists(st.binary(max_size=5), min_size=1, max_size=5).map(np.array))

def only_ours(path, **how):
    "Open and read everything; only our errors, in one sentence"
    try:
        c = Cutouts.open(path, **how)
        c[[1,0]],c[-1],c.catalog,class_labels(c.catalog),redshifts(c.catalog)
    except (AstroMaskError,IndexError) as e:
        assert '\n' not in str(e) and (not isinstance(e, IndexError) or len(c) == 1), e

@fuzz
@given(st.dictionaries(names, values, max_size=4), st.dictionaries(names, values, max_size=3), st.booleans())
def test_fuzz_attributes(tmp_path_factory, attrs, own, named):
    path = tmp_path_factory.getbasetemp()/'attrs.h5'
    with h5py.File(path, 'w') as f:
        f['cutouts'],f['ans'] = pixels(3,2,4,4),[0,1,2]
        for d,some in ((f, attrs), (f['cutouts'], own), (f['ans'], own)):
            for k,v in some.items():
                try: d.attrs[k] = v
                except (ValueError,TypeError,OSError,OverflowError): pass     # what h5py cannot write cannot be in a file
    only_ours(path, **(dict(bands='gr') if named and 'bands' not in attrs else {}))

columns = st.one_of(
    st.tuples(st.sampled_from(['f4','f8','i1','i8','u2','u8','?','S3','>f4','f2']), st.lists(st.integers(0, 4), max_size=3)).map(lambda o: np.ones(o[1], o[0])),
    st.lists(st.text(max_size=5), min_size=3, max_size=3), st.lists(st.binary(max_size=5), min_size=3, max_size=3).map(lambda o: np.array(o, 'S5')),
    st.lists(st.one_of(st.floats(), st.none().map(lambda _: np.nan)), min_size=3, max_size=3).map(np.array), scalars, st.just(h5py.Empty('f4')),
    st.just(np.array([(1,2.)]*3, [('a','i4'),('b','f4')])), st.just(np.ones(3, 'c8')))
column_names = st.one_of(st.sampled_from(['id','ID','object_id','ra','RA','Dec','dec','class','ans','label','zspec','redshift','z','cutouts','images','ivar','mask','image_array',
                                          'image_band','image_ivar','pxscale','inds','flux','class name']), st.text(min_size=1, max_size=5))

@fuzz
@given(st.dictionaries(column_names, columns, max_size=6), st.sampled_from(['cutouts','images','image_array']), st.sampled_from(['f4','u1','>f8']))
def test_fuzz_columns(tmp_path_factory, found, where, dtype):
    path = tmp_path_factory.getbasetemp()/'columns.h5'
    with h5py.File(path, 'w') as f:
        for k,v in ({where: pixels(3,2,4,4, dtype=dtype)} | found).items():
            try: f[k] = v
            except (ValueError,TypeError,OSError,OverflowError): pass
    only_ours(path, bands='gr')

@fuzz
@given(st.lists(st.tuples(st.integers(0, 1<<30), st.integers(0, 255)), min_size=1, max_size=6), st.booleans(), st.integers(0, 1<<30))
def test_fuzz_numpy_headers(tmp_path_factory, changes, archive, cut):
    d = tmp_path_factory.getbasetemp()
    path,x = d/('a.npz' if archive else 'a.npy'),pixels(3,2,4,4)
    if archive: np.savez(path, x=x, ra=np.arange(3.), name=np.array(['a','b','c']))
    else: np.save(path, x)
    whole = bytearray(path.read_bytes())
    head = len(whole) if archive else 128
    for at,to in changes: whole[at % head] = to
    path.write_bytes(whole[:1 + cut % len(whole)] if cut % 7 == 0 else whole)
    only_ours(path, bands='gr')

@fuzz
@given(st.text('(){}[]\'",: <>|=0123456789fiuOSbTrueFalsndcrhpo_-', max_size=80))
def test_fuzz_numpy_header_text(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp()/'text.npy'
    with open(path, 'wb') as f: f.write(b'\x93NUMPY\x01\x00'+len(text).to_bytes(2, 'little')+text.encode('latin1')+bytes(400))
    only_ours(path, bands='gr')

sky = dict(CTYPE1='RA---TAN-SIP', CTYPE2='DEC--TAN-SIP', CRVAL1=10., CRVAL2=2., CRPIX1=2., CRPIX2=2., CD1_1=-1e-4, CD2_2=1e-4, WCSAXES=2, A_ORDER=2, B_ORDER=2, A_2_0=1e-6)
cards = st.one_of(st.tuples(st.sampled_from(['NAXIS','NAXIS1','NAXIS2','NAXIS3','BITPIX','BZERO','BSCALE','BLANK','EXTEND','PCOUNT','GCOUNT','BANDS','FILTER','EXTNAME','RA','DEC','BUNIT',*sky,'ZIMAGE','XTENSION']),
                            st.one_of(st.integers(-9, 99), st.integers(), st.floats().map(str), st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20))),
                  st.tuples(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8), st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=70)))

@fuzz
@given(st.lists(cards, max_size=4), st.booleans(), st.integers(0, 1<<20))
def test_fuzz_fits_headers(tmp_path_factory, changed, quoted, cut):
    base = tmp_path_factory.getbasetemp()
    whole = base/'whole.fits'
    if not whole.exists(): fits.HDUList([fits.PrimaryHDU(pixels(2,4,4), fits.Header(dict(BANDS='gr') | sky)), fits.ImageHDU(np.ones((2,4,4), 'f4'), name='IVAR')]).writeto(whole)
    data = bytearray(whole.read_bytes())
    for i,(k,v) in enumerate(changed):
        card = f'{k:8}= {repr(v) if quoted and isinstance(v, str) else v}'[:80].ljust(80).encode('latin1', 'replace')
        here = next((at for at in range(0, 2880, 80) if data[at:at+8] == f'{k:8}'.encode('latin1', 'replace')[:8]), 80*(7+i))
        data[here:here+80] = card
    path = base/'fuzzed.fits'
    path.write_bytes(data[:1 + cut % len(data)] if cut % 5 == 0 else data)
    try: Cutouts.open([path])[[0]],Cutouts.open([path]).catalog
    except AstroMaskError as e: assert '\n' not in str(e)

@fuzz
@given(st.lists(st.tuples(st.integers(0, 1<<30), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 1<<30))
def test_fuzz_torch_files(tmp_path_factory, changes, cut):
    base = tmp_path_factory.getbasetemp()
    whole,path = base/'whole.pt',base/'a.pt'
    if not whole.exists(): torch.save(TensorDataset(torch.zeros(3,5,4,4), torch.zeros(3,5), torch.zeros(3)), whole)
    data = bytearray(whole.read_bytes())
    pickled = data.index(b'data.pkl')
    for at,to in changes: data[pickled + at % (len(data)-pickled if at % 2 else 700)] = to      # half of them in the pickle
    path.write_bytes(data[:1 + cut % len(data)] if cut % 7 == 0 else data)
    only_ours(path)

# what runs and models leave behind: JSON and YAML

anything = st.recursive(st.none() | st.booleans() | st.integers(-99, 99) | st.integers() | st.floats() | st.text(max_size=5),
                        lambda o: st.lists(o, max_size=4) | st.dictionaries(st.text(max_size=5), o, max_size=4), max_leaves=8)

def changed(whole):
    "Some of its values (or those within) replaced by anything, or left out"
    def within(v): return anything if not v else changed(v) if isinstance(v, dict) else anything | st.tuples(within(v[0])) if isinstance(v, list) else anything
    keys = st.lists(st.sampled_from(sorted(whole)), max_size=3, unique=True)
    some = keys.flatmap(lambda ks: st.fixed_dictionaries({k: st.just(None) | within(whole[k]) for k in ks}))
    return st.tuples(some, st.booleans()).map(lambda o: {k: v for k,v in (whole | o[0]).items() if not (o[1] and k in o[0] and v is None)})

@fuzz
@given(st.binary(max_size=40) | st.text('[]{}":,0123456789.eE+-nulltrefasNI \n').map(str.encode) | st.integers(1, 9999).map(lambda n: b'['*n))
def test_fuzz_json(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp()/'a.json'
    path.write_bytes(data)
    ours(read_json, path)
    ours(read_parameters, path)

def run_of(folder, manifest, params='epochs: 2\n'):
    (folder/'params.yaml').write_text(params)
    (folder/'manifest.json').write_text(json.dumps(manifest))
    return RunDir(folder)

spec = dict(epochs=Parameter('int', 2), data=Parameter('path', ''))
manifest = dict(experiment='toy', state='done', exit_code=0, sessions=[dict(started='20261121T093000Z', seconds=3.)], versions=dict(python='3'))

@fuzz
@given(anything | changed(manifest), changed(dict(epochs=2, data='')) | anything)
def test_fuzz_manifest(tmp_path_factory, found, params):
    (d := tmp_path_factory.getbasetemp()/'run').mkdir(exist_ok=True)
    run = run_of(d, found, yaml.safe_dump(params))
    ours(is_done, run, 'toy', dict(epochs=3, data=''), spec)
    ours(run.manifest, state='running')
    (d/'metrics.json').write_text(json.dumps(found))
    ours(run.metrics, loss=1.)

@fuzz
@given(st.binary(max_size=40) | anything.map(lambda o: yaml.safe_dump(o).encode()) | st.text('[]{}:-,&*!|>"\' \n0123456789abeE._%').map(str.encode)
       | st.sampled_from([b'['*400, b'- '*400, b'{a: '*400]))
def test_fuzz_recipes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp()/'a.yaml'
    path.write_bytes(data)
    found = ours(read_params_file, path)
    if found is not None: ours(check_parameters, spec, found)

notebook = dict(cells=[dict(cell_type='code', source='epochs: int = 2   # Passes', metadata=dict(tags=['parameters']))], nbformat=4, metadata={})

@fuzz
@given(anything | changed(notebook), st.text('epochs: int=2#\n[]()*lambd"\'', max_size=30) | st.sampled_from(['a: int = 10**10**10', 'a: int = (' + '('*300, 'a = 1\0']))
def test_fuzz_notebooks(tmp_path_factory, found, source):
    path = tmp_path_factory.getbasetemp()/'a.ipynb'
    for nb in (found, notebook | dict(cells=[notebook['cells'][0] | dict(source=source)])):
        path.write_text(json.dumps(nb))
        ours(read_parameters, path)

small = dict(img_size=8, patch_size=4, bands='gr', embed_dim=8, depth=1, num_heads=2, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)

sizes = st.integers(-2, 20) | st.sampled_from([1<<15, 1<<20, 1<<40, 1<<62, 1<<70, 1e30, .5, float('nan'), float('inf'), True, None, 'x'])

@fuzz
@given(st.data())
def test_fuzz_model_config(tmp_path_factory, data):
    d = tmp_path_factory.getbasetemp()/'model'
    if not d.exists():
        save_model(MAE(**small), d)
        (d/'whole.json').write_bytes((d/'config.json').read_bytes())
    config = json.loads((d/'whole.json').read_text())
    scaling = dict(kind='asinh', center=[0.,0.], softening=[1.,1.], gain=[1.,1.])
    resized = st.dictionaries(st.sampled_from(sorted(config['config'])), sizes, max_size=2).map(lambda o: config | dict(config=config['config'] | o))
    found = data.draw(anything | changed(config | dict(scaling=scaling)) | resized)
    (d/'config.json').write_text(json.dumps(found))
    ours(load_model, d)

@fuzz
@given(anything | changed(dict(format='astromask-split-1', hash='0'*16, train=['a'], valid=['b'], test=[], sizes={}, about=None)))
def test_fuzz_splits(tmp_path_factory, found):
    path = tmp_path_factory.getbasetemp()/'split.json'
    path.write_text(json.dumps(found))
    ours(load_split, path, dict(id=['a','b']))

@fuzz
@given(anything | st.dictionaries(st.sampled_from(['state.json','tensors.safetensors','format','x']), anything), st.binary(max_size=30))
def test_fuzz_checkpoints(tmp_path_factory, sums, junk):
    d = tmp_path_factory.getbasetemp()/'checkpoints'
    path = d/'step-000000001'
    if not d.exists():
        d.mkdir()
        save_checkpoint(d, 1, dict(w=torch.zeros(3)), {})
    (path/'sums.json').write_text(json.dumps(sums))
    ours(verify, path)
    assert not ours(newest_checkpoint, d)                       # passed over, or refused as of a later version
    (path/'sums.json').write_bytes(junk)
    assert newest_checkpoint(d) is None
