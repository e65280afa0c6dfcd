"AstroMAE's parts in their published sizes, what is frozen stays, answers at the edges, and the experiment on a table"
import json
import numpy as np, pytest, torch
from astropy.table import Table
from toys import astromask, optional
from astromask.core import InputError
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.models.answers import Bins, Classes, Mixture, Point
from astromask.models.heads import Predictor
from astromask.models.mae import MAE
from astromask.models.astromae import Inception
from astromask.models.networks import CNN
from astromask.models.publish import to_timm
from astromask.models.weights import load_model, save_model
from astromask.evaluate.pdfs import Calibration
from astromask.tasks.redshift import asinh_magnitudes, photometry_table, redshift_answer, redshift_numbers, redshift_targets, teach_redshift
from astromask.train.finetune import TableOnly, finetune_learner, predict_cutouts

MAGS = [f'mag_{b}' for b in 'ugriz']


def count(*parts): return sum(p.numel() for m in parts for p in m.parameters())

@pytest.mark.parametrize('encoder,head,mags,total,trained', [
    (lambda: MAE.preset('astromae'), 'astromae', MAGS, 15.80, 10.40),
    (lambda: MAE.preset('astromae', block='vitae'), 'astromae', MAGS, 47.68, 10.40),
    (lambda: Inception('ugriz'), 'astromae', MAGS, 7.82, 7.82),
    (lambda: Inception('ugriz'), 'linear', (), 1.448, 1.448)])
def test_astromae_has_the_published_sizes(encoder, head, mags, total, trained):
    p = Predictor(encoder(), Point(), head=head, magnitudes=mags)
    assert count(p)/1e6 == pytest.approx(total, abs=5e-3 if total > 5 else 5e-4)
    own = count(p.branches, p.head) + (0 if isinstance(p.encoder, MAE) else count(p.encoder))
    assert own/1e6 == pytest.approx(trained, abs=5e-3 if total > 5 else 5e-4)


@pytest.fixture
def survey(tmp_path):
    rng = np.random.default_rng(0)
    z = rng.uniform(.1, .5, 48)
    x = rng.normal(size=(48,3,16,16)) + z[:,None,None,None]*10
    x[3] = x[5,1] = x[7,:,2:4] = np.nan
    mags = {f'mag_{b}': np.where(rng.random(48) < .2, np.nan, 20+z) for b in 'gri'}
    Cutouts.write(tmp_path/'c.h5', x.astype(np.float32), 'gri', Table(dict(redshift=z) | mags))
    return Cutouts.open(tmp_path/'c.h5'),z


@pytest.mark.parametrize('block', ['vit','vitae'])
def test_what_is_frozen_does_not_move(survey, tmp_path, block):
    c,z = survey
    p = Predictor(MAE.preset('tiny', bands='gri', img_size=16, block=block), Mixture(3), head='astromae', magnitudes=['mag_g','mag_r'])
    before = {k: v.clone() for k,v in p.encoder.state_dict().items()}
    mean = p.branches['image'].pixels.net[2].branches[0][1].running_mean.clone()
    learn = finetune_learner(cutout_dls(c, 16, bs=16, split=(np.arange(32), np.arange(32, 48))), p, z, tmp_path/'run', frozen='encoder', lr=1e-3)
    learn.fit(2)
    for k,v in p.encoder.state_dict().items(): assert torch.equal(v, before[k]), k
    assert any('running_mean' in k for k in before) == (block == 'vitae')
    assert (p.branches['image'].pixels.net[2].branches[0][1].running_mean != mean).any()
    assert all(v.isfinite().all() for v in p.state_dict().values() if v.is_floating_point())
    save_model(p, tmp_path/'model')
    found,again = (predict_cutouts(m, c, progress=False) for m in (p, load_model(tmp_path/'model')))
    assert all(np.array_equal(found[k], again[k], equal_nan=True) for k in found) and np.isfinite(found['z'][5])


@pytest.mark.parametrize('encoder', [lambda: CNN('gri', 16), lambda: Inception('gri', 16)])
def test_convolutions_take_missing_pixels(encoder):
    net,x = encoder(),torch.randn(4,3,16,16)
    x[0,1] = x[1,:,:9] = x[2] = torch.nan
    x.requires_grad_()
    found = net.embed(x)
    assert found.isfinite().all(1).tolist() == [True,True,False,True]
    found[[0,1,3]].square().sum().backward()
    assert x.grad.isfinite().all() and (x.grad[x.isnan()] == 0).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_the_order_of_patches_means_nothing_to_a_normal_cell():
    "a masked grid with nothing hidden is the grid; hidden patches' content cannot leak"
    m = MAE.preset('tiny', bands='gri', img_size=32, block='vitae').eval()
    x = torch.randn(2,3,32,32)
    mask = torch.zeros(2, m.n_patches, dtype=torch.bool)
    mask[0,::2] = mask[1,1::2] = True
    y = x.clone()
    from astromask.models.masking import patchify, unpatchify
    hidden = patchify(y, m.patch_size)
    hidden[mask] = 99.
    a,b = (m(o, mask=mask).pred for o in (x, unpatchify(hidden, m.patch_size, m.img_size)))
    assert torch.equal(a, b)


