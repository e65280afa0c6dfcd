"Numbers against independent references, and probes and search where they could cheat or break"
import numpy as np, pytest, torch
from astropy.table import MaskedColumn, Table
from sklearn import metrics as sk
from sklearn.metrics.pairwise import cosine_similarity
from astromask.core import InputError
from astromask.discover.search import SimilarityIndex
from astromask.evaluate.metrics import classification_metrics, redshift_metrics
from astromask.data.labels import choose_classes
from astromask.evaluate.probe import (class_folds, class_probe, compare, fold_metrics, forest_answers, knn_predict, nearest,
                                      paired_difference, redshift_folds, redshift_probe, usable_rows)
from astromask.models.baselines import pixel_features
from astromask.data.labels import catalog_features


@pytest.mark.parametrize('seed', range(5))
def test_redshift_metrics_equal_references(seed):
    rng = np.random.default_rng(seed)
    z = rng.uniform(0, 3, 257)
    p = z + 0.1*rng.standard_t(2, 257)
    d = [(b-a)/(1+a) for a,b in zip(z, p)]
    middle,width = sorted(d)[128],(sorted(d)[192]-sorted(d)[64])/1.349            # of 257 the quartiles are objects
    expected = dict(mae=sk.mean_absolute_error(z, p), mse=sk.mean_squared_error(z, p), r2=sk.r2_score(z, p), n=257,
                    bias=sum(d)/257, precision=1.48*sorted(map(abs, d))[128],
                    nmad=1.4826*sorted(abs(x-middle) for x in d)[128],
                    outlier_fraction=sum(abs(x) > 0.15 for x in d)/257,
                    outlier_fraction_005=sum(abs(x) > 0.05 for x in d)/257,
                    median_bias=middle, sigma_iqr=width, outlier_fraction_3sigma=sum(abs(x) > max(.06, 3*width) for x in d)/257)
    found = redshift_metrics(z, p)
    assert set(found) == set(expected)
    for k in expected: assert found[k] == pytest.approx(expected[k], abs=1e-10), k
    assert all(type(v) is float for k,v in found.items() if k != 'n')


