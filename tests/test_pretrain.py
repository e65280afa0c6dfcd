"The real pretraining experiment as users run it: whole, stopped, killed, refused, out of space"
import concurrent.futures, csv, hashlib, json, os, random, signal, subprocess, time
import h5py, numpy as np, psutil, pytest
from astromask.core import StorageError
from astromask.files import write_json
from astromask.data.cutouts import Cutouts
from astromask.models.weights import load_model
from astromask.train.checkpoint import checkpoints, newest_checkpoint, save_checkpoint
from toys import astromask, bind_child

FILES = ['notebook.ipynb', 'params.yaml', 'manifest.json', 'metrics.json', 'history.csv', 'figures/history.png',
         'figures/reconstruction.png', 'checkpoints', 'model/model.safetensors', 'model/config.json', 'model/README.md']

@pytest.fixture(scope='module')
def survey(tmp_path_factory):
    "A hundred small cutouts in three bands, some of them damaged as survey cutouts are"
    rng,path = np.random.default_rng(0), tmp_path_factory.mktemp('data')/'survey.h5'
    x = rng.normal(0, 1, (100,3,32,32)).astype('float32')
    x[3],x[5,1],x[7,:,:,20:] = np.nan,np.nan,np.nan
    Cutouts.write(path, x, bands=('g','r','z'))
    return path

def arguments(survey, out, epochs=3, **more):
    given = dict(data=survey, preset='tiny', bs=16, epochs=epochs) | more
    return ['run', 'pretrain', *(o for k,v in given.items() for o in ('-p', k, v)), '--out', out]

LONG = dict(epochs=24, ema=.9, save_minutes=0)         # a checkpoint after each of its 120 steps

def outcome(out):
    "What must be the same: the weights, and the numbers of history.csv that are not times"
    rows = (out/'history.csv').read_text().splitlines()
    return hashlib.sha256((out/'model/model.safetensors').read_bytes()).hexdigest(), [r.split(',')[:6] for r in rows]

@pytest.fixture(scope='module')
def whole(survey, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs')/'whole'
    done = astromask(*arguments(survey, out, **LONG))
    assert done.returncode == 0, done.stderr
    return out

@pytest.mark.slow
def test_a_run_leaves_every_file(whole, survey):
    assert [f for f in FILES if not (whole/f).exists()] == []
    manifest = json.loads((whole/'manifest.json').read_text())
    assert manifest['state'] == 'done' and manifest['data'][0]['sha256'] == hashlib.sha256(survey.read_bytes()).hexdigest()
    assert json.loads((whole/'metrics.json').read_text())['pretrain']['epochs'] == LONG['epochs']
    assert load_model(whole).bands == ('g','r','z')
    split = json.loads((whole/'split.json').read_text())['hash']
    assert json.loads((whole/'metrics.json').read_text())['split'] == manifest['split'] == split and split in (whole/'model'/'README.md').read_text()

@pytest.mark.slow
def test_a_run_goes_on_with_the_batch_and_the_rate_it_was_begun_with(survey, tmp_path):
    "Where neither is said: on another GPU, or by a later version, the rule says others"
    out = tmp_path/'run'
    def begun(**more):
        done = astromask(*arguments(survey, out, **more))
        assert done.returncode == 0, done.stderr
        return newest_checkpoint(out/'checkpoints')[1]
    one = begun(bs=20, lr=7e-4, epochs=1)
    params = (out/'params.yaml').read_text()
    (out/'params.yaml').write_text(params.replace('bs: 20', 'bs: 0').replace('lr: 0.0007', 'lr: 0'))    # as if the rule had said so
    more = begun(bs=0, epochs=2)
    assert one['step'] < more['step'] and {k: more['task'][k] for k in ('batch_size','lr')} == dict(batch_size=20, lr=7e-4)

STUDY = dict(norm_pix='true', loss='l1', decoder_depth=2, decoder_dim=64, num_heads=2, decoder_num_heads=8, views=2, drop_path=.2, patience=5, pool='max', optimizer='nadamuon', mask_block=2, class_tokens=3,
             invariance=.1, agreement='coding')

@pytest.mark.slow
def test_what_a_study_varies_is_said_on_the_command_line(survey, tmp_path):
    done = astromask(*arguments(survey, tmp_path/'run', epochs=1, **STUDY))
    assert done.returncode == 0, done.stderr
    config,task = load_model(tmp_path/'run').config,newest_checkpoint(tmp_path/'run/checkpoints')[1]['task']
    wanted = dict(norm_pix_loss=True, loss='l1', decoder_depth=2, decoder_embed_dim=64, num_heads=2, decoder_num_heads=8, views=2, mask_block=2, class_tokens=3)
    assert {k: config[k] for k in wanted} == wanted == {k: task['model'][k] for k in wanted} and (task['drop_path'],task['optimizer'],task['invariance'],task['agreement']) == (.2,'nadamuon',.1,'coding')
    done = astromask(*arguments(survey, tmp_path/'run', epochs=2, **STUDY | dict(loss='mse')))
    assert done.returncode == 2 and 'loss' in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr

@pytest.mark.slow
def test_a_run_of_so_many_steps(survey, tmp_path):
    "It ends with the step that was asked for, inside an epoch, and history.csv says how many images that were"
    out = tmp_path/'run'
    done = astromask(*arguments(survey, out, steps=13, valid_steps=5))
    assert done.returncode == 0, done.stderr
    with open(out/'history.csv') as f: rows = list(csv.DictReader(f))
    assert [(int(r['step']), int(r['images'])) for r in rows] == [(n, 16*n) for n in (5, 10, 13)]
    assert newest_checkpoint(out/'checkpoints')[1]['step'] == json.loads((out/'metrics.json').read_text())['pretrain']['steps'] == 13

@pytest.mark.slow
def test_a_probe_asks_a_file_of_its_own(whole, survey, tmp_path):
    "Other pixels, two of three bands, other columns: the same bits as without, answers that are kept, and what cannot be asked in a sentence"
    rng,probe = np.random.default_rng(1),tmp_path/'probe.h5'
    columns = dict(kind=['a','b']*60, zspec=rng.uniform(0, 1, 120))
    Cutouts.write(probe, rng.normal(size=(120,2,40,24)).astype('float32'), bands=('z','g'), catalog=columns)
    given = LONG | dict(probe_data=probe, probe_label='kind', probe_redshift='zspec', probe_objects=100)
    done = astromask(*arguments(survey, tmp_path/'run', **given))
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path/'run') == outcome(whole)
    rows = [dict(zip(('step','seconds','probe_accuracy'), r.split(','))) for r in (tmp_path/'run/probe.csv').read_text().splitlines()[1:]]
    assert rows[0]['step'] == '0' and all(0 <= float(r['probe_accuracy']) <= 1 for r in rows)
    assert json.loads((tmp_path/'run/manifest.json').read_text())['probe_data'][0]['sha256'] == hashlib.sha256(probe.read_bytes()).hexdigest()

