"Several ranks are one: the same samples, gradients and numbers; and one that is lost ends them all"
import csv, json, os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest
from astropy.table import Table
from astromask.files import read_json
from astromask.data.cutouts import Cutouts
from astromask.models.weights import load_model
from astromask.runs import rank_environments
from astromask.train.checkpoint import checkpoints, newest_checkpoint, verify
from toys import astromask, training

class Ranks:
    "The process that starts them"
    def __init__(self, errors):
        self.errors = open(errors, 'w+')
        command = [sys.executable, Path(__file__).with_name('rank_jobs.py')]
        self.p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))
        assert self.p.stdout.readline() == 'ready\n'
    def __call__(self, n, **job):
        self.p.stdin.write(json.dumps([rank_environments(n), job], default=str) + '\n')
        self.p.stdin.flush()
        while not (line := self.p.stdout.readline()).startswith('['): assert line, 'the process that starts ranks died'
        return json.loads(line)

@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    r = Ranks(tmp_path_factory.mktemp('ranks')/'stderr')
    yield r
    r.p.stdin.close()
    r.p.wait(60)

VALID = list(range(0, 105, 5))     # 21: a batch of 16, and one of 5 that ranks cannot share equally

@pytest.fixture(scope='module')
def survey(tmp_path_factory):
    "Cutouts in two bands; many pixels are missing in some, so that ranks differ in their numbers of targets"
    rng,path = np.random.default_rng(0),tmp_path_factory.mktemp('data')/'survey.h5'
    x = rng.normal(0, 1, (120,2,32,32)).astype('float32')
    x[::3,:,:,12:],x[7],x[11,1] = np.nan,np.nan,np.nan
    Cutouts.write(path, x, bands='gr', catalog=Table(dict(id=np.arange(120).astype(str), kind=np.array(['a','b',''])[np.arange(120)*7%5%3])))
    return path

def seen(folder, training=True):
    "(epoch, rows) of all steps, those of the ranks put together"
    ranks = {}
    for f in sorted(folder.glob('*.json')): ranks.setdefault(f.stem.split('-rank')[1], []).extend(o for o in json.loads(f.read_text()) if o[1] == training)
    return [(steps[0][0], sorted(sum((s[2] for s in steps), []))) for steps in zip(*ranks.values())]

def history(out):
    return [[float(r[k]) for k in ('epoch','step','train_loss','valid_loss','lr')] for r in csv.DictReader(open(out/'history.csv'))]

def state(out): return newest_checkpoint(out/'checkpoints')[:2]

@pytest.mark.parametrize('kw', [dict(method='mae', accumulate=2), dict(method='simmim', ema=.9, optimizer='nadamuon', shards=4),
                                dict(method='mae', invariance=.5, label_weight=.5, label='kind'), dict(method='mae', refine=True)],
                         ids=['mae','simmim','aims','refine'])
def test_two_ranks_are_one(ranks, survey, tmp_path, kw):
    for n in (1,2):
        (tmp_path/str(n)).mkdir()
        assert ranks(n, data=survey, out=tmp_path/str(n)/'run', epochs=2, valid=VALID, **kw) == [0]*n
    assert kw.get('shards', 1) == state(tmp_path/'2'/'run')[1]['shards']
    for training in (True,False): assert seen(tmp_path/'2', training) == seen(tmp_path/'1', training) != []
    one, = (np.load(f) for f in (tmp_path/'1').glob('*.grads.npy'))
    (first,second),weights = ([np.load(f) for f in (tmp_path/'2').glob(f'*.{what}.npy')] for what in ('grads','weights'))
    assert np.array_equal(first, second) and np.array_equal(*weights)
    errors = [np.linalg.norm(a-b)/np.linalg.norm(b) for a,b in zip(first, one)]
    print('gradients differ by', errors)
    assert errors[0] < 1e-6
    np.testing.assert_allclose(history(tmp_path/'2'/'run'), history(tmp_path/'1'/'run'), rtol=1e-5)
    (a,old),(b,new) = state(tmp_path/'1'/'run'),state(tmp_path/'2'/'run')
    assert old['task'] == new['task'] and (old['world'],new['world']) == (1,2)

