"Metrics, PDFs and figures against independent references: scikit-learn, qp (LSST), SciPy, closed forms"
import sys
from functools import partial
from types import SimpleNamespace
import numpy as np, pytest
from astropy.table import Table
from scipy import integrate, stats
from sklearn import metrics as sk
from astromask.core import InputError
from astromask.evaluate import figures
from astromask.evaluate.metrics import (binned, classification_metrics, confusion, likeliest, per_class, redshift_metrics, reliability,
                                        roc_auc, share_error)
from astromask.evaluate.pdfs import (Conformal, Recalibration, cdf, central_interval, coverage, crps, density_at, hpd_level, interval_coverage,
                                     log_likelihood, pdf_metrics, pdf_table, pit, pit_uniformity, point_estimates, quantiles, to_qp)
from toys import optional

def close(a, b, eps=1e-10): np.testing.assert_allclose(a, b, rtol=0, atol=eps)


def test_in_ci_nothing_optional_is_missing(monkeypatch):
    monkeypatch.setenv('CI', 'true')
    with pytest.raises(ImportError): optional('no_such_package')
    monkeypatch.delenv('CI')
    with pytest.raises(pytest.skip.Exception): optional('no_such_package')


# Numbers of classes and redshifts

def test_the_vector_of_prior_art():
    "notes/prior-art.md 1.5: AstroMAE's text and code, and sky_embeddings, call different numbers precision"
    z = np.array([.1, .2, .3, .5, 1])
    m = redshift_metrics(z, z + [.02, .03, .01, .02, .5])
    close([m['bias'], m['precision'], m['nmad'], m['nmad']*1.48/1.4826, m['outlier_fraction']], [.062841, .026909, .010109, .010091, .2], 5e-7)


@pytest.mark.parametrize('width', [.01, .2])
def test_point_metrics_equal_rail(width):
    "RAIL's point metrics are in qp"
    optional('qp')
    from qp.metrics import point_estimate_metric_classes as rail
    rng = np.random.default_rng(1)
    z = rng.uniform(0, 2, 300)
    p = z + width*rng.standard_t(2, 300)
    m = redshift_metrics(z, p)
    for name,their in dict(sigma_iqr='SigmaIQR', median_bias='Bias', outlier_fraction_3sigma='OutlierRate', nmad='SigmaMAD').items():
        close(m[name], getattr(rail, f'Point{their}')().evaluate(p, z))


def drawn(k, n=400, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(k, .6), n)
    y = np.array([rng.choice(k, p=q) for q in p])
    p = p**1.5 + .001
    return y, p/p.sum(1, keepdims=True)


@pytest.mark.parametrize('k', [2, 3, 8])
def test_probabilities_equal_references(k):
    y,p = drawn(k)
    m = classification_metrics(y, probability=p)
    guess = p.argmax(1)
    close(m['accuracy'], sk.accuracy_score(y, guess))
    close(m['balanced_accuracy'], sk.balanced_accuracy_score(y, guess))
    close(m['macro_f1'], sk.f1_score(y, guess, average='macro'))
    close(m['log_loss'], sk.log_loss(y, p, labels=range(k)))
    close(m['brier'], ((p - np.eye(k)[y])**2).sum(1).mean()/(2 if k == 2 else 1))
    area = sk.roc_auc_score(y, p[:,1]) if k == 2 else sk.roc_auc_score(y, p, multi_class='ovr', average='macro')
    close(m['roc_auc'], area)
    assert ('top5_accuracy' in m) == (k > 5)
    if k > 5: close(m['top5_accuracy'], sk.top_k_accuracy_score(y, p, k=5))
    edges,error = np.linspace(0, 1, 16), 0
    for low,high in zip(edges, edges[1:]):
        inside = (p.max(1) > low) & (p.max(1) <= high)
        if inside.any(): error += inside.mean()*abs((guess == y)[inside].mean() - p.max(1)[inside].mean())
    close(m['calibration_error'], error)
    assert m['n'] == m['n_probability'] == 400
    assert all(type(v) is float for name,v in m.items() if name not in ('n', 'n_probability'))


def test_binary_brier_is_the_usual_one():
    y,p = drawn(2)
    close(classification_metrics(y, probability=p)['brier'], sk.brier_score_loss(y, p[:,1]))


def test_names_and_numbers_say_the_same():
    y,p = drawn(3)
    names = np.array(['spiral', 'disk', 'edge'])                          # not in alphabetical order
    assert classification_metrics(names[y], probability=p, names=names) == classification_metrics(y, probability=p)
    assert (likeliest(p, names) == names[p.argmax(1)]).all()
    assert (confusion(names[y], likeliest(p, names), names) == confusion(y, likeliest(p), names)).all()


