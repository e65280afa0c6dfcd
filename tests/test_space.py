"Spaces: equal to scikit-learn's and NumPy's ways, the same whatever the blocks and the order, whole when read back, and beside every table of embeddings"
import logging, numpy as np, pytest, torch
from astropy.table import Table
from click.testing import CliRunner
from sklearn.decomposition import PCA
from astromask.cli import main
from astromask.data.cutouts import Cutouts
from astromask.discover.search import SimilarityIndex
from astromask.errors import DataError, InputError
from astromask.models.mae import MAE
from astromask.models.weights import save_model
from astromask.space import KINDS, ROWS, RunningMoments, Space, evened, rankme, space_of, space_path
from astromask.tasks.anomaly import anomaly_scores
from astromask.tasks.predict import embedding, table_of
from astromask.tasks.tables import read_table

def survey(n=700, d=12, seed=0, holes=()):
    rng = np.random.default_rng(seed)
    x = 30 + (rng.normal(size=(n,d))*np.geomspace(20, .1, d)) @ np.linalg.qr(rng.normal(size=(d,d)))[0]
    x[list(holes)] = np.nan
    return x

def cosines(y):
    y = y/np.linalg.norm(y, axis=1, keepdims=True)
    return y @ y.T

@pytest.mark.parametrize('shape', [(700,12), (60,5), (30,8)])
def test_whitened_is_pca_of_unit_variance_turned_back(shape):
    "Distances and cosines are those of scikit-learn's PCA, which picks other axes"
    x = survey(*shape)
    y = Space.fit(x, shrink=0)(x)
    theirs = PCA(whiten=True, svd_solver='full').fit_transform(x)
    np.testing.assert_allclose(y @ y.T, theirs @ theirs.T, atol=2e-4)
    np.testing.assert_allclose(np.cov(y.T), np.eye(shape[1]), atol=1e-3)

@pytest.mark.parametrize('power', [0, .25, .5, .75, 1])
@pytest.mark.parametrize('shrink', [0, .01, .3])
def test_powers_and_shrinkage_against_numpy(power, shrink):
    "Another way to the same matrix: singular values of the rows, one component after the other"
    x = survey()
    s = Space.fit(x, 'partly', shrink=shrink, power=power)
    u,sigma,vt = np.linalg.svd(x-x.mean(0), full_matrices=False)
    variance = sigma**2/(len(x)-1)
    variance = (1-shrink)*variance + shrink*np.trace(np.cov(x.T))/12
    expected = sum(np.outer((x-x.mean(0)) @ v, v)*w**(-power/2) for v,w in zip(vt, variance))
    np.testing.assert_allclose(s(x), expected, rtol=1e-4, atol=2e-4)

def test_plain_kinds():
    x = survey().astype(np.float32)
    np.testing.assert_array_equal(Space.fit(x, 'cosine')(x), x)
    np.testing.assert_allclose(Space.fit(x, 'centered')(x), x-x.mean(0, dtype=float), atol=1e-5)
    np.testing.assert_allclose(cosines(Space.fit(x, 'whitened', shrink=1)(x)), cosines(Space.fit(x, 'centered')(x)), atol=1e-5)

def test_blocks_change_no_bit_and_order_hardly_one():
    x = survey(3*ROWS+17, 6, holes=[0, 5000, ROWS])
    whole = Space.fit(x)
    for size in (1000, ROWS, ROWS+1, 10**6):
        s = Space.fit(x[i:i+size] for i in range(0, len(x), size))
        assert np.array_equal(s.moments.scatter, whole.moments.scatter) and np.array_equal(s.moments.mean, whole.moments.mean)
    shuffled = Space.fit(x[np.random.default_rng(1).permutation(len(x))])
    np.testing.assert_allclose(shuffled.moments.scatter, whole.moments.scatter, rtol=1e-12, atol=1e-12*np.abs(whole.moments.scatter).max())
    np.testing.assert_allclose(shuffled.moments.mean, whole.moments.mean, rtol=1e-12)
    assert (whole.moments.n, whole.moments.left_out) == (3*ROWS+14, 3) and '3 not finite' in repr(whole)
    good = x[np.isfinite(x).all(1)]
    np.testing.assert_allclose(whole.moments.covariance, np.cov(good.T), rtol=1e-10, atol=1e-10)