@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT,signal.SIGTERM], ids=lambda s: s.name)
def test_stopped_it_ends_with_the_same_bits(whole, survey, tmp_path, number):
    out,command = tmp_path/'run', arguments(survey, tmp_path/'run', **LONG)
    process = astromask(*command, wait=False)
    deadline = time.monotonic() + 120
    while not (out/'history.csv').exists() and process.poll() is None and time.monotonic() < deadline: time.sleep(.02)
    process.send_signal(number)
    _,err = process.communicate(timeout=240)
    assert (process.returncode, json.loads((out/'manifest.json').read_text())['state']) == (75, 'unfinished') and 'astromask run' in err
    assert astromask(*command).returncode == 0
    assert outcome(out) == outcome(whole)

@pytest.mark.slow
def test_killed_three_times_with_all_its_children_it_ends_with_the_same_bits(whole, survey, tmp_path):
    "SIGKILL to runner, kernel and workers, at random moments after a checkpoint of their own"
    out,command,rng = tmp_path/'run',arguments(survey, tmp_path/'run', **LONG),random.Random(0)
    def newest(): return int(found[0].name[5:]) if (found := checkpoints(out/'checkpoints')) else 0
    steps = [0]
    for _ in range(3):
        process = astromask(*command, wait=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while newest() <= steps[-1] and process.poll() is None and time.monotonic() < deadline: time.sleep(.01)
        time.sleep(rng.uniform(0, .5))
        tree = [*psutil.Process(process.pid).children(recursive=True), process]
        for p in tree: p.kill()
        assert process.wait(60) == -signal.SIGKILL and len(tree) > 1
        psutil.wait_procs(tree[:-1], 60)
        steps.append(newest())
        assert json.loads((out/'manifest.json').read_text())['state'] == 'running' and not (out/'model').exists()
    done = astromask(*command)
    assert done.returncode == 0 and 'Continuing from' in done.stdout, done.stderr
    assert outcome(out) == outcome(whole)
    assert sorted(set(steps)) == steps and steps[-1] < 120
    print('killed after steps', steps[1:])

@pytest.mark.slow
def test_the_clock_stops_a_run(survey, tmp_path):
    done = astromask(*arguments(survey, tmp_path/'run', 1), '-p', 'max_minutes', 0.1)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path/'run/metrics.json').read_text())['pretrain']
    assert measured['seconds'] >= 6 and measured['epochs'] > 1