def test_unknown_classes_and_missing_probabilities():
    y,p = drawn(3)
    y[:50],p[50:80] = -1, np.nan
    m = classification_metrics(y, probability=p)
    assert m['n'] == 350 and m['n_probability'] == 320
    close(m['log_loss'], sk.log_loss(y[80:], p[80:], labels=range(3)))
    close(m['accuracy'], (p[80:].argmax(1) == y[80:]).sum()/350)            # without a prediction is wrong
    assert classification_metrics(y, likeliest(p))['accuracy'] == m['accuracy']


def test_classes_at_the_edges():
    for y,p in (([], np.zeros((0, 3))), ([-1, -1], np.full((2, 3), 1/3)), ([0, 1], np.full((2, 3), np.nan))):
        m = classification_metrics(y, probability=p)
        assert all(np.isnan(m[k]) for k in ('roc_auc', 'log_loss', 'brier', 'calibration_error')) and m['n_probability'] == 0
    m = classification_metrics([1], probability=[[.2, .8]])                 # one object
    assert m['accuracy'] == m['balanced_accuracy'] == m['macro_f1'] == 1 and np.isnan(m['roc_auc'])
    close([m['log_loss'], m['brier'], m['calibration_error']], [-np.log(.8), .04, .2])
    m = classification_metrics([1]*4, probability=[[.2, .8]]*4)             # one class
    assert np.isnan(m['roc_auc']) and m['accuracy'] == 1
    assert np.isfinite(classification_metrics([0], probability=[[0., 1.]])['log_loss'])
    assert np.isnan(roc_auc([0, 1, 0], np.full((3, 3), 1/3))[2]) and roc_auc([0, 1, 0], np.full((3, 3), 1/3))[0] == .5
    assert len(reliability([], np.zeros((0, 2)))) == 15
    for bad,say in (([[.5, .6]], 'sum to 1'), ([[1.2, -.2]], 'negative'), ([.5], 'a row for each'), ([[1.]], 'columns 0 to 0')):
        with pytest.raises(InputError, match=say): classification_metrics([1], probability=bad)
    with pytest.raises(InputError, match='no class'): classification_metrics(['x'], probability=[[1., 0]], names='ab')
    with pytest.raises(InputError, match='2 names'): classification_metrics([0], probability=[[1., 0, 0]], names='ab')


def test_per_class_equals_references():
    y,p = drawn(5)
    guess = p.argmax(1)
    guess[guess == 3] = 0                                                   # never predicted
    t = per_class(y, guess, list('abcde'))
    with np.errstate(all='ignore'):
        expected = sk.precision_recall_fscore_support(y, guess, labels=range(5), zero_division=np.nan)
    for name,e in zip(('precision', 'recall', 'support'), np.array(expected)[[0, 1, 3]]): close(t[name], e)
    close(t['f1'], sk.f1_score(y, guess, labels=range(5), average=None))
    assert (confusion(y, guess, 'abcde') == sk.confusion_matrix(y, guess, labels=range(5))).all()
    assert np.isnan(t['precision'][3]) and t['recall'][3] == 0
    nothing = per_class([-1], [0], ['a', 'b'])
    assert np.isnan(nothing['recall']).all() and list(nothing['support']) == [0, 0]
    missed = per_class([0, 0], [-1, 0], ['a', 'b'])                          # an object without a prediction is missed
    assert missed['recall'][0] == .5 and missed['precision'][0] == 1
    with pytest.raises(InputError, match='2 names'): confusion([0, 2], [0, 0], 'ab')


def test_bins_are_the_metric_of_their_objects():
    rng = np.random.default_rng(0)
    x,z = rng.normal(20, 1, 500), rng.uniform(0, 1, 500)
    guess = z + .05*rng.normal(size=500)
    x[:20] = np.nan
    t = binned(redshift_metrics, x, z, guess, bins=5, bootstrap=0)
    assert list(t['n']) == [96]*5 and np.nanmin(x) == t['low'][0] and np.nanmax(x) == t['high'][-1]
    for row in t:
        inside = (x >= row['low']) & ((x < row['high']) | (x == np.nanmax(x)) & (row['high'] == np.nanmax(x)))
        for k,v in redshift_metrics(z[inside], guess[inside]).items(): close(row[k], v)
        close(row['center'], np.median(x[inside]))
    t = binned(redshift_metrics, x, z, guess, edges=[19, 20, 21], bootstrap=0)
    assert t['n'].sum() == ((x >= 19) & (x <= 21)).sum()


