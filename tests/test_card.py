"The card: every model that a run leaves has one, and evaluations write into it what they measured"
import concurrent.futures, errno, json, logging, os
import numpy as np, pytest, torch, yaml
from astromask import files
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.models.answers import Classes
from astromask.models.heads import Predictor
from astromask.models.mae import MAE
from astromask.models.publish import model_card, note_evaluation, weights_digest, write_card
from astromask.models.weights import save_model
from astromask.train.finetune import finetune_learner
from astromask.train.pretrain import pretrain_learner
from toys import astromask, bound

SURVEY = [dict(file='/data/survey.h5', sha256='34cd')]

@pytest.fixture
def folder(tmp_path):
    "A run directory with a model and its card"
    torch.manual_seed(0)
    save_model(MAE.preset('tiny', bands='gr'), tmp_path/'run/model')
    write_card(tmp_path/'run/model', model_card(MAE.preset('tiny', bands='gr'), dict(objects=80)))
    return tmp_path/'run'

def note(folder, score=.5, split='a1', weights=None, files=SURVEY, method='pretrained probe'):
    asked = dict(question='class', split=split, methods='probe')
    note_evaluation(folder, weights or weights_digest(folder), asked, [dict(method=method, score=score)], files)

def card(folder): return (folder/'model/README.md').read_bytes().decode(errors='surrogateescape')
def blocks(folder): return card(folder).count('<!-- evaluation ')

def test_the_same_evaluation_replaces_its_own_and_others_stand_beside_it(folder):
    before = card(folder)
    note(folder, .5)
    once = card(folder)
    note(folder, .5)
    assert card(folder) == once and once.index('## Evaluations') < once.index('## Use')
    note(folder, .25, split='b2')
    note(folder, .125, files=[dict(file='survey.h5', sha256='56ef')])
    note(folder, .75)
    found = card(folder)
    assert blocks(folder) == 3 and [found.count(f'| pretrained probe | {v} |') for v in (.5,.25,.125,.75)] == [0,1,1,1]
    assert weights_digest(folder) in found and '| split | a1 |' in found and '| survey.h5 | `34cd` |' in found and found.count('## Evaluations') == 1
    assert yaml.safe_load(found.split('---')[1]) == yaml.safe_load(before.split('---')[1])
    assert not list((folder/'model').glob('.*'))

@pytest.mark.parametrize('hand', ['# Mine\n\nNo other heading.', '# Mine\r\n\r\n## Use\r\n\r\nSo.\r\n', 'latin \udce9, and \\1 \\g<0>\n', '<!-- evaluation torn of nothing -->\nhalf of a block\n', ''])
def test_what_someone_wrote_stays(folder, hand):
    path = folder/'model/README.md'
    path.write_bytes(hand.encode(errors='surrogateescape'))
    note(folder, .5)
    with open(path, 'ab') as f: f.write(b'\nA last word.\n')
    note(folder, .25, split='b2')
    note(folder, .75)
    found = card(folder)
    left = found
    for o in [o for o in found.split('<!-- evaluation ') if '<!-- end of ' in o]: left = left.replace('<!-- evaluation ' + o[:o.rindex('-->')+3], '')
    for line in [*hand.splitlines(), 'A last word.']: assert line in left
    assert '| 0.5 |' not in found and '| 0.75 |' in found and '| 0.25 |' in found and found.count('<!-- end of ') == 2
    assert found.count('\r') == hand.count('\r')

def test_a_block_whose_end_was_deleted_swallows_nothing(folder):
    note(folder, .5)
    note(folder, .25, split='b2')
    head,_,tail = card(folder).partition('<!-- end of')
    (folder/'model/README.md').write_text(head + 'By hand.\n' + tail.partition('\n')[2])
    for score in (.6,.7): note(folder, score)
    found = card(folder)
    assert 'By hand.' in found and [found.count(f'| pretrained probe | {v} |') for v in (.5,.25,.6,.7)] == [1,1,0,1]

def test_a_name_cannot_end_a_block(folder):
    for score in (.5,.875): note(folder, score, method='<!-- end of a --> <!-- evaluation b of c -->', files=[dict(file='a<!-- end of b -->|.h5', sha256='1')])
    assert blocks(folder) == 1 and '| 0.875 |' in card(folder) and '| 0.5 |' not in card(folder)

