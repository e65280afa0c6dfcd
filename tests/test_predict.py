"Predictions over many files: the same however they are cut, whole or not there, small in memory, and plain about what does not fit"
import json, os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pyarrow.parquet as pq, pytest, torch
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from click.testing import CliRunner
from torch.utils.data import TensorDataset
from astromask.cli import main
from astromask.core import DataError, InputError
from astromask.data.cutouts import Cutouts
from astromask.scaling import AsinhScaling
from astromask.embed import embed_cutouts
from astromask.evaluate.metrics import classification_metrics, redshift_metrics
from astromask.evaluate.pdfs import Calibration, central_interval, interval_coverage
from astromask.models.answers import Bins, Classes, Mixture, Point
from astromask.models.heads import Predictor
from astromask.seen import seen_of
from astromask.models.mae import MAE
from astromask.models.simmim import SimMIM
from astromask.models.weights import load_model, save_model
from astromask.tasks.predict import Rows, embedding, parse_shard, prediction, read_table, report_path, report_text, table_of
from astromask.tasks.redshift import photometry_table
from astromask.units import Measure

def encoder(bands='ugriz', **kw):
    torch.manual_seed(0)
    return MAE.preset('tiny', bands, **kw)

def simmim(**kw):
    torch.manual_seed(0)
    return SimMIM(32, 8, 'ugriz', 32, 2, 4, **kw)

def predictor(answer, bands='ugriz', **kw): return Predictor(encoder(bands), answer, head_std=1., **kw)

@pytest.fixture(scope='module')
def survey(tmp_path_factory):
    "101 objects in files of 50, 1 and 50, some pixels, bands, positions and magnitudes missing"
    rng,folder = np.random.default_rng(0),tmp_path_factory.mktemp('survey')
    x = rng.normal(size=(101,5,32,32)).astype('f4')
    x[3],x[5,1],x[60,:,:,20:] = np.nan,np.nan,np.nan
    t = dict(id=[f'o{i}' for i in range(101)], ra=rng.uniform(0, 360, 101), dec=rng.uniform(-90, 90, 101), mag_r=rng.uniform(15, 22, 101),
             redshift=rng.uniform(.1, .9, 101), label=rng.choice(['star','galaxy','','lens'], 101))
    t['ra'][11] = t['mag_r'][12] = np.nan
    t['redshift'][40:] = np.nan
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
             embedding=lambda: embedding(encoder(sky_token=True)), simmim=lambda: embedding(simmim()), per_band=lambda: embedding(simmim(mask_in='pixels', per_band=True)), beit=lambda: embedding(simmim(encoder='beit')),
             simmim_head=lambda: prediction(Predictor(simmim(mask_in='pixels', per_band=True), Bins(20), head_std=1.)))

@pytest.mark.parametrize('kind', TASKS)
def test_a_table_does_not_depend_on_how_it_is_cut(survey, tmp_path, kind):
    task,kw = TASKS[kind](),dict(bs=8, columns=['mag_r','label'] if kind != 'classes' else [], progress=False)
    report = table_of(task, survey, tmp_path/'whole.parquet', **kw)
    whole = read_table(tmp_path/'whole.parquet')
    assert list(whole['id']) == [f'o{i}' for i in range(101)] and report['objects'] == 101
    for n in (1,2,3,7):
        shards = [table_of(task, survey, tmp_path/f'{n}.parquet', (i,n), **kw) for i in range(n, 0, -1)]
        if n > 1: table_of(task, survey, tmp_path/f'{n}.parquet', merge=n, **kw)
        joined = read_table(tmp_path/f'{n}.parquet')
        if n > 1: assert json.loads(report_path(tmp_path/f'{n}.parquet').read_text()).get('metrics') == report.get('metrics')
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
    assert np.nanmax(abs(np.trapezoid(np.asarray(t['pdf'], float), grid)-1)) < 1e-5 and (t['z_lower_68'] <= t['z_upper_68'])[np.arange(101) != 3].all()

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
    for k,v in dict(z=right['z'], pdf=right['pdf'], z_lower_80=right['low'], z_upper_80=right['high'], z_lower_68=central_interval(grid, right['pdf'])[0]).items():
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
    found, = prediction(load_model(tmp_path)).of([dict(x=torch.zeros(1,5,32,32), mags=None, coords=None)])
    assert found['z_lower_90'] == -np.inf and found['z_upper_90'] == np.inf
    p.calibration['conformal']['n'] = 50_000
    save_model(p, tmp_path)
    assert load_model(tmp_path).calibration == dict(p.calibration, conformal=dict(p.calibration['conformal'], widening=None))