def test_errors_of_bins():
    rng = np.random.default_rng(0)
    z = rng.uniform(0, 1, 400)
    guess = z + .05*(1+z)*rng.normal(size=400)
    t = binned(redshift_metrics, z*0, z, guess, bins=1, bootstrap=200)
    assert t['bias_error'][0] == pytest.approx(.05/20, rel=.2)
    assert t['nmad_error'][0] == pytest.approx(.05*1.1664/20, rel=.4)         # of a Gaussian: sigma*1.17/sqrt(n)
    again = binned(redshift_metrics, z*0, z, guess, bins=1, bootstrap=200)
    assert again['nmad_error'][0] == t['nmad_error'][0]
    perfect = binned(classification_metrics, np.arange(10.), np.ones(10, int), np.ones(10, int), bins=1)
    assert perfect['accuracy'][0] == 1 and .05 < perfect['accuracy_error'][0] < .15
    close(share_error(.5, 96), .05)
    assert np.isnan(share_error(np.nan, 0))


def test_errors_ignore_draws_without_a_value():
    rng = np.random.default_rng(0)
    for rare,defined in ((2, True), (0, False)):                               # exp(-2) of the draws have none of two
        y = np.arange(40) < rare
        p = np.stack([.5-.2*y, .5+.2*y], 1) + .1*rng.random((40, 1))*[1, -1]
        metrics = lambda y,p: classification_metrics(y, probability=p)
        assert np.isfinite(binned(metrics, np.ones(40), y, p, bins=1)['roc_auc_error'][0]) == defined
    seldom = lambda v: dict(n=len(v), first=float((v == 0).sum()) if (v == 0).sum() > 1 else np.nan)   # a quarter of the draws
    assert np.isnan(binned(seldom, np.ones(40), np.arange(40), bins=1)['first_error'][0])


@pytest.mark.parametrize('x', [[], [np.nan]*3, [1.], [2.]*5, [np.nan, 1., np.nan]])
def test_bins_of_little_or_nothing(x):
    z = np.full(len(x), .5)
    t = binned(redshift_metrics, x, z, z, bins=4, bootstrap=5)
    assert t['n'].sum() == np.isfinite(x).sum() and (np.diff(t['low']) > 0).all()
    assert np.isnan(binned(redshift_metrics, x, z*np.nan, z, bins=4, bootstrap=5)['mae']).all()


# PDFs

def pdfs(n=300, seed=0, narrow=1.):
    "Two-peaked PDFs on an uneven grid that vanish at both ends, and truths drawn from them (if narrow is 1)"
    rng = np.random.default_rng(seed)
    grid = np.sort(np.concatenate([np.linspace(0, 2, 150), rng.uniform(.2, 1.8, 100)]))
    a,b,w,s = rng.uniform(.5, .9, n), rng.uniform(1, 1.4, n), rng.uniform(0, 1, n), rng.uniform(.03, .08, n)
    peak = lambda m: np.exp(-((grid-m[:,None])/(narrow*s[:,None]))**2/2)
    z = np.where(rng.random(n) < w, a, b) + s*rng.normal(size=n)
    pdf = w[:,None]*peak(a) + (1-w[:,None])*peak(b)
    pdf[:,[0,-1]] = 0                                                        # qp counts half a cell below the first point
    return grid, pdf, z


def test_pdfs_equal_qp():
    qp = optional('qp')
    from qp.metrics.concrete_metric_classes import CDELossMetric
    from qp.metrics.goodness_of_fit import goodness_of_fit_metrics
    from qp.metrics.pit import PIT
    grid,pdf,z = pdfs()
    e = qp.Ensemble(qp.interp, data=dict(xvals=grid, yvals=pdf))
    close(pit(grid, pdf, z), e.cdf(z[:,None])[:,0])
    close(density_at(grid, pdf, z), e.pdf(z[:,None])[:,0])
    close(log_likelihood(grid, pdf, z, floor=0), np.log(e.pdf(z[:,None])[:,0]))
    close(cdf(grid, pdf), e.cdf(grid))
    q = np.array([.05, .16, .5, .84, .95])
    close(quantiles(grid, pdf, q), e.ppf(q))
    close(point_estimates(grid, pdf)['mode'], e.mode(grid)[:,0])
    theirs,found = PIT(e, z), pit_uniformity(pit(grid, pdf, z))
    close([found['ks'], found['ks_p']], [theirs.evaluate_PIT_KS().statistic, theirs.evaluate_PIT_KS().pvalue])
    close([found['cvm'], found['cvm_p']], [theirs.evaluate_PIT_CvM().statistic, theirs.evaluate_PIT_CvM().pvalue])
    close(found['ad'], goodness_of_fit_metrics['ad'](stats.uniform, pit(grid, pdf, z)))  # its PIT's own takes a ladder for a second sample
    on_grid = grid[np.searchsorted(grid, z)]                                 # its CDE loss takes the nearest point of the grid
    close(pdf_metrics(grid, pdf, on_grid)['cde_loss'], CDELossMetric(grid).evaluate(e, on_grid))