def test_numbers_of_weights_that_are_gone_are_taken_out(folder, caplog):
    old = weights_digest(folder)
    note(folder, .5)
    save_model(MAE.preset('tiny', bands='gr'), folder/'model')
    before = card(folder)
    note(folder, .6, split='late', weights=old)                     # the evaluation of the old weights ends after them
    assert card(folder) == before and 'its weights are others by now' in caplog.text
    note(folder, .25, split='b2')
    assert blocks(folder) == 1 and old not in card(folder)
    note(folder, .125, split='c3')
    write_card(folder/'model', '# New\n\n## Use\n\nSo.\n')
    assert blocks(folder) == 2 and card(folder).startswith('# New\n') and card(folder).endswith('## Use\n\nSo.\n')
    save_model(MAE.preset('tiny', bands='gr'), folder/'model')
    write_card(folder/'model', '# New\n')
    assert card(folder) == '# New\n'

def test_evaluations_at_the_same_time_lose_nothing(folder):
    with concurrent.futures.ThreadPoolExecutor(8) as pool: list(pool.map(lambda i: note(folder, i, split=f's{i}'), range(24)))
    assert blocks(folder) == 24

def test_a_model_without_a_card_gets_one(folder):
    (folder/'model/README.md').unlink()
    note(folder)
    assert blocks(folder) == 1 and '## Model' in card(folder) and card(folder).startswith('---\nlibrary_name: astromask')

def test_where_nothing_can_be_written_there_is_one_warning(folder, caplog, monkeypatch):
    before = card(folder)
    (folder/'model').chmod(0o555)
    with bound(): note(folder)
    (folder/'model').chmod(0o755)
    assert [r.levelno for r in caplog.records] == [logging.WARNING] and 'is not in the card' in caplog.text and card(folder) == before
    caplog.clear()
    def full(*a): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(files.os, 'replace', full)
    note(folder)
    monkeypatch.undo()
    assert [r.levelno for r in caplog.records] == [logging.WARNING] and card(folder) == before
    assert os.listdir(folder/'model') and not list((folder/'model').glob('.*'))

def test_every_model_that_training_leaves_has_a_card(tmp_path):
    rng = np.random.default_rng(0)
    c = Cutouts.open(Cutouts.write(tmp_path/'c.h5', rng.normal(size=(40,2,16,16)).astype('f4'), bands='gr'))
    dls = cutout_dls(c, 16, bs=8, valid=.2, device='cpu')
    def small(): return MAE(16, 4, 'gr', 32, 1, 2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
    def teach(epochs): finetune_learner(dls, Predictor(small(), Classes('ab')), np.arange(40) % 2, tmp_path/'head', recipe='scratch').fit(epochs)
    pretrain_learner(dls, small(), tmp_path/'mae', ema=.9).fit(1)
    torch.manual_seed(0)
    teach(1)
    assert '| ema | 0.9 |' in card(tmp_path/'mae') and '# Predictor for images in g, r' in card(tmp_path/'head') and '| split |' in card(tmp_path/'head')
    (tmp_path/'head/model/README.md').write_text('Mine\n')
    teach(2)
    assert card(tmp_path/'head') == 'Mine\n'

@pytest.mark.slow
def test_an_evaluation_is_in_the_card_of_its_model(tmp_path, folder):
    rng = np.random.default_rng(0)
    kind = np.arange(60) % 2
    x = rng.normal(size=(60,2,32,32)).astype('f4') + kind[:,None,None,None].astype('f4')
    Cutouts.write(tmp_path/'c.h5', x, bands='gr', catalog=dict(label=kind))
    def evaluate(out):
        done = astromask('run', 'evaluate', '-p', 'data', tmp_path/'c.h5', '-p', 'model', folder, '-p', 'methods', 'chance,pretrained probe', '-p', 'seeds', 1, '--out', tmp_path/out)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path/out/'metrics.json').read_text())
    numbers = evaluate('one')
    found = card(folder)
    assert blocks(folder) == 1
    assert f"| split | {numbers['split']} |" in found and files.file_digest(tmp_path/'c.h5') in found and '| objects | 60 |' in found
    for row in numbers['scores']: assert f"| {row['method']} | {row['metric']} | {row['score']:.6g} |" in found
