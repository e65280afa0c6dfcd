"Predictions over many files: the same however they are cut, whole or not there, small in memory, and plain about what does not fit"
import json, os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch
from click.testing import CliRunner
from torch.utils.data import TensorDataset
from astromask.cli import main
from astromask.core import DataError, InputError
from astromask.data.cutouts import Cutouts
from astromask.embed import embed_cutouts
from astromask.evaluate.pdfs import Calibration, central_interval, pit
from astromask.models.answers import Bins, Classes, Mixture, Point
from astromask.models.heads import Predictor
from astromask.models.mae import MAE
from astromask.models.weights import load_model, save_model
from astromask.tasks.predict import Rows, block_starts, embedding, prediction, read_table, table_of

def encoder(bands='ugriz', **kw):
    torch.manual_seed(0)
    return MAE.preset('tiny', bands, **kw)

def predictor(answer, bands='ugriz', **kw): return Predictor(encoder(bands), answer, head_std=1., **kw)

@pytest.fixture(scope='module')
def survey(tmp_path_factory):
    "101 objects in files of 50, 1 and 50, some pixels, bands, positions and magnitudes missing"
    rng,folder = np.random.default_rng(0),tmp_path_factory.mktemp('survey')
    x = rng.normal(size=(101,5,32,32)).astype('f4')
    x[3],x[5,1],x[60,:,:,20:] = np.nan,np.nan,np.nan
    t = dict(id=[f'o{i}' for i in range(101)], ra=rng.uniform(0, 360, 101), dec=rng.uniform(-90, 90, 101), mag_r=rng.uniform(15, 22, 101))
    t['ra'][11] = t['mag_r'][12] = np.nan
    for i,rows in enumerate((slice(0,50), slice(50,51), slice(51,101))):
        Cutouts.write(folder/f'part{i}.h5', x[rows], 'ugriz', catalog={k: v[rows] for k,v in t.items()})
    return folder

def same(a, b):
    assert a.colnames == b.colnames
    for k in a.colnames: np.testing.assert_array_equal(np.asarray(a[k]), np.asarray(b[k]), err_msg=k)

def calibrated(p, level=.9):
    "With a calibration, learned from redshifts drawn at random"
    grid,rng = p.answer.grid.numpy(),np.random.default_rng(0)
    pdf = np.exp(-((grid-rng.uniform(.3, .7, 200)[:,None])/.3)**2)
    p.calibration = Calibration(level).fit(dict(pdf=pdf), rng.uniform(.45, .55, 200), grid).config()
    return p

TASKS = dict(calibrated=lambda: prediction(calibrated(predictor(Bins(20, 0, 1))), pdf=True), classes=lambda: prediction(predictor(Classes(['star','galaxy','quasar']), magnitudes='mag_r')), pdf=lambda: prediction(predictor(Bins(20)), pdf=True, views=2),
             embedding=lambda: embedding(encoder(sky_token=True)))

@pytest.mark.parametrize('kind', TASKS)
def test_a_table_does_not_depend_on_how_it_is_cut(survey, tmp_path, kind):
    task,kw = TASKS[kind](),dict(bs=8, progress=False)
    report = table_of(task, survey, tmp_path/'whole.parquet', **kw)
    whole = read_table(tmp_path/'whole.parquet')
    assert list(whole['id']) == [f'o{i}' for i in range(101)] and report['objects'] == 101
    for n in (1,2,3,7):
        shards = [table_of(task, survey, tmp_path/f'{n}.parquet', (i,n), **kw) for i in range(n, 0, -1)]
        if n > 1: table_of(task, survey, tmp_path/f'{n}.parquet', merge=n, **kw)
        joined = read_table(tmp_path/f'{n}.parquet')
        same(joined, whole)
        assert joined.meta == whole.meta and sum(r['objects'] for r in shards) == 101
    values = next(whole[k] for k in ('p_star','z','embedding') if k in whole.colnames)
    assert np.isnan(values).reshape(101, -1).any(1).sum() == (0 if kind == 'classes' else 1)      # the object without a pixel has a magnitude