@pytest.mark.slow
def test_no_rank_waits_for_an_answer(ranks, survey, tmp_path):
    "Steps are taken while the probe answers about step 0 with the weights of step 0, and no bit of the training changes"
    job = dict(data=survey, epochs=2, valid=VALID, ema=.9)
    for name,n in (('plain',2),('watched',2),('alone',1)):
        (tmp_path/name).mkdir()
        assert ranks(n, out=tmp_path/name/'run', watched=name != 'plain', **job) == [0]*n
    plain,watched = ([np.load(f) for f in sorted((tmp_path/o).glob('*.weights.npy'))] for o in ('plain','watched'))
    for weights in (plain[1],*watched): assert np.array_equal(weights, plain[0])
    ranks.errors.seek(0)
    assert 'left out' not in ranks.errors.read()
    rows,alone = (list(csv.DictReader(open(tmp_path/o/'run'/'probe.csv'))) for o in ('watched','alone'))
    assert [int(r['step']) for r in rows] == [0,12] and rows[0]['rankme'] == alone[0]['rankme'] and (tmp_path/'watched'/'run'/'figures'/'reconstruction.png').exists()

@pytest.mark.parametrize('shards', [None, pytest.param(4, marks=pytest.mark.slow)])
def test_the_number_of_ranks_may_change(ranks, survey, tmp_path, shards):
    "One, two, one, each stopped in the middle of an epoch, by what one rank has heard; shards are those that the first had"
    job = dict(data=survey, out=tmp_path/'run', epochs=2, valid=VALID)
    for n,stop in ((1,3),(2,8),(1,None)): assert ranks(n, stop_at=stop, shards=shards if stop == 3 else None, **job) == [75 if stop else 0]*n
    steps = {}
    for f in sorted(tmp_path.glob('*.json')):
        for epoch,training,rows in json.loads(f.read_text()):
            if training: steps.setdefault(epoch, []).extend(rows)
    for epoch in (0,1): assert len(steps[epoch]) == len(set(steps[epoch])) == 96 and not set(steps[epoch]) & set(VALID)
    (tmp_path/'whole').mkdir()
    assert ranks(1, shards=shards, **job | dict(out=tmp_path/'whole'/'run')) == [0]
    np.testing.assert_allclose(history(tmp_path/'run'), history(tmp_path/'whole'/'run'), rtol=1e-4)

def test_the_clock_is_one(ranks, survey, tmp_path):
    "Learning rate, validations inside an epoch and the end follow a clock: the same on both ranks, or their weights would part"
    assert ranks(2, data=survey, out=tmp_path/'run', epochs=1, valid=VALID, max_minutes=.02, valid_minutes=.002, amp='bf16') == [0,0]
    assert np.array_equal(*(np.load(f) for f in tmp_path.glob('*.weights.npy')))
    assert history(tmp_path/'run')[-1][-1] < 1e-4
    def validated(rows): return [sum(training for _,training,_ in rows[:i]) for i in range(1, len(rows)) if rows[i-1][1] and not rows[i][1]]
    first,second = (validated(json.loads(f.read_text())) for f in tmp_path.glob('*.json'))
    assert first == second == [row[1] for row in history(tmp_path/'run')] and any(step%6 for step in first[:-1])

def test_the_rank_with_the_bad_objects_names_them(ranks, survey, tmp_path):
    assert ranks(2, data=survey, out=tmp_path/'run', epochs=2, valid=VALID, bad_at=3) == [1,1]
    ranks.errors.seek(0)
    told = ranks.errors.read()
    assert 'AstroMaskError: Loss or gradient was not finite for' in told and 'RankLost: Rank 0 lost another: it died' in told, told
    assert ('Connection closed by peer' in told or 'Connection reset by peer' in told) and 'calling event' not in told, told