def test_timm_has_no_normal_cells(tmp_path):
    with pytest.raises(InputError, match='normal cells'): to_timm(MAE.preset('tiny', bands='gri', block='vitae'), tmp_path/'timm')


def test_answers_at_the_edges():
    for answer in (Bins(10, 0, 1), Mixture(3, 0, 1), Point(scale=.1)):
        with pytest.raises(InputError, match='No redshift|nothing'):
            answer.init_bias(torch.full((3,), torch.nan)) if not isinstance(answer, Bins) else redshift_answer('bins', np.array([np.nan]))
        out = 50*torch.randn(64, answer.n_out)                      # far from anything trained
        found = answer.predict(out)
        assert all(v.isfinite().all() for v in found.values())
        if 'pdf' in found: assert torch.trapezoid(found['pdf'].double(), answer.grid).sub(1).abs().max() < 1e-4
        assert answer.loss(out, torch.tensor([.2, torch.nan]*32)).isfinite()
    outside = Bins(10, 0, 1).loss(torch.zeros(2, 10), torch.tensor([-.5, 7.]))
    assert outside.isfinite()
    bins,z = Bins(20, 0, 1),torch.rand(5000)                        # a PDF through the bins has the bins' shares
    pdf = bins.predict(bins.init_bias(z)[None])['pdf'][0].double()
    share = float(((z >= bins.edges[5]) & (z < bins.edges[10])).double().mean())
    assert float(torch.trapezoid(torch.where((bins.grid >= bins.edges[5]) & (bins.grid < bins.edges[10]), pdf, 0), bins.grid)) == pytest.approx(share, abs=.02)
    with pytest.raises(InputError): Classes(['one'])


def test_photometry_is_read_or_refused(tmp_path):
    t = Table(dict(id=[1,2,3], ra=[0.,1.,2.], dec=[0.,1.,2.], f1=[1.,-99.,-.2], f1_err=[.1,-99.,.1], zspec=[.1,.2,.3]))
    t.write(tmp_path/'t.csv')
    found = photometry_table(tmp_path/'t.csv')
    assert np.isfinite(found['mag_f1']).tolist() == [True,False,True]
    with pytest.raises(InputError, match='neither magnitudes nor fluxes'): photometry_table(t['id','ra','dec','zspec'])
    assert all(np.isnan(v).all() for v in asinh_magnitudes([np.nan], [-1.]))
    z,w = redshift_targets(Table(dict(id=['a'], redshift=[np.nan])), error='')
    assert np.isnan(z).all() and w is None


def test_fluxes_are_told_from_all_else(tmp_path):
    n,rng = 50,np.random.default_rng(0)
    sky,z = dict(id=np.arange(n), ra=rng.uniform(0, 9, n), dec=rng.uniform(0, 9, n)),rng.uniform(.1, 1, n)
    def made(**columns): return photometry_table(Table(sky | columns))
    mags = {b: 20+rng.normal(size=n) for b in 'ugr'}
    t = made(**mags, **{b+'_err': np.full(n, .1) for b in mags}, z_spec=z)                    # magnitudes with errors are no fluxes
    assert not any(k.startswith('mag_') for k in t.colnames) and not t.meta['photometry']['softening']
    flux = {f'f{k}w': np.exp(rng.normal(size=n)) for k in (115,200)}
    t = made(**flux, **{k+'_err': np.full(n, .1) for k in flux}, z=z, z_err=z/9, r50=z, r50_err=z, ra_err=z, redshift=z, redshift_err=z)
    assert [k for k in t.colnames if k.startswith('mag_')] == ['mag_f115w','mag_err_f115w','mag_f200w','mag_err_f200w']      # the redshift is none
    assert made(**flux, **{k+'_err': np.full(n, .1) for k in flux}, z=z, z_err=z/9).meta['photometry']['softening'].keys() == flux.keys()
    with pytest.raises(InputError, match='no column .q.; it has|neither'): photometry_table(Table(sky), names=['q'])

def test_marks_among_numbers_cost_their_rows_alone(caplog):
    t = Table(dict(id=[1,2,3], ra=[1.,2,3], dec=[0.]*3, FLUX_G=['1.0','2.0*','3'], FLUX_IVAR_G=['1','4','4'], redshift=[.1,.2,.3], z_err=['0.011','?','0.013']))
    assert np.isfinite(photometry_table(t)['mag_FLUX_G']).tolist() == [True,False,True] and "'FLUX_G' holds '2.0*'" in caplog.text
    np.testing.assert_allclose(redshift_targets(t, error='z_err')[1], np.ones(3), rtol=.1)                    # 0.01 each: the unknown one is as the others
    assert "'z_err' holds '?'" in caplog.text