def test_anderson_darling(monkeypatch):
    "The statistic is SciPy's, the probability of a sample is what simulation finds, and true uniforms are called so as often as said"
    rng = np.random.default_rng(0)
    for power in (1, .8, 1.3):                                               # probabilities from 0.5 to 0.01
        p = rng.random(60)**power
        found,simulated = pit_uniformity(p), stats.goodness_of_fit(stats.uniform, p, known_params=dict(loc=0, scale=1), statistic='ad', n_mc_samples=2000, rng=1)
        close(found['ad'], simulated.statistic)
        assert abs(found['ad_p']-simulated.pvalue) < 3.5*share_error(simulated.pvalue, 2000)
    nothing = SimpleNamespace(statistic=0., pvalue=0.)
    for n in (10, 200):
        with monkeypatch.context() as patch:                                 # the other two are not asked for, and slow
            for other in ('kstest','cramervonmises'): patch.setattr(stats, other, lambda *args: nothing)
            drawn = np.array([pit_uniformity(rng.random(n))['ad_p'] for _ in range(1500)])
        assert ((drawn >= 0) & (drawn <= 1)).all() and stats.kstest(drawn, 'uniform').pvalue > .001
        for level in (.1, .05, .01): assert abs((drawn < level).mean()-level) < 3.5*share_error(level, 1500)
    few,many = (pit_uniformity(np.concatenate([rng.random(2000), np.zeros(k)])) for k in (1, 200))   # truths outside the grid
    assert few['ad_p'] > .01 and np.isfinite(many['ad']) and many['ad_p'] < 1e-6


def test_the_mean_equals_qp_on_an_even_grid():
    qp = optional('qp')
    grid,z = np.linspace(0, 2, 201), np.random.default_rng(0).uniform(.5, 1.5, 20)
    pdf = np.exp(-((grid-z[:,None])/.05)**2/2)
    pdf[:,[0,-1]] = 0
    e,t = qp.Ensemble(qp.interp, data=dict(xvals=grid, yvals=pdf)), point_estimates(grid, pdf)
    close(t['mean'], np.ravel(e.moment(1)))
    close(t['std'], .05, 1e-3)


def test_crps_is_the_integral():
    grid,pdf,z = pdfs(6)
    z[0],z[1] = -.3, 2.5
    for i,steps in enumerate(cdf(grid, pdf)):
        F = lambda x: np.interp(x, grid, steps, left=0, right=1)
        nodes = np.unique(np.concatenate([grid, [z[i], -1, 3]]))
        pieces = [integrate.quad(lambda x: (F(x)-((a+b)/2 >= z[i]))**2, a, b)[0] for a,b in zip(nodes, nodes[1:])]
        close(crps(grid, pdf, z)[i], sum(pieces))


def test_crps_of_a_gaussian_is_the_closed_form():
    "Gneiting and Raftery 2007, equation 21 (what properscoring computes)"
    grid,sigma = np.linspace(0, 2, 40001), .07
    for z in (.5, 1., 1.31):
        w = (z-1)/sigma
        form = sigma*(w*(2*stats.norm.cdf(w)-1) + 2*stats.norm.pdf(w) - 1/np.pi**.5)
        close(crps(grid, np.exp(-((grid[None]-1)/sigma)**2/2), [z]), form, 1e-7)


def test_crps_is_the_mean_of_pinball_losses():
    grid,pdf,z = pdfs(5)
    level = (np.arange(2000)+.5)/2000
    close(crps(grid, pdf, z), [2*np.maximum(level*(t-q), (level-1)*(t-q)).mean() for t,q in zip(z, quantiles(grid, pdf, level))], 1e-4)


def test_truths_drawn_from_the_pdfs_are_calibrated():
    grid,pdf,_ = pdfs(4000)
    rng = np.random.default_rng(3)
    z = np.array([np.interp(u, F, grid) for u,F in zip(rng.random(4000), cdf(grid, pdf))])
    for u in (pit(grid, pdf, z), hpd_level(grid, pdf, z)): assert stats.kstest(u, 'uniform').pvalue > .01
    t = coverage(grid, pdf, z, np.arange(.1, 1, .1))
    for kind in ('central', 'hpd'): assert (abs(t[kind]-t['level']) < 4*t[kind+'_error']).all()
    low,high = central_interval(grid, pdf, .9)
    close(interval_coverage(z, low, high)['coverage'], coverage(grid, pdf, z, [.9])['central'][0])


def test_hpd_of_a_flat_pdf_and_of_two_peaks():
    grid = np.linspace(0, 1, 11)
    close(hpd_level(grid, np.ones((3, 11)), [.25, .5, 1.]), [.25, .5, 1.])
    grid = np.linspace(0, 3, 301)
    two = np.exp(-((grid-.5)/.1)**2/2) + np.exp(-((grid-2.5)/.1)**2/2)
    close(hpd_level(grid, two[None], [.5]), 0, .05)
    close(hpd_level(grid, two[None], [1.5]), 1, 1e-6)
    close(pit(grid, two[None], [1.5]), .5, 1e-6)                             # the middle of both, and in neither


