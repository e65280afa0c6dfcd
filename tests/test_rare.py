"Rare objects: metrics beside scikit-learn's, active learning that asks nobody twice, the experiment from a command line"
import json, numpy as np, pytest
from click.testing import CliRunner
from sklearn.metrics import average_precision_score, roc_auc_score
from astromask.cli import main
from astromask.discover.rare import active_rounds, area_under_curve, average_precision, labelled_ids, ranking, search_metrics
from astromask.errors import DataError, InputError

def test_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    for share in (.01, .3, .99):
        score,rare = rng.normal(size=500),rng.random(500) < share
        hits = rare[ranking(score)]
        assert average_precision(hits) == pytest.approx(average_precision_score(rare, score))
        assert area_under_curve(hits) == pytest.approx(roc_auc_score(rare, score))
    assert 'precision_1000' not in search_metrics(hits) and search_metrics(hits)['precision_25'] == hits[:25].mean()
    assert np.isnan(search_metrics(np.zeros(30, bool))['times_chance'])

def test_rounds_ask_nobody_twice_and_not_who_has_no_embedding():
    x = np.random.default_rng(0).normal(size=(300,6))
    x[7] = np.nan
    asked = []
    def oracle(rows):
        asked.extend(rows)
        return rows % 2 == 0
    *_,(known,scores) = active_rounds(x, [0,1], oracle, x[100:200], rounds=3, n=10)
    assert len(known.rows) == 32 == len(set(known.rows)) and 7 not in known.rows and len(asked) == 30
    assert np.isnan(scores[7]) and list(known.wanted[2:]) == [r % 2 == 0 for r in asked]

def test_own_examples(tmp_path):
    (tmp_path/'a.csv').write_text('name,label\na,b\n')
    with pytest.raises(DataError, match='lacks id'): labelled_ids(tmp_path/'a.csv')
    (tmp_path/'b.csv').write_text('id,label\n01,yes\n2,no\n')
    assert labelled_ids(tmp_path/'b.csv', 'yes') == (['01'], ['2'])
    with pytest.raises(InputError, match='no, yes'): labelled_ids(tmp_path/'b.csv', 'maybe')

@pytest.mark.slow
def test_experiment(tmp_path):
    "Its defaults, but for fewer draws"
    done = CliRunner().invoke(main, ['run', 'search', '-p', 'draws', '2', '-p', 'rounds', '1', '--out', str(tmp_path/'r')])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path/'r'/'metrics.json').read_text())
    assert found['of_25'] and {o['way'] for o in found['draws']} == {'search','catalogue'}
    assert (tmp_path/'r'/'figures'/'found.png').exists()