def test_more_shards_than_blocks(survey, tmp_path):
    task,kw = TASKS['pdf'](),dict(bs=64, progress=False)
    for i in range(1, 6): table_of(task, survey, tmp_path/'t.parquet', (i,5), **kw)
    table_of(task, survey, tmp_path/'t.parquet', merge=5, **kw)
    table_of(task, survey, tmp_path/'w.fits', **kw)
    t,w = read_table(tmp_path/'t.parquet'),read_table(tmp_path/'w.fits')
    same(t, w)
    assert len(t) == 101 and len(read_table(tmp_path/'t.1-of-5.parquet')) == 0 and t['pdf'].shape == (101, len(t.meta['grid']))
    grid = np.array(t.meta['grid'])
    assert np.nanmax(abs(np.trapezoid(np.asarray(t['pdf'], float), grid)-1)) < 1e-5 and (t['z_lower'] <= t['z_upper'])[np.arange(101) != 3].all()

def test_it_is_what_the_model_says(survey, tmp_path):
    c,p = Cutouts.open(survey),predictor(Point())
    table_of(prediction(p), survey, tmp_path/'z.parquet', bs=16, progress=False)
    with torch.no_grad(): z = p.eval().predict(torch.from_numpy(c[:]))['z'].numpy()
    np.testing.assert_allclose(read_table(tmp_path/'z.parquet')['z'], z, rtol=1e-5)
    table_of(embedding(encoder()), survey, tmp_path/'e.parquet', bs=256, progress=False)
    e = read_table(tmp_path/'e.parquet')
    np.testing.assert_array_equal(e['embedding'], embed_cutouts(encoder(), c, progress=False)['embedding'])
    np.testing.assert_array_equal(e['ra'], c.catalog['ra'])

def test_a_model_takes_its_calibration_along(survey, tmp_path):
    raw,p = predictor(Bins(20, 0, 1)),calibrated(predictor(Bins(20, 0, 1)), .8)
    save_model(p, tmp_path/'model')
    p,grid = load_model(tmp_path/'model'),raw.answer.grid.numpy()
    for name,m in dict(raw=raw, right=p).items(): table_of(prediction(m, pdf=True), survey, tmp_path/f'{name}.parquet', progress=False)
    a,b = (read_table(tmp_path/f'{name}.parquet') for name in ('raw','right'))
    right = Calibration.from_config(p.calibration)(dict(z=np.asarray(a['z']), pdf=np.asarray(a['pdf'])), grid)
    assert not np.allclose(a['pdf'], b['pdf'], equal_nan=True) and 'z_lower_80' not in a.colnames
    for k,v in dict(z=right['z'], pdf=right['pdf'], z_lower_80=right['low'], z_upper_80=right['high'], z_lower=central_interval(grid, right['pdf'])[0]).items():
        np.testing.assert_allclose(b[k], v, atol=1e-6, err_msg=k)
    assert np.isnan(b['z_upper_80'][3]) and np.isnan(b['z']).sum() == 1                   # the object without a pixel
    table_of(prediction(p, pdf=True, raw=True), survey, tmp_path/'again.parquet', progress=False)
    same(read_table(tmp_path/'again.parquet'), a)
    with pytest.raises(InputError, match='calibrated with 1 views'): prediction(p, views=2)
    with pytest.raises(InputError, match='with another settings'): table_of(prediction(p, pdf=True), survey, tmp_path/'again.parquet')

def test_few_objects_and_large_seeds_are_saved_and_read(tmp_path):
    p,grid = predictor(Bins(20, 0, 1), seed=20261122),Bins(20, 0, 1).grid.numpy()
    p.calibration = Calibration(.9).fit(dict(pdf=np.ones((4,len(grid)))), np.full(4, .5), grid).config()      # four objects can promise nothing
    save_model(p, tmp_path)
    with torch.no_grad(): found = prediction(load_model(tmp_path)).columns(torch.zeros(1,5,32,32), None, None)
    assert found['z_lower_90'] == -np.inf and found['z_upper_90'] == np.inf
    p.calibration['conformal']['n'] = 50_000
    save_model(p, tmp_path)
    assert load_model(tmp_path).calibration == dict(p.calibration, conformal=dict(p.calibration['conformal'], widening=None))