def bad_files(folder):
    "Name to file: what users bring by mistake"
    rng = np.random.default_rng(0)
    good = folder/'good.h5'
    Cutouts.write(good, rng.normal(size=(20,3,32,32)).astype('float32'), bands='grz')
    Cutouts.write(folder/'nan.h5', np.full((20,3,32,32), np.nan, 'float32'), bands='grz')
    (folder/'empty.h5').write_bytes(b'')
    (folder/'cut.h5').write_bytes(good.read_bytes()[:20000])
    with h5py.File(folder/'layout.h5', 'w') as f: f['spectra'] = np.zeros((10,1000))
    with h5py.File(folder/'unnamed.h5', 'w') as f: f['cutouts'] = rng.normal(size=(20,4,32,32)).astype('float32')
    return good

CASES = [('missing.h5', [], 'No such file'), ('empty.h5', [], 'empty'), ('cut.h5', [], 'cut.h5'), ('layout.h5', [], 'spectra'),
         ('nan.h5', [], 'only NaN'), ('unnamed.h5', ['-p', 'bands', 'g,r,z'], 'bands'), ('unnamed.h5', [], 'bands'),
         ('good.h5', ['-p', 'img_size', '60'], 'patch'), ('good.h5', ['-p', 'epohcs', '3'], 'epohcs'),
         ('good.h5', ['-p', 'epochs', 'many'], 'many'), ('good.h5', ['-p', 'mask_ratio', '1.5'], 'mask_ratio'),
         ('good.h5', ['-p', 'bands', 'g,w'], "no band w"), ('good.h5', ['-p', 'preset', 'huge'], 'huge')]

@pytest.mark.slow
def test_bad_input_is_one_sentence_and_code_2(tmp_path):
    bad_files(tmp_path)
    def refuse(i):
        file,extra,says = CASES[i]
        done = astromask('run', 'pretrain', '-p', 'data', tmp_path/file, *extra, '--out', tmp_path/f'run{i}')
        return done.returncode, done.stderr.strip(), says
    with concurrent.futures.ThreadPoolExecutor(2) as pool: answers = list(pool.map(refuse, range(len(CASES))))
    for case,(code,err,says) in zip(CASES, answers):
        assert code == 2 and says in err, (case, code, err)
        assert 'Traceback' not in err and len(err.splitlines()) == 1 and err.startswith('astromask: '), (case, err)

@pytest.mark.parametrize('closed', ['.', pytest.param('checkpoints', marks=pytest.mark.slow)])
def test_a_directory_that_cannot_be_written_ends_the_run_at_its_start(survey, tmp_path, closed):
    "The whole of it, or the checkpoints' folder of a run that was killed early"
    out = tmp_path/'run'
    (out/closed).mkdir(parents=True)
    if closed == 'checkpoints':
        write_json(out/'manifest.json', dict(experiment='pretrain', state='running', sessions=[]))
        (out/'params.yaml').write_text(f'data: {survey}\npreset: tiny\nbs: 16\nepochs: 3\n')
    (out/closed).chmod(0o555)
    if not subprocess.run(['touch', out/closed/'x'], preexec_fn=bind_child, capture_output=True).returncode: pytest.skip('permissions do not bind root here')
    done = astromask(*arguments(survey, out), preexec_fn=bind_child)
    (out/closed).chmod(0o755)
    assert done.returncode == 1 and done.stderr.startswith(f'astromask: Could not write {out/closed}'), done.stderr
    assert 'check the folder and its permissions' in done.stderr and len(done.stderr.splitlines()) == 1
    assert 'epoch 1' not in done.stdout and not (out/'history.csv').exists()

@pytest.fixture
def small_disk(tmp_path):
    "A file system of eight megabytes"
    disk = tmp_path/'disk'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', disk], capture_output=True).returncode:
        pytest.skip('mounting a small file system needs root')
    yield disk
    subprocess.run(['umount', '-l', disk])

def test_a_full_disk_keeps_what_was_saved(small_disk):
    import torch
    state = dict(w=torch.zeros(2**18))                                       # a megabyte
    save_checkpoint(small_disk/'checkpoints', 1, state, dict(step=1))
    (small_disk/'filler').write_bytes(bytes(6*2**20))
    with pytest.raises(StorageError, match='free'): save_checkpoint(small_disk/'checkpoints', 2, state, dict(step=2))
    assert newest_checkpoint(small_disk/'checkpoints')[1] == dict(step=1)

@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_1(small_disk, survey):
    command = ['run', 'pretrain', '-p', 'data', survey, '-p', 'img_size', 32, '-p', 'epochs', 1, '--out', small_disk/'run']
    done = astromask(*command)                                  # the small preset: more than 8 MB
    assert done.returncode == 1 and 'free some space' in done.stderr and 'Traceback' not in done.stderr
    subprocess.run(['mount', '-o', 'remount,size=200m', small_disk], check=True)          # as the message asked
    assert astromask(*command).returncode == 0 and load_model(small_disk/'run').bands == ('g','r','z')