def test_what_is_missing_is_dropped_and_counted():
    grid,pdf,z = pdfs(100)
    whole = pdf_metrics(grid, pdf[5:], z[5:])
    pdf[:3],z[3:5] = np.nan, np.nan
    m = pdf_metrics(grid, pdf, np.ma.masked_invalid(z))
    assert (m['n'], m['n_no_pdf'], m['n_no_redshift'], m['n_outside']) == (95, 3, 2, 0)
    for k in m:
        if not k.startswith('n'): close(m[k], whole[k])
    some = pdf.copy()
    some[9,7] = np.nan                                                       # one NaN, and the row is no PDF
    assert pdf_metrics(grid, some, z)['n_no_pdf'] == 4 and np.isnan(cdf(grid, some)[9]).all()
    assert all(np.isnan(f(grid, some, z)[9]) for f in (pit, crps, log_likelihood, hpd_level, density_at))
    assert all(np.isnan(f(grid, pdf, z)[4]) for f in (pit, crps, log_likelihood, hpd_level, density_at))


def test_pdfs_at_the_edges():
    grid = np.array([0., 1.])
    m = pdf_metrics(grid, np.zeros((0, 2)), [])
    assert m['n'] == 0 and all(np.isnan(v) for k,v in m.items() if not k.startswith('n'))
    m = pdf_metrics(grid, [[1., 1.]], [.25])                                 # one object, the shortest grid
    close([m['crps'], m['log_likelihood'], m['pit_mean']], [(.25**3+.75**3)/3, 0, .25])
    assert np.isnan(m['pit_ks'])
    m = pdf_metrics(grid, [[1., 1.]], [3.])
    close([m['crps'], m['log_likelihood'], m['pit_mean'], m['coverage_95']], [1/3+2, np.log(1e-6), 1, 0])
    assert m['n_outside'] == 1 and m['pit_outliers'] == 1 and m['coverage_hpd_95'] == 0
    spike = np.zeros((1, 101))
    spike[0,50] = 1
    line = np.linspace(0, 1, 101)
    close(quantiles(line, spike, [0, .5, 1])[0], [.49, .5, .51])
    for bad,say in (((line, -spike), 'negative'), ((line, 0*spike), 'zero'), ((line, spike+np.inf), 'infinite'), ((line[::-1], spike), 'rise'),
                    ((line, spike[0]), 'a row for each'), ((line[:9], spike), '9 points')):
        with pytest.raises(InputError, match=say): cdf(*bad)
    with pytest.raises(InputError, match='one for each'): pit(line, spike, [.1, .2])


def test_recalibration():
    rng,grid = np.random.default_rng(0), np.linspace(0, 2, 251)
    z,s = rng.uniform(.5, 1.5, 4000), rng.uniform(.03, .08, 4000)
    pdf = np.exp(-((grid-(z+s*rng.normal(size=4000))[:,None])/(.5*s[:,None]))**2/2)
    p,valid = pit(grid, pdf, z), np.arange(4000) < 2000
    r = Recalibration().fit(p[valid])
    assert stats.kstest(p[~valid], 'uniform').pvalue < 1e-10 and stats.kstest(r(p[~valid]), 'uniform').pvalue > .01
    line = np.linspace(0, 1, 1001)
    assert (np.diff(r(line)) >= 0).all() and r(0.) == 0 and r(1.) == 1
    mended = r.pdf(grid, pdf)
    close(np.trapezoid(mended, grid, axis=1), 1)
    assert abs(pit(grid, mended, z)-r(p)).max() < .02 and pit_uniformity(pit(grid, mended, z)[~valid])['ks_p'] > .01
    before,after = (pdf_metrics(grid, x[~valid], z[~valid]) for x in (pdf, mended))
    assert after['crps'] < before['crps'] and after['log_likelihood'] > before['log_likelihood']
    again = Recalibration(**r.config())
    assert (again.pdf(grid, pdf) == mended).all()
    holes = pdf.copy()
    holes[5] = np.nan
    assert np.isnan(r.pdf(grid, holes)[5]).all() and np.isfinite(r.pdf(grid, holes)[6]).all()


@pytest.mark.parametrize('pits', [[], [.3], [np.nan]*9, [0.]*40, [1.]*200, [0., 1.]*100])
def test_recalibration_of_little_and_odd(pits):
    r = Recalibration().fit(pits)
    line = r(np.linspace(0, 1, 101))
    assert np.isfinite(line).all() and (np.diff(line) >= 0).all()
    grid,pdf,_ = pdfs(3)
    assert np.isfinite(r.pdf(grid, pdf)).all()