SLOW = """import sys, time
from astromask.models.weights import load_model
from astromask.tasks import predict
computed,started = predict._computed,[]
def slowly(*a):
    if started: time.sleep(3)
    started.append(1)
    return computed(*a)
predict._computed = slowly
predict.table_of(predict.prediction(load_model(sys.argv[1])), sys.argv[2], sys.argv[3], (2,3), bs=8)"""

def test_a_killed_shard_leaves_nothing_and_runs_again(survey, tmp_path, caplog):
    p = predictor(Classes(['star','galaxy']))
    save_model(p, tmp_path/'model')
    out = tmp_path/'out'/'t.parquet'
    child = subprocess.Popen([sys.executable, '-c', SLOW, tmp_path/'model', survey, out])
    for _ in range(600):
        if any(out.parent.glob('.*')): break
        time.sleep(.1)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    left = list(out.parent.iterdir())
    assert len(left) == 1 and left[0].name.startswith('.t.2-of-3.parquet.')
    task = prediction(load_model(tmp_path/'model'))
    table_of(task, survey, out, (2,3), bs=8, progress=False)
    assert sorted(o.name for o in out.parent.iterdir()) == ['t.2-of-3.json','t.2-of-3.parquet']
    with pytest.raises(InputError, match=r'1/3, 3/3 are not there; run them \(--shard 1/3\)'): table_of(task, survey, out, bs=8, merge=3)
    before = (out.parent/'t.2-of-3.parquet').stat().st_mtime_ns
    with caplog.at_level('INFO', 'astromask'): assert table_of(task, survey, out, (2,3), bs=8) == {}
    assert 'is done: it is left alone' in caplog.text and (out.parent/'t.2-of-3.parquet').stat().st_mtime_ns == before
    (out.parent/'t.2-of-3.json').unlink()
    assert table_of(task, survey, out, (2,3), bs=8, progress=False)['objects'] == 32        # without its report it is not done
    for i in (1,3): table_of(task, survey, out, (i,3), bs=8, progress=False)
    table_of(task, survey, out, bs=8, merge=3)
    table_of(task, survey, tmp_path/'whole.parquet', bs=8, progress=False)
    same(read_table(out), read_table(tmp_path/'whole.parquet'))

def test_another_model_or_other_data_are_told(survey, tmp_path):
    task,kw = prediction(predictor(Point())),dict(bs=32, progress=False)
    for i in (1,2): table_of(task, survey, tmp_path/'t.parquet', (i,2), **kw)
    other = prediction(Predictor(encoder(), Point(), head_std=1., seed=1))
    with pytest.raises(InputError, match='another model'): table_of(other, survey, tmp_path/'t.parquet', (1,2), **kw)
    with pytest.raises(InputError, match='another model'): table_of(other, survey, tmp_path/'t.parquet', merge=2, **kw)
    with pytest.raises(InputError, match='another bs'): table_of(task, survey, tmp_path/'t.parquet', merge=2, bs=16)
    with pytest.raises(InputError, match='another data'): table_of(task, survey/'part0.h5', tmp_path/'t.parquet', (1,2), **kw)
    table_of(other, survey, tmp_path/'t.parquet', (1,2), overwrite=True, **kw)
    with pytest.raises(InputError, match='1-of-2.parquet exists and was made with another model'): table_of(task, survey, tmp_path/'t.parquet', merge=2, **kw)
    (tmp_path/'u.parquet').write_bytes(b'PAR1 but not really')
    with pytest.raises(InputError, match='u.parquet exists .* damaged'): table_of(task, survey, tmp_path/'u.parquet', **kw)

