"Several examples: beside scikit-learn's ridge regression, the same whatever the order of the file, one sentence for what is wrong"
import numpy as np, pytest
from sklearn.linear_model import Ridge
from astromask.discover.scoring import background_rows, id_keys, query_vectors
from astromask.errors import InputError

@pytest.fixture
def x():
    x = np.random.default_rng(0).normal(size=(400,8))
    return x/np.linalg.norm(x, axis=1, keepdims=True)

def test_rank_is_a_ridge_regression(x):
    "With weights, and counter-examples that count a quarter"
    q = query_vectors(x[:3], 'rank', x[3:5], [1,2,3], x[5:])
    w = np.r_[.5, 1, 1.5, .25, .25, np.full(395, 3/395)]
    theirs = Ridge(alpha=.5).fit(x, np.arange(400) < 3, w).coef_
    np.testing.assert_allclose(q[0], theirs/np.linalg.norm(theirs), atol=1e-5)

def test_mean_max_and_what_is_taken_without_a_word(x):
    mean = x[:3].mean(0)
    np.testing.assert_allclose(query_vectors(x[:3], 'mean')[0], mean/np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(query_vectors(5*x[:3], 'max'), x[:3], atol=1e-6)
    np.testing.assert_allclose(query_vectors(x[:1]), x[:1], atol=1e-6)
    assert np.array_equal(query_vectors(x[:3], background=x), query_vectors(x[:3], 'rank', background=x))
    with_away = query_vectors(x[:1], 'mean', x[5:6])
    assert with_away @ x[5] < x[0] @ x[5]

def test_the_sample_follows_from_ids():
    ids = np.array([f'é{i}' for i in range(3000)])
    turned = np.random.default_rng(1).permutation(3000)
    assert np.array_equal(ids[background_rows(ids, 50)], ids[turned][background_rows(ids[turned], 50)])
    assert len(np.unique(id_keys(ids))) == 3000
    assert len(background_rows(ids[:10], 50)) == 10

def test_wrong_input_is_one_sentence(x):
    for how,said in ((dict(by='median'), 'no way'), (dict(by='rank'), 'sample of it'), (dict(by='mean', weights=[1]), 'one for each'),
                     (dict(by='mean', weights=[0,0]), 'not all of them zero')):
        with pytest.raises(InputError, match=said): query_vectors(x[:2], **how)
    with pytest.raises(InputError, match='no examples'): query_vectors(x[:0])