def test_moments_add_up_exactly():
    x = survey(5000, 6) + 1e6
    parts = [RunningMoments() for _ in range(3)]
    for p,rows in zip(parts, np.split(x, [1, 4000])): p.add(rows)
    both = parts[0].moments + parts[1].moments + parts[2].moments
    np.testing.assert_allclose(both.covariance, np.cov(x.T), rtol=1e-7, atol=1e-7)
    assert both.n == 5000

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so_alone(kind, bad):
    x = survey(50).astype(np.float32)
    x[3,7] = bad
    s = Space.fit(x, kind)
    y = s(x)
    assert np.isnan(y[3]).all() and np.isfinite(np.delete(y, 3, 0)).all() and s.moments.left_out == 1
    clean = Space.fit(np.delete(x, 3, 0), kind)
    np.testing.assert_allclose(np.delete(y, 3, 0), clean(np.delete(x, 3, 0)), rtol=1e-5, atol=1e-5)

def test_masked_numbers_are_not_finite():
    x = np.ma.masked_equal(survey(40).astype(np.float32), 0)
    x[2] = np.ma.masked
    assert Space.fit(x).moments.left_out == 1 and np.isnan(Space.fit(x)(x)[2]).all()

@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_precisions(dtype):
    x = survey()-30
    s = Space.fit(x.astype(dtype))
    y = s(x.astype(dtype))
    assert y.dtype == np.float32
    np.testing.assert_allclose(cosines(y), cosines(Space.fit(x)(x)), atol=.03 if dtype == np.float16 else 1e-4)

def test_fewer_rows_than_numbers(caplog):
    x = survey(8, 30)
    with caplog.at_level('WARNING', 'astromask'): s = Space.fit(x)
    assert '8 embeddings say little of the variances of 30 numbers' in caplog.text
    assert np.isfinite(s(survey(5, 30, 1))).all() and s.matrix.any()
    none = Space.fit(x, shrink=0)(x)                                  # what no row knows is left out, and not made infinite
    np.testing.assert_allclose(none @ none.T, PCA(7, whiten=True, svd_solver='full').fit_transform(x) @ PCA(7, whiten=True, svd_solver='full').fit_transform(x).T, atol=1e-3)

def test_constant_columns_and_tables():
    x = survey(100)
    x[:,4] = 7
    y = Space.fit(x)(x)
    assert np.isfinite(y).all()
    rest = np.delete(x, 4, 1)
    np.testing.assert_allclose(cosines(Space.fit(x, shrink=0)(x)), cosines(Space.fit(rest, shrink=0)(rest)), atol=1e-4)
    for one in (np.ones((1,3)), np.ones((9,3))):
        s = Space.fit(one)
        assert not s.direction(one).any() and np.isfinite(s(one+1)).all()

def test_wrong_input_is_one_sentence():
    for x,said in ((np.ones(3), 'objects, numbers'), (np.ones((2,2,2)), 'objects, numbers'), (np.full((4,2), np.nan), 'nothing to fit'),
                   (np.ones((0,2)), 'nothing to fit'), (iter([np.ones((3,2)), np.ones((3,4))]), 'of 2 numbers, and then of 4'), (np.eye(3)*1e200, 'too large')):
        with pytest.raises(InputError, match=said): Space.fit(x)(np.ones((1,3)))
    x = survey(50)
    for how,said in ((dict(kind='white'), r'cosine \| centered \| partly \| whitened'), (dict(shrink=-.1), 'from 0 to 1'), (dict(shrink=np.nan), 'from 0 to 1'),
                     (dict(kind='partly', power=2), 'power is 2'), (dict(kind='whitened', power=.5), 'for the space partly')):
        with pytest.raises(InputError, match=said): Space.fit(x, **how)
    with pytest.raises(InputError, match='of 12 numbers, and these have 11'): Space.fit(x)(x[:,:11])

@pytest.mark.parametrize('how', [dict(), dict(kind='cosine'), dict(kind='partly', power=.75, shrink=.1), dict(shrink=0)])
def test_read_back_it_is_the_same(how, tmp_path):
    x = survey(holes=[3])
    s = Space.fit(x, **how, made_by=dict(model='abc', views=8))
    path = s.save(tmp_path/'emb.parquet')
    assert path == tmp_path/'emb.parquet.space.safetensors' and s.save(tmp_path) == tmp_path/'space.safetensors'
    for where in (path, tmp_path/'emb.parquet', tmp_path):
        again = Space.load(where)
        assert np.array_equal(again(x), s(x), equal_nan=True) and repr(again) == repr(s) and again.made_by == s.made_by
    bits = path.read_bytes()
    assert s.save(path).read_bytes() == bits