def test_bands_that_are_missing_or_unknown(survey, tmp_path, caplog):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6,5,32,32)).astype('f4')
    Cutouts.write(tmp_path/'all.h5', x, 'ugriz')
    Cutouts.write(tmp_path/'three.h5', x[:,[3,1,2]], 'igr')
    Cutouts.write(tmp_path/'more.h5', np.concatenate([x, x[:,:1]], 1), 'ugrizy')
    Cutouts.write(tmp_path/'other.h5', x[:,:2], 'JH')
    np.save(tmp_path/'plain.npy', x)
    gone = x.copy()
    gone[:,[0,4]] = np.nan
    Cutouts.write(tmp_path/'nan.h5', gone, 'ugriz')
    task,kw = prediction(predictor(Point())),dict(progress=False)
    def z(name, *files, **more):
        table_of(task, files, tmp_path/f'{name}.parquet', **kw, **more)
        return np.asarray(read_table(tmp_path/f'{name}.parquet')['z'])
    with caplog.at_level('WARNING', 'astromask'): a = z('a', tmp_path/'all.h5', tmp_path/'three.h5', tmp_path/'three.h5')
    assert caplog.text.count('no band u, z') == 1 and 'three.h5 and 1 more files have' in caplog.text
    np.testing.assert_array_equal(a[6:12], a[12:])
    np.testing.assert_array_equal(a, z('b', tmp_path/'all.h5', tmp_path/'nan.h5', tmp_path/'nan.h5'))
    with pytest.raises(InputError, match='more.h5 has the band y, which the model does not know .*--bands'): z('c', tmp_path/'more.h5')
    np.testing.assert_array_equal(z('d', tmp_path/'more.h5', bands='ugriz'), z('e', tmp_path/'all.h5'))
    with pytest.raises(InputError, match='other.h5 has none of the bands u'): z('f', tmp_path/'other.h5', bands='ugriz')
    with pytest.raises(InputError, match='plain.npy does not tell the bands'): z('g', tmp_path/'plain.npy')
    np.testing.assert_array_equal(z('h', tmp_path/'plain.npy', bands='ugriz'), z('e', tmp_path/'all.h5'))

def test_astromaes_file_goes_in_as_it_is(tmp_path):
    rng = np.random.default_rng(2)
    x,mags,redshift = rng.normal(size=(20,5,32,32)).astype('f4'),rng.uniform(14, 20, (20,5)),rng.uniform(0, .3, 20).astype('f4')
    torch.save(TensorDataset(torch.from_numpy(x), torch.from_numpy(mags), torch.from_numpy(redshift)), tmp_path/'resized_inference.pt')
    p = predictor(Point(), head='astromae', magnitudes=[f'mag_{b}' for b in 'ugriz'])
    save_model(p, tmp_path/'model')
    r = call('predict', tmp_path/'model', tmp_path/'resized_inference.pt', '--out', tmp_path/'z.parquet', '--bs', 20)
    assert r.exit_code == 0, r.output
    t = read_table(tmp_path/'z.parquet')
    with torch.no_grad(): z = p.eval().predict(torch.from_numpy(x), torch.from_numpy(mags))['z'].numpy()
    np.testing.assert_allclose(t['z'], z, rtol=1e-4)
    np.testing.assert_array_equal(t['redshift'], redshift)
    report = json.loads((tmp_path/'z.json').read_text())
    assert report['objects'] == 20 and report['bits'] == 8*20*(20480+20)
    assert report['throughput_bps'] == pytest.approx(report['bits']/report['seconds']) and report['objects_per_second'] == pytest.approx(20/report['seconds'])
    assert all(type(report[k]) in (int,float) for k in ('seconds','objects_per_second','throughput_bps','seconds_per_batch','peak_memory_bytes','batches'))
    assert report['device'] and report['host']

def test_a_model_of_magnitudes_alone(survey, tmp_path, caplog):
    p = Predictor(None, Classes(['a','b']), magnitudes=['mag_r','mag_q'], head_std=1.)
    with caplog.at_level('WARNING', 'astromask'): table_of(prediction(p), survey, tmp_path/'t.parquet', bs=16, progress=False)
    t = read_table(tmp_path/'t.parquet')
    assert caplog.text.count('no column mag_q') == 1 and list(np.flatnonzero(t['class'] == '')) == [12] and np.isnan(t['p_a'][12])

MEMORY = """import sys
from pathlib import Path
from astromask.models.weights import load_model
from astromask.tasks.predict import embedding, table_of
files = [sys.argv[2]]*int(sys.argv[3])
r = table_of(embedding(load_model(sys.argv[1])), files, sys.argv[4], bs=64, progress=False)
peak = next(o for o in open('/proc/self/status') if o.startswith('VmHWM'))
print(1024*int(peak.split()[1]), r['objects'])"""