def test_units_of_fluxes_decide(tmp_path):
    nano = Table(dict(id=[1,2,3], ra=[0.]*3, dec=[0.]*3, FLUX_G=[100.,10.,1.], FLUX_IVAR_G=[4.,0.,25.], FLUX_R=[200.,-99.,-99.], FLUX_IVAR_R=[4.,4.,4.], Z=[.1,.2,.3], ZWARN=[0]*3), units=dict(FLUX_G='nanomaggy', FLUX_R='nanomaggy'))
    t = photometry_table(nano)
    b = np.median([1/2,1/5])*10**.56                                                          # nanomaggies to microjanskys
    assert t.meta['photometry']['zero_points'] == dict(FLUX_G=22.5, FLUX_R=22.5) and t.meta['photometry']['softening']['FLUX_G'] == pytest.approx(b)
    right = 23.9-2.5/np.log(10)*(np.arcsinh(100*10**.56/(2*b))+np.log(b))
    assert t['mag_FLUX_G'][0] == pytest.approx(right, abs=1e-9) and right == pytest.approx(22.5-5, abs=.001) and np.isnan(t['mag_FLUX_G'][1]) and np.isfinite(t['mag_FLUX_R']).tolist() == [True,False,False]
    jansky = nano.copy()
    for k in 'GR': jansky[f'FLUX_{k}'],jansky[f'FLUX_IVAR_{k}'] = jansky[f'FLUX_{k}']*10**-5.44,jansky[f'FLUX_IVAR_{k}']*10**10.88
    for k in 'GR': jansky[f'FLUX_{k}'].unit = 'Jy'
    np.testing.assert_allclose(photometry_table(jansky, **t.meta['photometry'])['mag_FLUX_G'], t['mag_FLUX_G'], rtol=1e-9)      # as a model that learned from nanomaggies sees them
    p = Predictor(None, Point(), magnitudes=['mag_FLUX_G'])
    p.photometry = t.meta['photometry']
    save_model(p, tmp_path)
    assert load_model(tmp_path).photometry == p.photometry