# ---- as users start them

@pytest.fixture
def notebook(tmp_path): return training(tmp_path)

def manifest(out): return read_json(out/'manifest.json')

@pytest.mark.slow
@pytest.mark.parametrize('how,says', [('raise', 'ValueError: told to fail'), ('exit', "The notebook's process died"), ('hang', 'in fail\n')])
def test_a_rank_that_is_lost(notebook, survey, tmp_path, how, says):
    out,limit = tmp_path/'out',6
    command = ['run', notebook, '-p', 'data', survey, '--out', out, '--nproc', 2]
    p = astromask(*command, wait=False, env=os.environ | dict(FAIL=how, ASTROMASK_RANK_TIMEOUT=str(limit)))
    while not len(checkpoints(out/'checkpoints')) and p.poll() is None: time.sleep(.05)
    start = time.monotonic()
    stdout,stderr = p.communicate(timeout=120)
    seconds = time.monotonic()-start
    print(how, f'{seconds:.1f} s', stderr)
    assert p.returncode == 1 and 'Rank 1: ' in stderr and says in stderr, stderr
    assert seconds < 45
    assert manifest(out)['state'] == 'failed' and not (out/'model').exists()
    newest = checkpoints(out/'checkpoints')[0]
    verify(newest)
    assert newest.name == 'step-000000004' and (out/'ranks'/'rank-1.ipynb').exists()
    if how == 'exit':                                                     # and on it goes, with another number of ranks
        assert astromask(*command[:-2]).returncode == 0
        assert (out/'model').exists() and manifest(out)['state'] == 'done' and [s['ranks'] for s in manifest(out)['sessions']] == [2,1]

@pytest.mark.slow
def test_under_torchrun(notebook, survey, tmp_path):
    out = tmp_path/'out'
    torchrun = [Path(sys.executable).with_name('torchrun'), '--standalone', '--nproc-per-node', '2', '--no-python',
                Path(sys.executable).with_name('astromask'), 'run', notebook, '-p', 'data', survey, '--out', out]
    for says in ('epoch 2', 'done already'):
        r = subprocess.run([*map(str, torchrun)], capture_output=True, text=True, timeout=240, env=os.environ | dict(OMP_NUM_THREADS='1'))
        assert r.returncode == 0 and says in r.stdout, r.stdout+r.stderr
    assert manifest(out)['sessions'][0]['ranks'] == 2 and len(manifest(out)['sessions']) == 1
    assert load_model(out).bands == ('g','r') and 'epoch 2' in (out/'ranks'/'rank-1.log').read_text()

@pytest.mark.slow
def test_pretraining_on_two_ranks(survey, tmp_path):
    "Stopped by a signal, and continued by the same command"
    out = tmp_path/'out'
    command = ['run', 'pretrain', '-p', 'data', survey, '-p', 'preset', 'tiny', '-p', 'bs', 16, '-p', 'epochs', 30, '--out', out, '--nproc', 2]
    p = astromask(*command, wait=False)
    while not (out/'history.csv').exists() and p.poll() is None: time.sleep(.02)
    p.send_signal(signal.SIGTERM)
    _,err = p.communicate(timeout=120)
    assert (p.returncode, manifest(out)['state']) == (75, 'unfinished') and err.strip().endswith('--nproc 2'), err
    assert len(checkpoints(out/'checkpoints')) == 1
    r = astromask(*command)
    assert r.returncode == 0, r.stderr
    assert [h[0] for h in history(out)] == list(range(1, 31)) and manifest(out)['state'] == 'done'
    for name in ('model/README.md','model/model.safetensors','figures/history.png','notebook.ipynb','ranks/rank-1.ipynb'): assert (out/name).exists(), name
    assert not list((out/'ranks').glob('rank-0*'))