def test_conformal_promise_is_kept_exactly():
    "Split-conformal coverage is ceil((n+1)a)/(n+1) in the mean over validation sets, whatever the errors are"
    rng,held = np.random.default_rng(0), []
    for _ in range(400):
        e,z = rng.standard_t(2, 1039), rng.uniform(0, 1, 1039)
        c = Conformal(.9).fit(z[:39], (z+e)[:39], scale=1.)
        held.append(interval_coverage(z[39:], *c.interval((z+e)[39:], scale=1.))['coverage'])
    assert abs(np.mean(held) - 36/40) < 4*np.std(held)/20


@pytest.mark.parametrize('level', [.5, .68, .9, .95])
def test_conformal_is_the_corrected_quantile(level):
    rng = np.random.default_rng(0)
    z,guess = rng.uniform(0, 1, (2, 200))
    e = abs(z-guess)/(1+guess)
    share = np.ceil(201*level)/200 - 1e-12                                   # k of 200, and not k+1 by rounding
    close(Conformal(level).fit(z, guess).widening, np.quantile(e, share, method='inverted_cdf'))
    scale = rng.uniform(1, 2, 200)
    close(Conformal(level).fit(z, guess, scale=scale).widening, np.quantile(abs(z-guess)/scale, share, method='inverted_cdf'))
    low,high = guess-.1, guess+.2                                            # Romano et al. 2019, equation 6
    close(Conformal(level).fit(z, low, high).widening, np.quantile(np.maximum(low-z, z-high), share, method='inverted_cdf'))


def test_infinite_intervals_hold():
    from astromask.tasks.redshift import redshift_numbers
    z,low,high = np.array([.1, .2, .3, np.nan]), np.array([-np.inf, -np.inf, np.nan, .1]), np.array([np.inf, np.inf, np.nan, .2])
    held = interval_coverage(z, low, high)
    assert (held['coverage'], held['width'], held['n']) == (1, np.inf, 2)
    numbers = redshift_numbers(z, dict(z=z, low=low, high=high))
    assert (numbers['conformal_coverage'], numbers['conformal_width']) == (1, np.inf)


def test_conformal_at_the_edges():
    c = Conformal(.9).fit([], [])
    assert c.n == 0 and c.interval([.5]) == (-np.inf, np.inf)
    assert np.isfinite(Conformal(.9).fit([.1]*9, [.2]*9).widening) and np.isinf(Conformal(.9).fit([.1]*8, [.2]*8).widening)
    c = Conformal(.5).fit(np.full(50, .5), np.zeros(50), np.ones(50))          # far too wide: narrowed, but never inside out
    low,high = c.interval([.4], [.5])
    assert low == high == .45
    assert Conformal(**c.config()).config() == c.config()
    assert Conformal(.5).fit([.1, np.nan, .3], [0., 0., np.nan]).n == 1
    assert np.isnan(interval_coverage([np.nan], [0.], [1.])['coverage'])
    with pytest.raises(InputError, match='positive'): c.fit([.1], [.1], scale=0.)
    with pytest.raises(InputError, match='between 0 and 1'): Conformal(90)


def test_pdfs_go_out_and_come_back(tmp_path):
    qp = optional('qp')
    grid,pdf,z = pdfs(20)
    pdf[4] = np.nan
    ids = np.array([f'gal-{i}' for i in range(20)], dtype=object)
    to_qp(grid, pdf, ids).write_to(str(tmp_path/'pdfs.hdf5'))
    back = qp.read(str(tmp_path/'pdfs.hdf5'))
    assert back.npdf == 19 and list(back.ancil['id']) == [i for i in ids if i != 'gal-4']
    close(back.cdf(np.delete(z, 4)[:,None])[:,0], np.delete(pit(grid, pdf, z), 4))
    t = pdf_table(grid, pdf, Table(dict(id=ids.astype(str))))
    t.write(tmp_path/'pdfs.parquet')
    back = Table.read(tmp_path/'pdfs.parquet')
    close(np.delete(np.stack([back['z_lower_68'], back['z_upper_68']]), 4, axis=1), np.delete(central_interval(grid, pdf, .68), 4, axis=1))
    assert np.isnan(back['pdf'][4]).all() and back['pdf'].shape == (20, len(grid)) and list(back['id']) == list(ids)
    close(back.meta['grid'], grid)
    with pytest.raises(InputError, match='all of them are NaN'): to_qp(grid, np.full((2, len(grid)), np.nan))


def test_without_qp_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, 'qp', None)
    grid,pdf,_ = pdfs(2)
    with pytest.raises(InputError, match=r'astromask\[photoz\]'): to_qp(grid, pdf)


# Axes are labelled as plotted

def data(ax):
    "x and y of the first thing drawn"
    if ax.collections: return np.asarray(ax.collections[0].get_offsets()).T
    return ax.lines[0].get_data()