def test_redshift_metrics_at_the_edges():
    nothing = redshift_metrics([], [])
    assert nothing['n'] == 0 and all(np.isnan(v) for k,v in nothing.items() if k != 'n')
    one = redshift_metrics([1.], [1.5])
    assert one['mae'] == 0.5 and one['bias'] == 0.25 and one['nmad'] == 0 and np.isnan(one['r2']) and one['n'] == 1
    assert redshift_metrics(0.5, 0.5)['n'] == 1
    masked = MaskedColumn([.1, .2, -9999.], mask=[False, False, True])
    assert redshift_metrics(masked, torch.tensor([.1, .2, .3]))['n'] == 2
    with pytest.raises(InputError): redshift_metrics(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(InputError, match='no redshifts'): redshift_metrics([.1, np.inf], [.1, .2])
    for p in ([np.inf]*2 + [.1], [-np.inf, np.inf, .1], [np.inf]*3):              # most predictions are infinite
        m = redshift_metrics([.1]*3, p)
        share = np.isinf(p).mean()
        assert m['n'] == 3 and m['mse'] == m['mae'] == m['precision'] == m['nmad'] == m['sigma_iqr'] == np.inf
        assert m['outlier_fraction'] == m['outlier_fraction_005'] == m['outlier_fraction_3sigma'] == share


def test_classification_metrics_equal_references():
    rng = np.random.default_rng(0)
    y,p = rng.integers(0, 5, 300), rng.integers(0, 5, 300)
    found = classification_metrics(y, p)
    assert found['accuracy'] == pytest.approx(sk.accuracy_score(y, p), abs=1e-12)
    assert found['balanced_accuracy'] == pytest.approx(sk.balanced_accuracy_score(y, p), abs=1e-12)
    assert found['macro_f1'] == pytest.approx(sk.f1_score(y, p, average='macro'), abs=1e-12)
    names = np.array(list('abcde'), dtype=object)
    assert classification_metrics(names[y], names[p]) == found
    assert classification_metrics(np.ma.masked_array(y, mask=y == 2), p)['n'] == (y != 2).sum()
    for dtype in (np.uint8, np.int8, np.float32, object):                        # Galaxy10's classes are uint8
        masked = np.ma.masked_array(y.astype(dtype), mask=y == 2)
        assert classification_metrics(masked, p.astype(dtype)) == classification_metrics(np.where(y == 2, -1, y), p)
    assert classification_metrics(np.ma.masked_array(y > 2, mask=y == 2), p > 2)['n'] == (y != 2).sum()


def test_classification_metrics_at_the_edges():
    assert classification_metrics([-1, -1], [0, 1])['n'] == 0
    assert classification_metrics([1], [1])['balanced_accuracy'] == 1
    assert classification_metrics([1, 1], [1, 0])['balanced_accuracy'] == 0.5
    for y,p in ((['a','b'], [0, 1]), ([0, 1], ['a','b']), (np.array(['a','b'], object), [0, 1])):
        with pytest.raises(InputError, match='names and the other numbers'): classification_metrics(y, p)
    with pytest.raises(InputError, match='give y_pred'): classification_metrics([0, 1])


def test_folds_are_stratified_and_repeatable():
    rng = np.random.default_rng(0)
    z = np.where(rng.uniform(size=500) < 0.1, np.nan, rng.exponential(0.3, 500))
    folds,again = redshift_folds(z, seed=4), redshift_folds(z, seed=4)
    assert len(folds) == 15
    for (train,test),(train2,test2) in zip(folds, again):
        assert (train == train2).all() and (test == test2).all()
        assert not set(train) & set(test) and np.isfinite(z[train]).all()
        assert abs(np.median(z[test]) - np.nanmedian(z)) < 0.05
    assert any((a[1] != b[1]).any() for a,b in zip(folds, redshift_folds(z, seed=5)) if len(a[1]) == len(b[1]))


def test_nothing_is_fitted_on_test_objects():
    "A test object's prediction does not depend on the other test objects"
    rng = np.random.default_rng(0)
    x,y,z = rng.normal(size=(200, 8)), np.arange(200) % 2, rng.uniform(0, 1, 200)
    x[:,0] += y
    other = x.copy()
    other[150:] = 1000*x[150:]
    other[160] = x[160]
    folds = [(np.arange(150), np.arange(150, 200))]
    assert class_probe(x, y, folds)[0][10] == class_probe(other, y, folds)[0][10]
    assert redshift_probe(x, z, folds)[0][10] == redshift_probe(other, z, folds)[0][10]


def test_random_embeddings_score_chance():
    rng = np.random.default_rng(1)
    x,y = rng.normal(size=(400, 10)), rng.integers(0, 4, 400)
    folds = class_folds(y)
    scores = fold_metrics(class_probe(x, y, folds), y, folds, classification_metrics)
    assert abs(np.mean(scores['balanced_accuracy']) - 0.25) < 0.07


def test_constant_and_offset_dimensions_do_no_harm():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    x = np.stack([y + 0.1*rng.normal(size=200), np.full(200, 1e4), 1e-4*rng.normal(size=200), np.zeros(200)], 1)
    folds = class_folds(y)
    assert np.mean(fold_metrics(class_probe(x, y, folds), y, folds, classification_metrics)['accuracy']) > 0.99


def test_paired_difference_is_the_formula():
    a,b = np.array([.5, .6, .7, .8]), np.array([.4, .4, .6, .5])
    mean,error = paired_difference(a, b, 80, 20)
    d = a-b
    assert mean == pytest.approx(d.mean())
    assert error == pytest.approx(((1/4 + 20/80)*((d-d.mean())**2).sum()/3)**.5)
    assert np.isnan(paired_difference([1.], [0.], 80, 20)[1])


def test_compare():
    y = np.arange(60) % 3
    folds = class_folds(y)
    right,wrong = [y[test] for _,test in folds], [(y[test]+1) % 3 for _,test in folds]
    scores = {k: fold_metrics(p, y, folds, classification_metrics) for k,p in dict(random=wrong, pretrained=right).items()}
    table = compare(scores, 'accuracy', folds)
    assert list(table['score']) == [0, 1] and table['difference'][1] == 1 and np.isnan(table['difference'][0])
    with pytest.raises(InputError, match='pretrained'): compare(scores, 'accuracy', folds, against='chance')


def test_an_empty_object_is_left_out_for_all():
    x = np.random.default_rng(0).normal(size=(100, 4))
    x[7] = np.nan
    labels = np.where(usable_rows(x, np.zeros((100, 2))), np.arange(100) % 2, -1)
    assert (labels == -1).sum() == 1
    class_probe(x, labels, class_folds(labels))


def test_truth_never_reaches_the_baseline():
    t = Table({n: [1., 2.] for n in ('id', 'redshift', 'ellipticity', 'size', 'mag_g', 'mag_err_g', 'snr_g', 'size_measured',
                                 'true_mag_g')})
    assert catalog_features(t)[1] == ['mag_g', 'mag_err_g', 'snr_g', 'size_measured']


@pytest.mark.parametrize('shape', [(3, 1, 16, 16), (3, 7, 20, 33), (1, 2, 5, 5)])
def test_pixel_features_take_anything(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x[...,shape[2]//2-2:shape[2]//2+2,shape[3]//2-2:shape[3]//2+2] += 20
    x[0] = np.nan
    f = pixel_features(x)
    assert f.shape == (len(x), 9*shape[1] + shape[1]-1) and np.isnan(f[0]).all() and np.isfinite(f[1:]).all()
    assert np.isfinite(pixel_features(np.zeros((2, 3, 16, 16)))[:,:4]).all()


def test_the_forest_takes_empty_columns():
    rng = np.random.default_rng(0)
    y = np.arange(100) % 2
    x = np.stack([y + 0.1*rng.normal(size=100), np.full(100, np.nan)], 1)
    folds = class_folds(y)
    found = [forest_answers(x, y, train, [test], 2, leaves=(3,), trees=10)[0][0].argmax(1) for train,test in folds]
    assert np.mean(fold_metrics(found, y, folds, classification_metrics)['accuracy']) > 0.95


@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('kind', ['cloud','collapsing','repeated'])
def test_neighbours_are_those_of_a_plain_computation(seed, kind):
    "The nearest by sorted cosines, as OnlineProbe had them; objects that are there twice are as near as each other"
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, 32)).astype(np.float32)
    if kind == 'collapsing': x = (50 + 1e-3*x).astype(np.float32)
    if kind == 'repeated': x[200:] = x[:100]
    y,train,test = rng.integers(0, 4, 300),np.arange(150),np.arange(150, 300)
    unit = x - x[train].mean(0)
    unit = unit/np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = unit[test] @ unit[train].T
    plain = np.argsort(-cosines, axis=1, kind='stable')[:,:10]
    near = nearest(x, train, [test], 10)[0]
    assert np.allclose(np.take_along_axis(cosines, near, 1), np.take_along_axis(cosines, plain, 1), atol=1e-6)
    classes,counts = np.unique(y[train], return_counts=True)
    votes = ((y[train][plain][...,None] == classes).sum(1)/counts**.5).argmax(1)
    assert (knn_predict(x, y, train, test) == classes[votes]).all()


def test_search_equals_a_plain_computation():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 12))*rng.uniform(1, 9, 12) + 50).astype(np.float32)
    t = Table(dict(id=[f'{i:03}' for i in range(200)], embedding=x))
    for center,mean in ((False, 0), (True, x.mean(0))):
        found = SimilarityIndex(t, center=center).search('017', k=10)
        cosine = cosine_similarity(x.astype(float)-mean)[17]
        cosine[17] = -2
        assert list(found['id']) == [f'{i:03}' for i in np.argsort(-cosine)[:10]]
        assert np.allclose(found['score'], np.sort(cosine)[::-1][:10], atol=1e-5)
    assert found.colnames == ['rank', 'score', 'id', 'ra', 'dec'] and np.isnan(found['ra']).all()