def test_a_damaged_file_is_not_believed(tmp_path):
    path = Space.fit(survey()).save(tmp_path)
    bits = path.read_bytes()
    rng = np.random.default_rng(0)
    for i in [0, 9, 40, len(bits)-1, *rng.integers(0, len(bits), 60)]:
        damaged = bytearray(bits)
        damaged[i] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(DataError, match='damaged'): Space.load(path)
    for n in (0, 7, 100, len(bits)-1):
        path.write_bytes(bits[:n])
        with pytest.raises(DataError, match='damaged|empty'): Space.load(path)
    path.unlink()
    with pytest.raises(DataError, match='No such file'): Space.load(tmp_path)

def test_rankme_and_the_spectrum():
    x = survey()
    s = Space.fit(x)
    np.testing.assert_allclose(s.spectrum, PCA().fit(x).explained_variance_, rtol=1e-8)
    np.testing.assert_allclose(s.rankme, rankme(x), rtol=1e-6)
    p = np.linalg.svd(x, compute_uv=False)
    np.testing.assert_allclose(rankme(x), np.prod((p/p.sum())**-(p/p.sum())))

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "A model, and 60 cutouts in two files, one without a valid pixel"
    folder = tmp_path_factory.mktemp('space')
    x = np.random.default_rng(0).normal(size=(60,2,16,16)).astype(np.float32)
    x[9] = np.nan
    for i in (0,1): Cutouts.write(folder/f'c{i}.h5', x[30*i:30*i+30], bands='gr', catalog=dict(id=[f'o{k:02}' for k in range(30*i, 30*i+30)]))
    torch.manual_seed(0)
    m = MAE(16, 4, 'gr', 8, 1, 2, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2).eval()
    return m,str(folder/'c*.h5')

@pytest.mark.parametrize('suffix', ['parquet','fits'])
def test_every_table_of_embeddings_has_its_space(files, tmp_path, suffix):
    "In one process and in joined shards with the same bits"
    m,cutouts = files
    out = tmp_path/f'whole.{suffix}'
    table_of(embedding(m, views=1), cutouts, out, bs=7, progress=False, device='cpu')
    t = read_table(out)
    whole = Space.load(out)
    np.testing.assert_array_equal(whole(t['embedding']), Space.fit(t['embedding'])(t['embedding']))
    assert (whole.moments.n, whole.moments.left_out) == (59,1) and t['embedding'].meta['space'] == str(space_path(out))
    for i in (1,2,3): table_of(embedding(m, views=1), cutouts, tmp_path/f'parts.{suffix}', (i,3), bs=7, progress=False, device='cpu')
    table_of(embedding(m, views=1), cutouts, tmp_path/f'parts.{suffix}', bs=7, merge=3, progress=False)
    joined = Space.load(tmp_path/f'parts.{suffix}')
    assert np.array_equal(joined.moments.scatter, whole.moments.scatter) and joined.made_by == whole.made_by

def test_a_part_is_searched_in_the_space_of_the_whole(files, tmp_path, caplog):
    m,cutouts = files
    out = tmp_path/'e.parquet'
    table_of(embedding(m, views=1), cutouts, out, progress=False, device='cpu')
    t = read_table(out)
    whole,part = SimilarityIndex(t),SimilarityIndex(t[10:30])
    np.testing.assert_allclose(part.directions, whole.directions[10:30], atol=1e-6)     # another size, another kernel
    order = [i for i in whole.search('o12', k=60)['id'] if 'o10' <= i < 'o30']
    assert list(part.search('o12', k=60)['id']) == order and not caplog.text
    space_path(out).unlink()
    with caplog.at_level('WARNING', 'astromask'): alone = SimilarityIndex(t)
    assert caplog.text.count('No space was kept') == 1
    np.testing.assert_array_equal(alone.directions, whole.directions)
    table_of(embedding(m, views=2), cutouts, tmp_path/'two.parquet', progress=False, device='cpu')
    with pytest.raises(InputError, match='by another views than'): SimilarityIndex(t, tmp_path/'two.parquet')
    with pytest.raises(InputError, match='another model'): SimilarityIndex(Table(dict(id=['a'], embedding=np.ones((1,3)))), whole.space)