@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak is read from Linux')
def test_memory_does_not_grow_with_the_set(tmp_path):
    x = np.random.default_rng(0).normal(size=(256,5,64,64)).astype('f2')
    Cutouts.write(tmp_path/'c.h5', x, 'ugriz', dtype='float16')
    save_model(encoder(), tmp_path/'model')
    def peak(n):
        r = subprocess.run([sys.executable, '-c', MEMORY, tmp_path/'model', tmp_path/'c.h5', str(n), tmp_path/f'{n}.parquet'], capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
        return [int(o) for o in r.stdout.split()]
    (few,n),(many,N) = peak(8),peak(40)
    assert (n,N) == (2048,10240) and many-few < 40e6                     # 8192 objects more have 670 MB of pixels

def call(*args): return CliRunner().invoke(main, [str(a) for a in args])

def test_errors_are_one_sentence(survey, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(predictor(Point()), 'p')
    save_model(encoder(), 'm')
    Path('dir.parquet').mkdir()
    file = survey/'part0.h5'
    for args,says in ((('predict','none',file,'--out','t.parquet'), 'none holds no model'), (('predict','m',file,'--out','t.parquet'), 'is a MAE, which has no head'),
                      (('predict','p','none*.h5','--out','t.parquet'), 'No file matches none*.h5'), (('predict','p',file,'--out','t.csv'), 'ends in .parquet or .fits'),
                      (('predict','p',file,'--out','t.parquet','--shard','9/8'), '9/8 is no shard'), (('predict','p',file,'--out','t.parquet','--shard','8'), 'SLURM_ARRAY_TASK_ID'),
                      (('predict','p',file,'--out','t.parquet','--pdf'), 'gives no PDFs'), (('predict','p',file,'--out','t.parquet','--views','3'), 'views is 3'),
                      (('predict','p',file,'--out','t.parquet','--device','tpu'), "no device 'tpu'"),
                      (('predict','p',file,'--out','dir.parquet'), 'is a folder'), (('embed','m',file,'--out','t.parquet','--pool','best'), "pool is 'best'"),
                      (('predict','p',file,'--out','t.parquet','--merge','2','--shard','1/2'), 'not both'), (('predict','p',file,'--out','t.parquet','--merge','2'), 'shards 1/2, 2/2 are not there')):
        r = call(*args)
        assert r.exit_code == 2 and says in r.stderr and r.stderr.startswith('astromask: ') and r.stderr.count('\n') == 1, (args, r.output, r.stderr)
    assert not Path('t.parquet').exists() and not list(Path('.').glob('.*'))
    Path('short.h5').write_bytes(file.read_bytes()[:30_000])
    r = call('predict', 'p', 'short.h5', '--out', 't.parquet')
    assert r.exit_code == 2 and 'short.h5' in r.stderr and r.stderr.count('\n') == 1

def test_a_slurm_array_and_the_two_verbs(survey, tmp_path, monkeypatch):
    save_model(encoder(), tmp_path/'m')
    for i in (1,2):
        monkeypatch.setenv('SLURM_ARRAY_TASK_ID', str(i))
        r = call('embed', tmp_path/'m', f'{survey}/part*.h5', '--out', tmp_path/'e.parquet', '--shard', 2, '--bs', 16)
        assert r.exit_code == 0 and f'e.{i}-of-2.parquet: ' in r.output and 'objects/s' in r.output, r.output
    r = call('embed', tmp_path/'m', f'{survey}/part*.h5', '--out', tmp_path/'e.parquet', '--merge', 2, '--bs', 16)
    assert r.exit_code == 0 and '101 objects' in r.output and 'in 2 shards' in r.output
    monkeypatch.delenv('SLURM_ARRAY_TASK_ID')
    r = call('embed', tmp_path/'m', f'{survey}/part*.h5', '--out', tmp_path/'e.parquet', '--bs', 16)
    assert r.exit_code == 0 and 'left alone' in r.output
    assert read_table(tmp_path/'e.parquet')['embedding'].shape == (101,32)

def test_help_needs_no_torch():
    code = "import sys; from click.testing import CliRunner; from astromask.cli import main; r = CliRunner().invoke(main, ['predict','--help']); print(r.exit_code, 'torch' in sys.modules)"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.stdout.split() == ['0','False'], r.stderr