@pytest.mark.parametrize('n', [30, 3000])
def test_redshift_axes_are_labelled_as_plotted(n):
    "AstroMAE drew the prediction on the axis that it called spectroscopic"
    rng = np.random.default_rng(0)
    z = rng.uniform(0, 1, n)
    p = z + .5 + .01*rng.normal(size=n)                                       # never the same numbers
    fig = figures.redshift_figure(z, p, redshift_metrics(z, p))
    a,b = fig.axes
    assert b.get_xlabel() == 'redshift'                                         # nobody said what kind
    pairs = {'redshift': z, 'predicted redshift': p, '$\\Delta z/(1+z)$': (p-z)/(1+z)}
    x,y = data(a)
    close(np.sort(x), np.sort(pairs[b.get_xlabel()]))                          # the panels share x
    close(np.sort(y), np.sort(pairs[a.get_ylabel()]))
    x,y = data(b)
    close(np.sort(x), np.sort(pairs[b.get_xlabel()]))
    close(np.sort(y), np.sort(pairs[b.get_ylabel()]))
    assert f'{n} objects' in a.texts[0].get_text()
    if n == 3000:
        median = next(l for l in b.lines if l.get_label() == 'median')
        assert len(median.get_xdata()) == 12 and (median.get_ydata() > .2).all()
        close(median.get_ydata()[0], np.median(np.sort(pairs['$\\Delta z/(1+z)$'][np.argsort(z)][:250])))


def test_redshift_figure_counts_what_it_does_not_show():
    z = np.random.default_rng(0).uniform(.1, 1, 3000)
    p = z + .001
    p[:3],p[3] = [2, 9, np.inf], z[3]+.2*(1+z[3])                               # the last is within the panels
    a,b = figures.redshift_figure(z, p).axes
    assert a.texts[0].get_text() == '3000 objects, 3 outside' and b.texts[0].get_text() == '3 outside'
    assert figures.redshift_figure(z, z).axes[0].texts[0].get_text() == '3000 objects'
    assert figures.redshift_figure(z, z, truth='photometric redshift').axes[1].get_xlabel() == 'photometric redshift'


def test_confusion_axes_are_labelled_as_plotted():
    c = confusion([0, 0, 0, 1], [1, 1, 0, 1], ['a', 'b'])                      # two of a are taken for b
    counts,percent = figures.confusion_figure(c, ['a', 'b']).axes
    for ax,high in ((counts, 2), (percent, 200/3)):
        image = ax.images[0].get_array()
        row = [t.get_text() for t in counts.get_yticklabels()].index('a')
        column = [t.get_text() for t in ax.get_xticklabels()].index('b')
        assert counts.get_ylabel() == 'true class' and ax.get_xlabel() == 'predicted class'
        close(image[row,column], high)
        text = next(t for t in ax.texts if t.get_position() == (column, row)).get_text()
        assert text == f'{high:.0f}'


def test_class_figures_are_labelled_as_plotted():
    y,p = drawn(3)
    ax = figures.roc_figure(y, p, list('abc')).axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('false positive rate', 'true positive rate')
    curves = [l for l in ax.lines if ':' in l.get_label()]
    for k,line in enumerate(curves):
        fpr,tpr,_ = sk.roc_curve(y == k, p[:,k])
        close(line.get_xdata(), fpr)
        close(line.get_ydata(), tpr)
        assert f'{sk.auc(fpr, tpr):.3f}' in line.get_label()
    assert len(figures.roc_figure(*drawn(2), ['no', 'yes']).axes[0].get_legend_handles_labels()[1]) == 1
    t = reliability(y, p)
    a,b = figures.reliability_figure(t).axes
    full = t[t['n'] > 0]
    assert b.get_xlabel() == 'probability of the likeliest class' and a.get_ylabel() == 'share that is right'
    close(a.lines[1].get_xdata(), full['confidence'])
    close(a.lines[1].get_ydata(), full['accuracy'])
    t = per_class(y, p.argmax(1), list('abc'))
    ax = figures.per_class_figure(t).axes[0]
    for bars,name in zip(ax.containers[1::2] if len(ax.containers) == 4 else ax.containers, ('precision', 'recall')):
        assert bars.get_label() == name
        close([bar.get_width() for bar in bars.patches], t[name])