def test_search_breaks_ties_by_id_and_not_by_place():
    x = np.repeat(np.random.default_rng(0).normal(size=(10, 4)), 5, axis=0)
    t = Table(dict(id=[f'{i:02}' for i in np.random.default_rng(1).permutation(50)], embedding=x))
    example = str(t['id'][0])
    found = SimilarityIndex(t).search(example, k=4)
    assert list(found['id']) == sorted(set(t['id'][:5]) - {example})
    assert list(SimilarityIndex(t[::-1]).search(example, k=4)['id']) == list(found['id'])


def test_search_of_tiny_and_odd_tables():
    one = Table(dict(id=['a'], embedding=[[1., 2.]]))
    assert len(SimilarityIndex(one, 'cosine').search('a')) == 0
    assert list(SimilarityIndex(one, 'cosine').search([[1., 2.]])['id']) == ['a']
    with pytest.raises(InputError, match='No row has a direction'): SimilarityIndex(one)         # it is its own mean
    with pytest.raises(InputError, match='embed_cutouts'): SimilarityIndex(Table(dict(id=['a'])))
    with pytest.raises(InputError, match='NaN'): SimilarityIndex(Table(dict(id=['a'], embedding=[[np.nan, 1.]])))
    with pytest.raises(InputError, match='no examples'): SimilarityIndex(one, 'cosine').search([])
    with pytest.raises(InputError, match='k is 0'): SimilarityIndex(one, 'cosine').search('a', k=0)