SLOW = """import sys, time
from astromask.models.weights import load_model
from astromask.tasks import predict
joined,started = predict._with_own,[]
def slowly(*a):
    if started: time.sleep(3)
    started.append(1)
    return joined(*a)
predict._with_own = slowly
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
    assert sorted(o.name for o in out.parent.iterdir()) == ['t.2-of-3.parquet','t.2-of-3.parquet.report.json']
    with pytest.raises(InputError, match=r'1/3, 3/3 are not there, or have no report; run them again \(--shard 1/3\)'): table_of(task, survey, out, bs=8, merge=3)
    before = (out.parent/'t.2-of-3.parquet').stat().st_mtime_ns
    with caplog.at_level('INFO', 'astromask'): assert table_of(task, survey, out, (2,3), bs=8) == {}
    assert 'is done: it is left alone' in caplog.text and (out.parent/'t.2-of-3.parquet').stat().st_mtime_ns == before
    report_path(out.parent/'t.2-of-3.parquet').unlink()
    with pytest.raises(InputError, match=r'1/3, 2/3, 3/3 are not there, or have no report; run them again'): table_of(task, survey, out, bs=8, merge=3)
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
    Cutouts.write(tmp_path/'four.h5', x[:,[3,1,2]], 'igr')
    Cutouts.write(tmp_path/'more.h5', np.concatenate([x, x[:,:1]], 1), 'ugrizy')
    Cutouts.write(tmp_path/'other.h5', x[:,:2], 'JH')
    np.save(tmp_path/'plain.npy', x)
    gone = x.copy()
    gone[:,[0,4]] = np.nan
    for k in (1,2): Cutouts.write(tmp_path/f'nan{k}.h5', gone, 'ugriz')
    task,kw = prediction(predictor(Point())),dict(progress=False)
    def z(name, *files, **more):
        table_of(task, files, tmp_path/f'{name}.parquet', **kw, **more)
        return np.asarray(read_table(tmp_path/f'{name}.parquet')['z'])
    with caplog.at_level('WARNING', 'astromask'): a = z('a', tmp_path/'all.h5', tmp_path/'three.h5', tmp_path/'four.h5')
    assert caplog.text.count('no band u, z') == 1 and 'three.h5 and 1 more files have' in caplog.text
    np.testing.assert_allclose(a[6:12], a[12:], rtol=1e-6)      # a row's place in a batch may change the last bit of a product with one column
    np.testing.assert_array_equal(a, z('b', tmp_path/'all.h5', tmp_path/'nan1.h5', tmp_path/'nan2.h5'))
    with pytest.raises(InputError, match='more.h5 has the band y, which the model does not know .*--bands'): z('c', tmp_path/'more.h5')
    np.testing.assert_array_equal(z('d', tmp_path/'more.h5', bands='ugriz'), z('e', tmp_path/'all.h5'))
    with pytest.raises(InputError, match='other.h5 has none of the bands u'): z('f', tmp_path/'other.h5', bands='ugriz')
    with pytest.raises(InputError, match='plain.npy does not tell the bands'): z('g', tmp_path/'plain.npy')
    np.testing.assert_array_equal(z('h', tmp_path/'plain.npy', bands='ugriz'), z('e', tmp_path/'all.h5'))

def test_a_file_given_twice_is_read_once(survey, caplog):
    with caplog.at_level('WARNING', 'astromask'): rows = Rows([f'{survey}/part*.h5', survey/'part1.h5', f'{survey}/../{survey.name}/part0.h5'], predictor(Point()))
    assert len(rows) == 101 and len(set(rows.read(0, 101).ids)) == 101 and '2 of 5 files are given more than once' in caplog.text

def test_units_are_compared_with_the_file_that_tells_them(tmp_path):
    for name,unit in dict(a='', b='nJy', c='nanomaggy').items(): Cutouts.write(tmp_path/f'{name}.h5', np.ones((2,5,32,32), 'f4'), 'ugriz', **(dict(unit=unit) if unit else {}))
    assert len(Rows([tmp_path/'a.h5', tmp_path/'b.h5'], predictor(Point()))) == 4
    x = Rows([tmp_path/f'{k}.h5' for k in 'abc'], predictor(Point())).read(0, 6).x
    np.testing.assert_allclose(x[:,0,0,0], [1,1,1,1,*[10**(.4*8.9)]*2], rtol=1e-6)               # all in nJy, the first that is told
    Cutouts.write(tmp_path/'d.h5', np.ones((2,5,32,32), 'f4'), 'ugriz', unit='adu')
    with pytest.raises(DataError, match='d.h5 has pixels in adu, but .*b.h5 has pixels in nJy'): Rows(tmp_path, predictor(Point()))

def test_fits_files_of_several_kinds(tmp_path, caplog):
    rng = np.random.default_rng(3)
    images = [rng.normal(size=(5-(i in (2,3)), 28+4*(i != 4), 32)).astype('f4') for i in range(6)]
    for i,x in enumerate(images):
        fits.PrimaryHDU(x, fits.Header(dict(BANDS='ugri' if len(x) < 5 else 'ugriz', Z=.1, RA=float(i), DEC=0.))).writeto(tmp_path/f'o{i}.fits')
    p = predictor(Point())
    with caplog.at_level('WARNING', 'astromask'): rows = Rows(tmp_path, p)
    assert [p.n for p in rows.parts] == [2,2,1,1] and caplog.text.count('no band z') == 1 and 'o2.fits and 1 more files have' in caplog.text
    block = rows.read(0, 6)
    assert list(block.ids) == [f'o{i}:0' for i in range(6)] and list(block.sky[:,0]) == [*range(6)]
    np.testing.assert_array_equal(block.x[2,:4], images[2])
    assert np.isnan(block.x[2,4]).all() and np.isnan(block.x[4,:,:2]).all() and np.isfinite(block.x[5]).all()
    r = table_of(prediction(p), tmp_path/'*.fits', tmp_path/'z.parquet', bs=4, progress=False)
    assert r['objects'] == 6 and np.isfinite(read_table(tmp_path/'z.parquet')['z']).all()

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
    report = json.loads((tmp_path/'z.parquet.report.json').read_text())
    assert report['objects'] == 20 and report['bits'] == 8*20*(20480+20)
    assert report['throughput_bps'] == pytest.approx(report['bits']/report['seconds']) and report['objects_per_second'] == pytest.approx(20/report['seconds'])
    assert all(type(report[k]) in (int,float) for k in ('seconds','objects_per_second','throughput_bps','seconds_per_batch','peak_memory_bytes','batches'))
    assert report['device'] and report['host']

def test_a_model_of_magnitudes_alone(survey, tmp_path, caplog):
    p = Predictor(None, Classes(['a','b']), magnitudes=['mag_r','mag_q'], head_std=1.)
    with caplog.at_level('WARNING', 'astromask'): table_of(prediction(p), survey, tmp_path/'t.parquet', bs=16, progress=False)
    t = read_table(tmp_path/'t.parquet')
    assert caplog.text.count('no column mag_q') == 1 and list(np.flatnonzero(t['class'] == '')) == [12] and np.isnan(t['p_a'][12])

def fluxes(path, n=60, noise=.02):
    rng = np.random.default_rng(0)
    z = rng.uniform(.1, 1, n)
    flux = {f'f{i}': (1+i)*np.exp(-z*(3-i)) - .3 for i in range(3)}
    t = Table(dict(id=np.arange(n), ra=rng.uniform(0, 90, n), dec=rng.uniform(-60, 60, n), zspec=z, field=['north','south']*(n//2)) | flux | {k+'_err': np.full(n, noise) for k in flux})
    t['f1_err'][5] = -99
    t.write(path)
    return t

def test_a_model_that_learned_from_a_table_of_fluxes(tmp_path):
    fluxes(tmp_path/'t.csv'), fluxes(tmp_path/'deep.fits', noise=.002)
    own = photometry_table(tmp_path/'t.csv')
    names = [n for n in own.colnames if n.startswith('mag_')]
    p = Predictor(None, Bins(20, 0, 1), magnitudes=names, head_std=.02)
    p.photometry = own.meta['photometry']
    save_model(p, tmp_path/'model')
    again = load_model(tmp_path/'model')
    assert again.photometry == p.photometry == dict(zero_point=23.9, softening=dict(f0=.02, f1=.02, f2=.02))
    r = call('predict', tmp_path/'model', tmp_path/'t.csv', '--out', tmp_path/'z.parquet', '--columns', 'field,f0')
    assert r.exit_code == 0 and '60 known redshifts: NMAD' in r.output, r.output
    t = read_table(tmp_path/'z.parquet')
    with torch.no_grad(): z = again.predict(None, torch.tensor(np.stack([own[n] for n in names], 1), dtype=torch.float32))['z'].numpy()
    np.testing.assert_allclose(t['z'], z, rtol=1e-5)
    np.testing.assert_array_equal(t['redshift'], own['zspec'])
    assert list(t['field'][:2]) == ['north','south'] and t['f0'].dtype == np.float64 and np.ptp(z) > 1e-3
    a,b = (Rows(tmp_path/k, again).read(0, 60).mags for k in ('t.csv','deep.fits'))
    same = ['err' not in n for n in names]
    np.testing.assert_array_equal(a[:,same], b[:,same])
    assert np.nanmax(abs(photometry_table(tmp_path/'deep.fits')['mag_f0']-b[:,0])) > .1       # not what the deeper table alone would give
    d = json.loads((tmp_path/'model/config.json').read_text())
    d['photometry']['softening']['f0'] = -1
    (tmp_path/'model/config.json').write_text(json.dumps(d))
    with pytest.raises(DataError, match='config.json is damaged: a softening is not positive'): load_model(tmp_path/'model')

def test_what_a_catalogue_knows_comes_along(survey, tmp_path):
    p = calibrated(predictor(Bins(20, 0, 1)))
    r = table_of(prediction(p), survey, tmp_path/'z.fits', columns=['mag_r','label'], progress=False)
    t,c = read_table(tmp_path/'z.fits'),Cutouts.open(survey).catalog
    assert t.colnames == 'id file row ra dec redshift mag_r label z z_lower_68 z_upper_68 z_lower_90 z_upper_90'.split() and str(t['ra'].unit) == fits.getheader(tmp_path/'z.fits', 1)['TUNIT4'] == 'deg'
    for k in ('redshift','mag_r','label'): np.testing.assert_array_equal(t[k], c[k])
    held = interval_coverage(c['redshift'], t['z_lower_90'], t['z_upper_90'])
    assert {k: r['metrics'][k] for k in ('n','nmad')} == {k: v for k,v in redshift_metrics(c['redshift'], t['z']).items() if k in ('n','nmad')} and r['metrics']['n'] == 39
    assert r['metrics']['coverage_90'] == held['coverage'] and r['metrics']['width_68'] > 0
    for columns,says in ((['mag_q'], 'part0.h5 has no column mag_q'), (['z'], None), (['id'], 'has a column id of its own')):
        with pytest.raises(InputError, match=says or 'has no column z'): table_of(prediction(p), survey, tmp_path/'no.parquet', columns=columns, progress=False)
    with pytest.raises(InputError, match='another settings'): table_of(prediction(p), survey, tmp_path/'z.fits', progress=False)
    p = predictor(Classes(['star','galaxy']))
    r = table_of(prediction(p), survey, tmp_path/'c.parquet', progress=False)
    t,known = read_table(tmp_path/'c.parquet'),np.isin(c['label'], ['star','galaxy'])
    known[3] = False                                                                # the object without a pixel
    wanted = classification_metrics(t['label'][known], t['class'][known], np.stack([t['p_star'],t['p_galaxy']], 1)[known], ['star','galaxy'])
    np.testing.assert_array_equal(t['label'], c['label'])
    assert r['metrics'] == pytest.approx(wanted) and r['metrics']['n'] == known.sum()
    assert list(t['file']) == [str(survey/'part0.h5')]*50 + [str(survey/'part1.h5')] + [str(survey/'part2.h5')]*50 and list(t['row'][49:53]) == [49,0,0,1]

def test_whole_numbers_come_along_exactly(tmp_path):
    n,rng = 6,np.random.default_rng(0)
    x = rng.normal(size=(n,5,32,32)).astype('f4')
    first = dict(objid=np.array([1237648720693755918, -2**63, 2**63-1, 0, 999999, 7]), source=np.array([2**64-1, 2**63, 5953498425119842304, 0, 1, 999999], 'u8'), good=np.arange(n) % 2 == 0,
                 few=MaskedColumn(np.arange(n, dtype='i2'), mask=[0,0,1,0,0,0]), gaps=MaskedColumn(np.array([1,2,3,4,5,2**64-1], 'u8'), mask=[1,0,0,0,0,0]), maybe=MaskedColumn([True]*n, mask=[0,1,0,0,0,0]))
    Cutouts.write(tmp_path/'a.h5', x, 'ugriz', catalog=Table(first))
    Cutouts.write(tmp_path/'b.h5', x, 'ugriz', catalog=Table(dict(objid=np.array([1., np.nan, 3, 4, 5, 6]), source=np.arange(n), good=first['good'])))
    p,columns = predictor(Point()),list(first)
    for name in ('t.parquet','t.fits'):
        for files in ([tmp_path/'a.h5'],[tmp_path/'a.h5',tmp_path/'b.h5']):
            table_of(prediction(p), files, tmp_path/name, columns=columns, progress=False, overwrite=True, bs=4)
            t = read_table(tmp_path/name)
            for k,v in first.items():
                want,got = np.ma.asarray(v),np.ma.asarray(t[k][:n])
                assert (np.ma.getmaskarray(got) == np.ma.getmaskarray(want)).all() and (got == want).all(), (name, k)
                if k in ('objid','source','gaps'): assert got.dtype.newbyteorder('=') == want.dtype, (name, k, got.dtype)
        assert list(t['objid'][n:]) == [1,np.ma.masked,3,4,5,6] and list(t['source'][n:]) == list(range(n)) and np.ma.getmaskarray(np.ma.asarray(t['few']))[n:].all()
    found = pq.read_table(tmp_path/'t.parquet')
    assert str(found['objid'].type) == 'int64' and str(found['source'].type) == 'uint64' and found['few'].null_count == n+1
    seen = pytest.importorskip('pandas').read_parquet(tmp_path/'t.parquet')                 # floats would have lost the last digit
    assert seen['gaps'][5] == 2**64-1 and seen['gaps'].isna().sum() == n+1 and seen['objid'][0] == 1237648720693755918 and seen['source'].dtype.kind == 'u'
    for bad in (dict(objid=np.array([.5]*n)), dict(source=np.full(n, -1)), dict(objid=np.full(n, 2**63, 'u8')), dict(good=np.full(n, 2))):
        Cutouts.write(tmp_path/'c.h5', x, 'ugriz', catalog=Table(bad), overwrite=True)
        with pytest.raises(DataError, match=f'c.h5: the column {next(iter(bad))} holds'): table_of(prediction(p), [tmp_path/'a.h5',tmp_path/'c.h5'], tmp_path/'no.parquet', columns=list(bad), progress=False)

def test_a_report_replaces_nothing(survey, tmp_path):
    (tmp_path/'z.json').write_text('mine')
    for k in ('z.parquet','z.fits'): table_of(prediction(predictor(Point())), survey/'part1.h5', tmp_path/k, progress=False)
    assert (tmp_path/'z.json').read_text() == 'mine'
    assert [json.loads(report_path(tmp_path/k).read_text())['table'] for k in ('z.parquet','z.fits')] == [str(tmp_path/k) for k in ('z.parquet','z.fits')]

def test_memory_of_devices_is_the_largest_of_shards(survey, tmp_path):
    task,kw = prediction(predictor(Point())),dict(bs=16, progress=False)
    for i in (1,2):
        table_of(task, survey, tmp_path/'t.parquet', (i,2), **kw)
        path = report_path(tmp_path/f't.{i}-of-2.parquet')
        path.write_text(json.dumps(json.loads(path.read_text()) | dict(peak_device_memory_bytes=i*100)))
    assert table_of(task, survey, tmp_path/'t.parquet', merge=2, **kw)['peak_device_memory_bytes'] == 200

def test_shards_by_slurm(monkeypatch):
    for k,v in dict(PROCID=2, NTASKS=8, ARRAY_TASK_ID=5).items(): monkeypatch.setenv(f'SLURM_{k}', str(v))
    assert parse_shard('8') == (3,8) and parse_shard('7') == (5,7) and parse_shard('1/2') == (1,2)
    monkeypatch.delenv('SLURM_ARRAY_TASK_ID')
    with pytest.raises(InputError, match='Which of the 7 shards'): parse_shard('7')

MEMORY = """import sys
from pathlib import Path
from astromask.models.weights import load_model
from astromask.tasks.predict import embedding, table_of
files = sys.argv[2].split(',')
r = table_of(embedding(load_model(sys.argv[1])), files, sys.argv[3], bs=64, progress=False)
peak = next(o for o in open('/proc/self/status') if o.startswith('VmHWM'))
print(1024*int(peak.split()[1]), r['objects'])"""

@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak is read from Linux')
def test_memory_does_not_grow_with_the_set(tmp_path):
    x = np.random.default_rng(0).normal(size=(64,5,128,128)).astype('f2')     # of which the model looks at the middle
    Cutouts.write(tmp_path/'c.h5', x, 'ugriz', dtype='float16')
    save_model(encoder(), tmp_path/'model')
    for i in range(40): (tmp_path/f'{i}.h5').symlink_to(tmp_path/'c.h5')
    def peak(n):
        r = subprocess.run([sys.executable, '-c', MEMORY, tmp_path/'model', ','.join(f'{tmp_path}/{i}.h5' for i in range(n)), tmp_path/f'{n}.parquet'], capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
        return [int(o) for o in r.stdout.split()]
    (few,n),(many,N) = peak(8),peak(40)
    assert (n,N) == (512,2560) and many-few < 80e6                       # 2048 objects more have 670 MB of pixels

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

@pytest.fixture
def measured(tmp_path):
    "The same six objects in nanomaggies, nJy, units of 27 mag, MJy/sr, larger pixels, an unknown unit, and as pictures; and a model of the first"
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(6,5,32,32)) + 5).astype('f4')
    def write(name, factor, **kw): Cutouts.write(tmp_path/f'{name}.h5', x*factor, 'ugriz', catalog=dict(id=list('abcdef')), **kw)
    area = (.262/206264.80624709636)**2
    write('own', 1, unit='nanomaggy', pixel_scale=.262)
    write('njy', 10**(.4*8.9), unit='nJy', pixel_scale=.262)
    write('zp27', 10**(.4*4.5), zero_point=27., pixel_scale=.262)
    write('sb', 3630.780547701e-9/1e6/area, unit='MJy/sr', pixel_scale=.262)
    write('large', 1, unit='nanomaggy', pixel_scale=.524)
    write('nothing', 1)
    write('picture', 1, unit='8-bit colour image')
    p = predictor(Point())
    p.measure = Measure('nanomaggy', 22.5, .262)
    return p

def test_fluxes_are_converted_to_those_of_the_training_set(measured, tmp_path, caplog):
    def z(*names, **kw):
        table_of(prediction(measured), [tmp_path/f'{o}.h5' for o in names], tmp_path/'z.parquet', progress=False, overwrite=True, **kw)
        return np.asarray(read_table(tmp_path/'z.parquet')['z'])
    own = z('own')
    assert not caplog.text
    for name in ('njy','zp27','sb'): np.testing.assert_allclose(z(name), own, rtol=2e-4, err_msg=name)
    np.testing.assert_allclose(z('njy','own','zp27'), np.tile(own, 3), rtol=2e-4)
    for name in ('own','njy','zp27','sb'): np.testing.assert_allclose(embed_cutouts(measured.encoder, Cutouts.open(tmp_path/f'{name}.h5'), progress=False)['embedding'], embed_cutouts(measured.encoder, Cutouts.open(tmp_path/'own.h5'), progress=False)['embedding'], atol=1e-3)
    assert 'unit' not in caplog.text
    np.testing.assert_array_equal(z('nothing'), own)
    assert 'nothing.h5 does not say its unit' in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(z('nothing', unit='nanomaggy'), own)
    np.testing.assert_allclose(z('nothing', zero_point=31.4), z('nothing', unit='nJy'), rtol=1e-6)
    assert 'its unit' not in caplog.text and abs(z('nothing', unit='nJy')-own).max() > 1e-3
    with pytest.raises(InputError, match='picture.h5 is in 8-bit colour image, and the model was trained on nanomaggy: these cannot be converted'): z('picture')
    measured.measure = Measure('8-bit colour image')
    with pytest.raises(InputError, match='cannot be converted'): z('own')
    measured.measure = Measure()
    measured.encoder.scaling = AsinhScaling([0.]*5, [1.]*5)
    caplog.clear()
    z('own')
    assert 'the model does not say the unit' in caplog.text

def test_pixels_of_another_size_are_told_or_resampled(measured, tmp_path, caplog):
    rows = Rows([tmp_path/'large.h5'], measured)
    assert rows.parts[0].shape == (5,32,32) and '2 times smaller' in caplog.text
    caplog.clear()
    rows = Rows([tmp_path/'large.h5', tmp_path/'own.h5'], measured, resample=True)
    assert [p.shape for p in rows.parts] == [(5,64,64),(5,32,32)] and not caplog.text
    x = rows.read(0, 12).x
    assert np.nanmean(x[:6]) == pytest.approx(5/4, rel=.01) and np.nanmean(x[6:]) == pytest.approx(5, rel=.01)
    with pytest.raises(InputError, match='nothing.h5 cannot be resampled'): Rows([tmp_path/'nothing.h5'], measured, resample=True)

def test_objects_that_trained_the_model_are_counted_apart(tmp_path):
    rng,n = np.random.default_rng(6),40
    x,label = rng.normal(size=(n,5,32,32)).astype('f4'),rng.choice(['star','galaxy'], n)
    sky = dict(ra=rng.uniform(0, 360, n), dec=rng.uniform(-80, 80, n))
    Cutouts.write(tmp_path/'train.h5', x, 'ugriz', catalog=dict(id=np.arange(n), label=label, **sky))
    c,p = Cutouts.open(tmp_path/'train.h5'),predictor(Classes(['star','galaxy']))
    r = table_of(prediction(p), tmp_path/'train.h5', tmp_path/'t.parquet', progress=False)
    assert 'trained_on' not in read_table(tmp_path/'t.parquet').colnames and 'the model does not say which objects trained it' in report_text(r) and r['metrics']['n'] == n
    p.trained_on = seen_of(c, np.arange(20), np.arange(20, 30))
    save_model(p, tmp_path/'model')
    p = load_model(tmp_path/'model')
    order,known = rng.permutation(n),np.arange(n) < 30
    Cutouts.write(tmp_path/'packed.h5', x[order], 'ugriz', catalog=dict(id=[f'q{i}' for i in range(n)], label=label[order]), dtype='float16')
    Cutouts.write(tmp_path/'place.h5', rng.normal(size=x.shape), 'ugriz', catalog=dict(label=label, **sky))
    Cutouts.write(tmp_path/'bands.h5', x[:,1:3]*1e5, 'gr', catalog=dict(label=label))
    Cutouts.write(tmp_path/'other.h5', rng.normal(size=x.shape), 'ugriz', catalog=dict(id=np.arange(n), label=label, ra=sky['ra']+.01, dec=sky['dec']))
    for name,truth in dict(train=known, packed=known[order], place=known, bands=known, other=known & False).items():
        r = table_of(prediction(p), tmp_path/f'{name}.h5', tmp_path/f'{name}.parquet', progress=False)
        t = read_table(tmp_path/f'{name}.parquet')
        assert (np.asarray(t['trained_on']) == truth).all(), name
        for k,rows in (('metrics',~truth), ('metrics_trained_on',truth)):
            assert (k in r) == rows.any()
            if rows.any(): assert r[k]['n'] == rows.sum() and r[k]['accuracy'] == pytest.approx((t['label'] == t['class'])[rows].mean())
    text = report_text(r := table_of(prediction(p), tmp_path/'train.h5', tmp_path/'again.fits', progress=False))
    assert '10 known classes of unseen objects' in text and '30 known classes of objects that trained the model' in text and read_table(tmp_path/'again.fits')['trained_on'].sum() == 30
    for i in (1,2): table_of(prediction(p), tmp_path/'train.h5', tmp_path/'s.parquet', (i,2), bs=8, progress=False)
    joined = table_of(prediction(p), tmp_path/'train.h5', tmp_path/'s.parquet', merge=2, bs=8, progress=False)
    assert {k: joined[k]['n'] for k in ('metrics','metrics_trained_on')} == dict(metrics=10, metrics_trained_on=30)

def test_ids_that_come_again_are_told(tmp_path, caplog):
    x = np.random.default_rng(7).normal(size=(3,5,32,32)).astype('f4')
    for name in 'ab': Cutouts.write(tmp_path/f'{name}.h5', x, 'ugriz', catalog=dict(id=np.arange(3)))
    Cutouts.write(tmp_path/'twice.h5', x, 'ugriz', catalog=dict(id=['o','o','p']))
    Cutouts.write(tmp_path/'once.h5', x, 'ugriz', catalog=dict(id=['o','q','p']))
    for name in ('t.parquet','t.fits'):
        caplog.clear()
        table_of(embedding(encoder()), [tmp_path/'a.h5', tmp_path/'b.h5'], tmp_path/name, progress=False)
        t = read_table(tmp_path/name)
        assert '3 of 6 objects have the id of another one: the columns file and row' in caplog.text
        assert [(Path(f).name, r) for f,r in zip(t['file'], t['row'])] == [('a.h5',0),('a.h5',1),('a.h5',2),('b.h5',0),('b.h5',1),('b.h5',2)]
    table_of(embedding(encoder()), tmp_path/'twice.h5', tmp_path/'u.parquet', progress=False)
    assert list(read_table(tmp_path/'u.parquet')['row']) == [0,1,2]
    table_of(embedding(encoder()), tmp_path/'once.h5', tmp_path/'v.parquet', progress=False)
    assert read_table(tmp_path/'v.parquet').colnames == ['id','ra','dec','embedding']