def test_other_figures_are_labelled_as_plotted():
    grid,pdf,z = pdfs(500, narrow=.5)
    t = coverage(grid, pdf, z, np.arange(.1, 1, .1))
    ax = figures.coverage_figure(t).axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('promised', 'measured')
    close(ax.lines[1].get_xdata(), t['level'])
    close(ax.lines[1].get_ydata(), t['central'])
    assert (t['central'] < t['level']).all()                                   # narrow PDFs lie below the diagonal
    ax = figures.pit_figure(pit(grid, pdf, z)).axes[0]
    assert ax.get_xlabel() == 'PIT' and [b.get_height() for b in ax.patches[:20]] == list(np.histogram(pit(grid, pdf, z), 20, (0, 1))[0])
    x = np.linspace(17, 21, 500)
    t = binned(partial(pdf_metrics, grid), x, pdf, z, bins=4, bootstrap=0)
    a,b = figures.binned_figure(t, 'crps', 'magnitude', 'CRPS').axes
    assert (b.get_xlabel(), a.get_ylabel(), b.get_ylabel()) == ('magnitude', 'CRPS', 'objects')
    close(a.lines[0].get_xdata(), t['center'])
    close(a.lines[0].get_ydata(), t['crps'])
    assert [bar.get_height() for bar in b.patches] == list(t['n'])
    with pytest.raises(InputError, match='nonsense'): figures.binned_figure(t, 'nonsense', 'magnitude')
    fig = figures.pdf_page(None, grid, pdf[:2], z[:2])
    panel = next(ax for ax in fig.axes if ax.lines)
    close(panel.lines[0].get_xdata(), grid)
    assert panel.lines[1].get_xdata()[0] == z[0]


def test_label_efficiency_figure_and_its_crossings():
    n = [10, 100, 1000]
    tables = {'a': Table(dict(n=n, mean=[.5, .6, .7], std=[.01]*3)), 'b': Table(dict(n=n, mean=[.3, .6-.1, .9], std=[.01]*3)),
              'c': Table(dict(n=[10.], mean=[np.nan], std=[0.]))}
    found = figures.crossings(tables)
    assert len(found) == 1 and (found['first'][0], found['second'][0]) == ('a', 'b')
    close(found['n'][0], 10**(2+1/3), 1e-9)
    close(found['value'][0], .6+.1/3, 1e-9)
    ax = figures.label_efficiency_figure(tables, 'accuracy').axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale()) == ('labels', 'accuracy', 'log')
    for line,name in zip(ax.lines, 'ab'):
        assert line.get_label() == name
        close(line.get_xdata(), n)
        close(line.get_ydata(), tables[name]['mean'])
    close(ax.lines[3].get_xdata(), found['n'])
    assert len(figures.crossings({})) == 0


@pytest.mark.parametrize('n', [0, 1, 2])
def test_figures_of_few_objects(n):
    rng = np.random.default_rng(0)
    grid,pdf,z = pdfs(2)
    p = np.array([[.2, .8]]*n).reshape(n, 2)
    y = np.arange(n) % 2
    made = [figures.redshift_figure(z[:n], z[:n]+.1), figures.pit_figure(pit(grid, pdf[:n], z[:n])), figures.coverage_figure(coverage(grid, pdf[:n], z[:n])),
            figures.pdf_page(rng.normal(size=(n, 3, 8, 8)), grid, pdf[:n], z[:n]), figures.roc_figure(y, p, 'ab'),
            figures.reliability_figure(reliability(y, p)), figures.per_class_figure(per_class(y, y, 'ab')), figures.confusion_figure(confusion(y, y, 'ab'), 'ab'),
            figures.binned_figure(binned(redshift_metrics, z[:n], z[:n], z[:n], bootstrap=0), 'mae', 'redshift')]
    for f in made:
        f.canvas.draw()
        assert n or any(t.get_text() for ax in f.axes for t in [*ax.texts, ax.title])


@pytest.mark.parametrize('model', ['mae', 'simmim'])
def test_mse_means_mse(model):
    "prior-art.md 2.8: the README's `MSE` silently gave L1"
    from astromask.models.mae import MAE
    from astromask.models.simmim import SimMIM
    make = partial({'mae': MAE, 'simmim': SimMIM}[model], img_size=16, patch_size=8, bands=('g', 'r'), embed_dim=16, depth=1, num_heads=2)
    assert make(loss='MSE').loss == make(loss='mse').loss == 'mse' and make(loss='L1').loss == 'l1'
    with pytest.raises(InputError, match='must be one of'): make(loss='huber')


def test_a_class_that_is_only_predicted_counts_in_f1_and_not_in_recall():
    t,p = [0, 0, 1, 1], [0, 2, 1, 1]
    m = classification_metrics(t, p)
    close(m['macro_f1'], sk.f1_score(t, p, average='macro'))
    close(m['balanced_accuracy'], .75)


def test_a_probability_on_an_edge_is_in_the_bin_below():
    "As in Guo et al. (2017): bins are open below and closed above"
    t = reliability([0, 0, 1, 0], [[.75, .25], [.5, .5], [0, 1], [.76, .24]], bins=4)
    assert t['n'].tolist() == [0, 1, 1, 2] and t['confidence'][2] == .75