def test_choosing_classes():
    names = ('smooth', 'disk', 'odd', 'rare', 'mixed')
    labels = np.array([0, 1, 2, 4, -1]*12 + [3])
    new,kept = choose_classes(labels, names)
    assert kept == ['smooth', 'disk', 'odd', 'mixed'] and list(new[:5]) == [0, 1, 2, 3, -1] and new[-1] == -1
    for keep in ('0,1,2,3', 'smooth, disk,odd'):
        new,kept = choose_classes(labels, names, keep)
        assert kept == ['smooth', 'disk', 'odd'] and list(new[:5]) == [0, 1, 2, -1, -1]
    assert choose_classes(np.full(5, -1), ()) [1] == [] and (choose_classes(np.full(5, -1), ())[0] == -1).all()
    assert choose_classes(np.repeat([0, 1], 10), ('3', '5'), keep='3')[1] == ['3']
    with pytest.raises(InputError, match='spiral'): choose_classes(labels, names, keep='spiral')

def test_folds_keep_twins_together():
    rng = np.random.default_rng(0)
    n,groups = 400,rng.permutation(np.concatenate([np.arange(250), np.repeat(np.arange(250, 300), 3)]))
    labels,z = rng.integers(-1, 3, n),np.where(rng.random(n) < .2, np.nan, rng.uniform(0, 1, n))
    for make,known in ((class_folds, labels),(redshift_folds, z)):
        folds = make(known, groups=groups)
        rows = np.flatnonzero(labels >= 0) if make is class_folds else np.flatnonzero(np.isfinite(z))
        for train,test in folds:
            assert not set(groups[train]) & set(groups[test]) and sorted([*train,*test]) == rows.tolist()
        for k in range(3): assert sorted(np.concatenate([test for _,test in folds[5*k:5*k+5]])) == rows.tolist()
        alone = make(known, groups=rng.permutation(n))                      # without twins groups change nothing
        assert all((a == b).all() for x,y in zip(alone, make(known)) for a,b in zip(x, y))