def test_a_space_is_kept_with_the_model(files, tmp_path):
    "Of the whole set; a table of a part of it by the same model is read in it, and one by another model is not"
    m,cutouts = files
    save_model(m, tmp_path/'m')
    asked = ['embed', str(tmp_path/'m'), cutouts, '--out', str(tmp_path/'all.parquet'), '--device', 'cpu']
    for more,kept in (([], False), (['--keep-space'], True)):
        ran = CliRunner().invoke(main, asked+more, catch_exceptions=False)
        assert ran.exit_code == 0 and space_path(tmp_path/'m').exists() == kept, ran.output
    table_of(embedding(m), cutouts.replace('*', '0'), tmp_path/'part.parquet', progress=False, device='cpu')
    part = read_table(tmp_path/'part.parquet')
    np.testing.assert_array_equal(space_of(part, tmp_path/'m')(part['embedding']), Space.load(tmp_path/'all.parquet')(part['embedding']))
    table_of(embedding(m, pool='mean+pixels'), cutouts, tmp_path/'wide.parquet', progress=False, device='cpu')
    with pytest.raises(InputError, match='another model'): space_of(read_table(tmp_path/'wide.parquet'), tmp_path/'m')

def test_search_equals_scikit_learn_in_the_whitened_space():
    x = survey(300).astype(np.float32)
    t = Table(dict(id=[f'{i:03}' for i in range(300)], embedding=x))
    found = SimilarityIndex(t, 'whitened').search('017', k=20)
    s = cosines(Space.fit(x)(x).astype(float))[17]
    s[17] = -2
    assert list(found['id']) == [f'{i:03}' for i in np.argsort(-s)[:20]]
    np.testing.assert_allclose(found['score'], np.sort(s)[::-1][:20], atol=1e-5)
    assert SimilarityIndex(t, center=True).space.kind == 'centered' and SimilarityIndex(t, center=False).space.kind == 'cosine'
    shuffle = np.random.default_rng(0).permutation(300)
    assert list(SimilarityIndex(t[shuffle]).search('017', k=299)['id']) == list(SimilarityIndex(t).search('017', k=299)['id'])

def test_odd_objects_in_a_space():
    x = survey(400, holes=[5])
    t = Table(dict(id=[f'{i:03}' for i in range(400)], embedding=x))
    plain,both = anomaly_scores(t),anomaly_scores(t, space='whitened')
    for k in plain.colnames: assert np.array_equal(np.nan_to_num(plain[k]) if k != 'id' else plain[k], np.nan_to_num(both[k]) if k != 'id' else both[k])
    assert set(both.colnames)-set(plain.colnames) == {p+f'whitened_{k}' for p in ('','rank_') for k in ('forest','outlier_factor','distance')}
    assert np.isnan(both['whitened_distance'][5]) and both['rank_whitened_distance'][5] == 400

def test_evened_leaves_nothing_infinite():
    w = evened(np.diag([1e10, 1., 0, 1e-30]), 1.)
    assert np.isfinite(w).all() and w[2,2] == w[3,3] == 0

def test_balanced_reads_each_reading_apart(tmp_path):
    "Beside NumPy's way for two readings; saved with its widths; holes stay, and what a table says of its widths is heard"
    x = np.concatenate([survey(d=12, holes=[3]), 1e3*survey(d=5, seed=1)], 1)
    s = Space.fit(x, 'balanced', made_by=dict(widths=[12,5]))
    good = np.delete(x, 3, 0)
    expected = []
    for part in (good[:,:12], good[:,12:]):
        w,v = np.linalg.eigh(np.cov(part.T))
        y = (part-part.mean(0)) @ (v*(.99*w+.01*w.mean())**-.375) @ v.T
        expected.append(y/np.linalg.norm(y, axis=1, keepdims=True)/part.shape[1]**.5)
    np.testing.assert_allclose(np.delete(s(x), 3, 0), np.concatenate(expected, 1), atol=1e-5)
    assert np.isnan(s.direction(x)[3]).all()
    np.testing.assert_array_equal(Space.load(s.save(tmp_path))(x), s(x))
    table = Table(dict(embedding=x), meta=dict(widths=[12,5]))
    np.testing.assert_array_equal(space_of(table, 'balanced')(x), s(x))
    assert not np.allclose(Space.fit(x, 'balanced')(x), s(x))
