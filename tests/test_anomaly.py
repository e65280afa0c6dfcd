"Odd objects: scored block after block without a copy of the table, with the values of scikit-learn, in a table that a catalogue may thin out"
import numpy as np, pytest
from astropy.table import Table
from click.testing import CliRunner
from sklearn.neighbors import LocalOutlierFactor
from astromask.cli import main
from astromask.core import InputError
from astromask.data.cutouts import Cutouts
from astromask.space import Space
from astromask.tasks import anomaly as room

def survey(n, width=8, holes=()):
    x = np.random.default_rng(0).normal(size=(n,width)).astype(np.float32)
    x[3] += 9
    x[list(holes)] = np.nan
    return Table(dict(id=[f'{i:05}' for i in range(n)], ra=np.arange(n)/9, dec=np.zeros(n), embedding=x))

@pytest.mark.slow
def test_blocks_change_nothing(monkeypatch):
    t = survey(300, holes=[5,250])
    whole = room.anomaly_scores(t, reference=100, space='whitened')
    monkeypatch.setattr(room, '_BLOCK', 37)
    parts = room.anomaly_scores(t, reference=100, space='whitened')
    for k in whole.colnames:
        if k.startswith('rank_'): assert np.array_equal(parts[k], whole[k])
        elif k != 'id': np.testing.assert_allclose(parts[k], whole[k], rtol=1e-6)
    assert np.isnan(parts['distance'][[5,250]]).all() and whole['rank_whitened_distance'][3] == 1

@pytest.mark.slow
def test_outlier_factors_are_those_of_scikit_learn():
    t = survey(300)
    space = Space.fit(t['embedding'])
    found = room.anomaly_scores(t, reference=300, space=space)
    theirs = LocalOutlierFactor(n_neighbors=20).fit(space(t['embedding']))
    np.testing.assert_allclose(found['whitened_outlier_factor'], -theirs.negative_outlier_factor_, rtol=1e-5)

def test_a_table_is_read_in_blocks(monkeypatch):
    "Beyond the reference sample and a block, memory does not grow with the table"
    monkeypatch.setattr(room, '_BLOCK', 50)
    read = []
    t = survey(400)
    space = Space.fit(t['embedding'])
    at_once = type(space).__call__
    monkeypatch.setattr(Space, '__call__', lambda self, x: read.append(len(x)) or at_once(self, x))
    room.anomaly_scores(t, reference=60, space=space)
    assert read == [60] + [50]*6 + [40]

def test_the_first_few():
    t = survey(60, holes=[5])
    t['class'] = ['star','galaxy']*30
    scores = room.anomaly_scores(t)
    first = room.oddest(scores, t, 'distance', 99, np.asarray(t['class'] == 'galaxy'))
    assert first.colnames == ['rank','score','id','ra','dec','class','forest','outlier_factor','distance']
    assert len(first) == 29 and first['id'][0] == '00003' and set(first['class']) == {'galaxy'}
    assert (np.diff(first['score']) <= 0).all() and list(first['rank']) == list(range(1, 30))
    with pytest.raises(InputError, match="no score 'odd'"): room.oddest(scores, t, 'odd')
    with pytest.raises(InputError, match='k is 0'): room.oddest(scores, t, k=0)

@pytest.mark.slow
def test_the_verb(tmp_path):
    "Other makers' tables, a condition, pictures and files; what is wrong is one sentence"
    t = survey(80)
    t['kind'] = ['star','galaxy']*40
    t.rename_column('embedding', 'vector')
    t.write(tmp_path/'t.parquet')
    Cutouts.write(tmp_path/'c.h5', np.random.default_rng(0).normal(size=(80,3,8,8)).astype('f4'), 'gri', t['id','ra','dec'])
    def call(*args):
        said = CliRunner().invoke(main, ['anomaly', str(tmp_path/'t.parquet'), *map(str, args)])
        return said.exit_code,said.output
    code,text = call('--k', 3, '--where', "kind == 'galaxy'", '--by', 'whitened_distance', '--out', tmp_path/'odd.csv', '--cutouts', tmp_path/'c.h5')
    found = Table.read(tmp_path/'odd.csv')
    assert code == 0 and (tmp_path/'odd.png').stat().st_size > 1000 and '00003' in text.splitlines()[2]
    assert found['id'][0] == 3 and len(found) == 3 and {'forest','whitened_forest','link_legacy'} <= set(found.colnames)
    for args,why in (((), None), (('--by','odd'), 'no score'), (('--where','kin == 1'), 'kind'), (('--space','nowhere'), 'no space'),
                     (('--cutouts',tmp_path/'c.h5'), '--out'), (('--column','ra'), 'ra'), (('--out',tmp_path/'odd.csv'), 'exists'), (('--k',0), 'k is 0')):
        code,text = call(*args)
        assert code == (2 if why else 0) and (why or '') in text