def survey_table(n=400, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.uniform(.1, 1, n)
    flux = {f'f{i}': (1+i)*np.exp(-z*(3-i)) + rng.normal(0, .02, n) for i in range(3)}
    return Table(dict(id=np.arange(n), ra=rng.uniform(0, 90, n), dec=rng.uniform(-60, 60, n), zspec=z, zspec_err=rng.uniform(0, .01, n))
                 | flux | {k+'_err': np.full(n, .02) for k in flux})


def test_calibration_holds_on_new_objects(tmp_path):
    c = TableOnly(photometry_table(survey_table(1600)))
    z,w = redshift_targets(c.catalog, error='zspec_err')
    parts = np.split(np.random.default_rng(0).permutation(1600), [800, 1200])
    parts = [np.sort(r) for r in parts]
    p = teach_redshift(c, z, parts, redshift_answer('bins', z[parts[0]]), tmp_path, magnitudes=['mag_f0','mag_f1','mag_f2'], weights=w, epochs=12)
    grid,(held,asked) = p.answer.grid.numpy(),[predict_cutouts(p, c, r, progress=False) for r in parts[1:]]
    found = redshift_numbers(z[parts[2]], Calibration(.8).fit(held, z[parts[1]], grid)(asked, grid), grid)
    assert abs(found['conformal_coverage']-.8) < .06 and found['pit_ks_p'] > 1e-3 and found['nmad'] < .05
    point = Calibration(.8).fit(dict(z=held['z']), z[parts[1]])(dict(z=asked['z']))
    assert abs(np.mean((point['low'] <= z[parts[2]]) & (z[parts[2]] <= point['high'])) - .8) < .06


@pytest.mark.slow
def test_the_experiment_takes_a_table(tmp_path):
    survey_table().write(tmp_path/'t.csv')
    done = astromask('run', 'redshift', '-p', 'table', 't.csv', '-p', 'answers', 'mixture', '-p', 'error', 'zspec_err', '-p', 'patience', 3, '--out', 'out', cwd=tmp_path)
    assert done.returncode == 0, done.stdout+done.stderr
    numbers = json.loads((tmp_path/'out/metrics.json').read_text())
    assert numbers['best'] == 'magnitudes mixture' and {r['looks_at'] for r in numbers['records']} == {'magnitudes','forest on magnitudes'}
    pdfs,m = Table.read(tmp_path/'out/pdfs.parquet'),load_model(tmp_path/'out')
    assert len(pdfs) == numbers['objects']['test'] and np.allclose(np.trapezoid(pdfs['pdf'], pdfs.meta['grid']), 1, atol=1e-4)
    assert m.predict(None, torch.full((1,len(m.magnitudes)), 22.))['z'].isfinite().all()
    qp = optional('qp')
    assert qp.read(str(tmp_path/'out/pdfs.hdf5')).npdf == len(pdfs)
    assert m.calibration['conformal']['n'] == numbers['objects']['calibrate']
    assert m.photometry == dict(zero_point=23.9, softening=dict(f0=.02, f1=.02, f2=.02))

@pytest.mark.slow
def test_the_experiment_pools_densities_of_two_networks(tmp_path):
    "The pooled density is judged and may be the best; what is kept to predict with is one of its members"
    how = '-p','networks','encoder,matched','-p','answers','point,mixture','-p','inputs','magnitudes,image','-p','epochs',1,'-p','img_size',32
    done = astromask('run', 'redshift', *how, '--out', 'out', cwd=tmp_path)
    assert done.returncode == 0, done.stdout+done.stderr
    numbers = json.loads((tmp_path/'out/metrics.json').read_text())
    one,two,both = (numbers['before'][f'{name} image mixture']['crps'] for name in ('encoder','matched','together'))
    assert 'together image point' not in numbers['before'] and 0 < both < (one+two)/2   # CRPS is convex in the density
    m = load_model(tmp_path/'out')
    assert m.calibration['conformal']['n'] == numbers['objects']['calibrate'] and 'together' not in (tmp_path/'out/model/README.md').read_text()

@pytest.mark.slow
@pytest.mark.parametrize('given,says', [(('drop_path','.1'), 'no encoder learns'), (('patience','-1'), 'patience is -1')])
def test_networks_that_cannot_be_taught_so_are_refused_at_once(tmp_path, given, says):
    survey_table().write(tmp_path/'t.csv')
    done = astromask('run', 'redshift', '-p', 'table', 't.csv', '-p', *given, '--out', 'out', cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr

@pytest.mark.slow
def test_a_table_of_bare_bands_from_training_to_prediction(tmp_path):
    "SDSS's CasJobs: magnitudes called u, g, r, i, z; a model that learned from them finds them again"
    rng,n = np.random.default_rng(1),260
    z,stars = rng.uniform(.05, .4, n),np.arange(n)%13 == 0
    t = Table(dict(objid=1237648720693755918+np.arange(n), ra=rng.uniform(0, 90, n), dec=rng.uniform(-30, 30, n), ZCMB=np.where(np.arange(n)%26 == 1, -9999, z), kind=np.where(stars, 'STAR', 'GALAXY')))
    for i,b in enumerate('ugriz'): t[b] = np.where(np.arange(n)%20 == 3, -9999, 17+3*z+i*.3+rng.normal(size=n)*.05)
    t.write(tmp_path/'sdss.csv')
    how = '-p','table','sdss.csv','-p','redshift','zcmb','-p','label','kind','-p','epochs','2','-p','answers','point'
    done = astromask('run','redshift',*how,'-p','magnitudes','u,g,r,i,q','--out','wrong', cwd=tmp_path)
    assert done.returncode == 2 and "no column 'q'; it has id, ra, dec" in done.stdout+done.stderr
    done = astromask('run','redshift',*how,'-p','magnitudes','u,g,r,i,z','--out','run', cwd=tmp_path)
    said = done.stdout+done.stderr
    assert done.returncode == 0 and '10 of 260 values of `ZCMB` cannot be redshifts and count as unknown: -9999 (10)' in said and '13 of 260 values of `u` stand for nothing' in said, said
    m,numbers = load_model(tmp_path/'run'),json.loads((tmp_path/'run/metrics.json').read_text())
    assert m.magnitudes == tuple('ugriz') and m.photometry is None and sum(numbers['objects'].values()) == n-20-10
    done = astromask('predict','run/model','sdss.csv','--out','z.parquet', cwd=tmp_path)
    found = Table.read(tmp_path/'z.parquet')
    right = np.stack([np.where(t[b] == -9999, np.nan, t[b]) for b in 'ugriz'], 1)
    with torch.no_grad(): z = m.predict(None, torch.tensor(right, dtype=torch.float32))['z']
    assert done.returncode == 0 and found['id'][0] == '1237648720693755918'
    if m.calibration is None: np.testing.assert_allclose(found['z'], z, rtol=1e-5)
    t['objid','ra','dec'].write(tmp_path/'none.csv')
    done = astromask('predict','run/model','none.csv','--out','no.parquet', cwd=tmp_path)
    assert done.returncode == 2 and 'none of the columns that this model looks at (u, g, r, i, z)' in done.stdout+done.stderr
