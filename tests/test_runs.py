"Experiment notebooks as runs: what reads badly in a notebook, such as signals, killed processes and full disks."
import json, os, pty, resource, shlex, signal, time
from pathlib import Path
import numpy as np, pytest, yaml
from hypothesis import given, settings, strategies as st
from astromask.core import InputError, RunDir
from astromask.files import read_json
from astromask.data.cutouts import Cutouts
from astromask.runs import is_done
from astromask.parameters import Parameter, cast, check_parameters, read_parameters, read_params_file
from astromask.train.checkpoint import checkpoints, verify
from toys import COMMAND, STARTED, astromask, toy, training

@pytest.fixture
def nb(tmp_path):
    yield toy(tmp_path, again=.1)           # nothing is caught a second time
    while STARTED: STARTED.pop().kill()     # what a failed test left running

def manifest(out): return read_json(Path(out)/'manifest.json')

def wait_for(what, seconds=120):
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, 'waited too long'
        time.sleep(0.05)
    return value

def epochs(out): return read_json(out/'metrics.json').get('epochs', 0) if (out/'metrics.json').exists() else 0

def gone(pid):
    try: return Path(f'/proc/{pid}/stat').read_text().split(') ')[1][0] == 'Z'
    except FileNotFoundError: return True

# ---- a run from start to end

def test_done_then_left_alone_then_extended(nb, tmp_path):
    out = tmp_path/'a {strange} place'
    r = astromask('run', nb, '-p', 'epochs', 2, '--out', out)
    assert r.returncode == 0, r.stderr
    assert 'epoch 2' in r.stdout and str(out/'notebook.ipynb') in r.stdout
    m = manifest(out)
    assert m['state'] == 'done' and m['experiment'] == 'toy' and m['seconds'] > 0 and m['versions']['python']
    params = yaml.safe_load((out/'params.yaml').read_text())
    assert params == dict(epochs=2, max_minutes=0., seconds=0.05, data='', fail='', chatter=0)
    assert 'epoch 2' in (out/'notebook.ipynb').read_text()

    before = {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in out.iterdir() if p.name != '.lock'}
    r = astromask('run', nb, '-p', 'epochs', 2, '--out', out)
    assert r.returncode == 0 and 'done already' in r.stdout
    assert before == {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in out.iterdir() if p.name != '.lock'}

    r = astromask('run', nb, '-p', 'epochs', 3, '--out', out)
    assert r.returncode == 0 and 'epoch 3' in r.stdout and 'epoch 2' not in r.stdout
    assert [s['state'] for s in manifest(out)['sessions']] == ['done', 'done']
    for other,name in [(('epochs', 2), 'epochs was 3 and is now 2'),
                       (('seconds', 1), 'seconds was 0.05 and is now 1.0')]:
        r = astromask('run', nb, '-p', *other, '--out', out)
        assert r.returncode == 2 and name in r.stderr, r.stderr
    assert manifest(out)['state'] == 'done'

def test_new_directory_under_runs(nb, tmp_path):
    r = astromask('run', nb, '-p', 'epochs', 1, cwd=tmp_path)
    assert r.returncode == 0, r.stderr
    run, = (tmp_path/'runs'/'toy').iterdir()
    assert manifest(run)['state'] == 'done'

def test_recipe_and_overrides(nb, tmp_path):
    (tmp_path/'p.yaml').write_text('epochs: 5\nseconds: 1e-2\ndata: cutouts/*.h5\n')
    r = astromask('run', nb, '-f', 'p.yaml', '-p', 'epochs', 1, '--out', 'out', cwd=tmp_path)
    assert r.returncode == 0, r.stderr
    params = yaml.safe_load((tmp_path/'out'/'params.yaml').read_text())
    assert (params['epochs'], params['seconds'], params['data']) == (1, 0.01, f'{tmp_path}/cutouts/*.h5')

# ---- stopping and continuing

@pytest.mark.parametrize('number', [signal.SIGINT, *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP))],
                         ids=lambda s: s.name)
def test_a_signal_is_a_request(nb, tmp_path, number):
    out = tmp_path/'out'
    args = ('run', nb, '-p', 'epochs', 40, '-p', 'seconds', 0.2, '-p', 'data', 'here.h5', '--out', 'out')
    p = astromask(*args, wait=False, cwd=tmp_path)
    wait_for(lambda: epochs(out) >= 1)
    p.send_signal(number)
    stdout,stderr = p.communicate(timeout=120)
    assert p.returncode == 75, stderr
    m = manifest(out)
    assert m['state'] == 'unfinished' and m['exit_code'] == 75 and 'Stopped after' in m['error']
    assert 'Traceback' not in stderr and number.name in stdout and not (out/'STOP').exists()
    done = epochs(out)
    assert 1 <= done < 40
    if number != signal.SIGINT: return
    command = shlex.split(stderr.split('continue with: ')[1])           # as printed, in another folder
    r = astromask(*command[1:], cwd='/')
    assert r.returncode == 0, r.stderr
    assert epochs(out) == 40 and f'epoch {done}\n' not in r.stdout
    assert [s['state'] for s in manifest(out)['sessions']] == ['unfinished', 'done']

def test_a_signal_before_the_kernel_is_up(nb, tmp_path):
    p = astromask('run', nb, '--out', tmp_path/'out', wait=False)
    wait_for((tmp_path/'out'/'manifest.json').exists)
    p.send_signal(signal.SIGTERM)
    assert p.wait(120) == 75 and epochs(tmp_path/'out') == 0
    assert astromask('run', nb, '--out', tmp_path/'out').returncode == 0 and epochs(tmp_path/'out') == 2

# ---- SIGUSR1 in a SLURM job: its time is nearly over

@pytest.fixture
def slurm(tmp_path):
    "A scontrol that records how it was called, and what the manifest said then; environments of jobs"
    (tmp_path/'bin').mkdir()
    (tmp_path/'bin'/'scontrol').write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
grep '"state": "' {tmp_path}/out/manifest.json | tail -1 >> {tmp_path}/states
[ -z "$END" ] || kill -TERM $PPID
[ -z "$REFUSE" ] || {{ echo "$REFUSE" >&2; exit 1; }}
""")
    (tmp_path/'bin'/'scontrol').chmod(0o755)
    calls = tmp_path/'calls'
    def job(number, **env): return os.environ | dict(PATH=f'{tmp_path}/bin:{os.environ["PATH"]}', SLURM_JOB_ID=str(number), PYTHONUNBUFFERED='1') | env
    return job,lambda: calls.read_text().splitlines() if calls.exists() else []

LONG = '-p','epochs',40,'-p','seconds',0.1,'--out'

def stopped(command, env, out, *numbers):
    "Its exit code and what it printed, when it was sent signals on the way"
    p = astromask(*command, wait=False, env=env)
    wait_for(lambda: epochs(out) >= 1)
    for number in numbers: p.send_signal(number)
    stdout,stderr = p.communicate(timeout=120)
    assert 'Traceback' not in stderr and manifest(out)['state'] == 'unfinished' and 1 <= epochs(out) < 40, stderr
    return p.returncode,stdout+stderr

@pytest.mark.slow
def test_a_job_whose_time_ends_is_requeued_and_goes_on(nb, tmp_path, slurm):
    "Once, after everything was written; SLURM's SIGTERM that follows changes nothing"
    (env,calls),out = slurm,tmp_path/'out'
    command,job = ('run', nb, *LONG, out),env(14, END='1', SLURM_ARRAY_JOB_ID='12', SLURM_ARRAY_TASK_ID='3')
    code,says = stopped(command, job, out, signal.SIGUSR1, signal.SIGUSR1)
    assert code == 0 and calls() == ['requeue 12_3'] and 'SLURM starts job 12_3 again' in says, says
    assert 'unfinished' in (tmp_path/'states').read_text()
    done = epochs(out)
    r = astromask(*command, env=job)
    assert r.returncode == 0 and manifest(out)['state'] == 'done' and epochs(out) == 40 and f'epoch {done}\n' not in r.stdout
    assert len(calls()) == 1

@pytest.mark.slow
def test_a_requeued_training_is_saved_at_a_step(tmp_path, slurm):
    (env,calls),out = slurm,tmp_path/'out'
    Cutouts.write(tmp_path/'survey.h5', np.random.default_rng(0).normal(size=(120,2,32,32)).astype('float32'), bands='gr')
    command = ('run', training(tmp_path), '-p', 'data', tmp_path/'survey.h5', '-p', 'epochs', 12, '--out', out)
    p = astromask(*command, wait=False, env=env(14))
    wait_for(lambda: len(checkpoints(out/'checkpoints')))
    p.send_signal(signal.SIGUSR1)
    stdout,stderr = p.communicate(timeout=120)
    assert p.returncode == 0 and calls() == ['requeue 14'] and manifest(out)['state'] == 'unfinished', stderr
    newest = checkpoints(out/'checkpoints')[0]
    verify(newest)
    assert f'is saved at step {int(newest.name[5:])};' in manifest(out)['error'] and not (out/'model').exists()
    r = astromask(*command, env=env(14))
    assert r.returncode == 0 and f'Continuing from {newest}' in r.stdout, r.stdout+r.stderr
    assert len((out/'history.csv').read_text().splitlines()) == 13 and (out/'model'/'model.safetensors').exists() and len(calls()) == 1

@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_job_that_is_cancelled_is_not_requeued(nb, tmp_path, slurm, number):
    (env,calls),out = slurm,tmp_path/'out'
    code,says = stopped(('run', nb, *LONG, out), env(14), out, number)
    assert code == 75 and calls() == [] and 'continue with' in says

@pytest.mark.parametrize('why', ['Requested operation is presently disabled', 'there is no scontrol on this machine'])
def test_a_job_that_cannot_be_requeued_says_why(nb, tmp_path, slurm, why):
    "It was submitted with --no-requeue, say; or there is no scontrol"
    (env,calls),out = slurm,tmp_path/'out'
    here = env(14, REFUSE=why) if 'disabled' in why else env(14, PATH=str(tmp_path))
    code,says = stopped(('run', nb, *LONG, out), here, out, signal.SIGUSR1)
    assert code == 75 and f'SLURM does not start job 14 again: ' in says and why in says and 'continue with' in says, says
    assert calls() == ['requeue 14']*('disabled' in why)

def test_a_second_signal_does_not_ask(nb, tmp_path):
    out = tmp_path/'out'
    p = astromask('run', nb, '-p', 'seconds', 600, '--out', out, wait=False)
    kernel, = wait_for(lambda: (out/'metrics.json').exists() and read_json(out/'metrics.json').get('kernels'))
    p.send_signal(signal.SIGINT)
    wait_for((out/'STOP').exists)
    p.send_signal(signal.SIGINT)
    _,stderr = p.communicate(timeout=120)
    assert p.returncode == 75 and 'continue with' in stderr and manifest(out)['state'] == 'unfinished' and gone(kernel)

def test_killed_runner_takes_its_kernel_along_and_the_same_command_continues(nb, tmp_path):
    out = tmp_path/'out'
    args = ('run', nb, '-p', 'epochs', 80, '-p', 'seconds', 0.1, '--out', out)
    p = astromask(*args, wait=False)
    wait_for(lambda: epochs(out) >= 2)
    p.kill()
    p.wait()
    assert manifest(out)['state'] == 'running'
    r = astromask(*args)
    assert r.returncode == 0, r.stderr
    first,second = read_json(out/'metrics.json')['kernels']
    assert gone(first) and epochs(out) == 80
    counted = [int(l.split()[1]) for l in r.stdout.splitlines() if l.startswith('epoch')]
    assert counted == list(range(counted[0], 81)) and counted[0] > 2   # it waited for the old kernel

def test_one_run_at_a_time(nb, tmp_path):
    out = tmp_path/'out'
    args = ('run', nb, '-p', 'epochs', 900, '-p', 'seconds', 0.1, '--out', out)
    p = astromask(*args, wait=False)
    wait_for(lambda: epochs(out) >= 1)
    r = astromask(*args)
    assert r.returncode == 2 and f'in use by process {p.pid}' in r.stderr
    p.terminate()
    assert p.wait(120) == 75 and epochs(out) < 900

def test_the_output_may_go_away(nb, tmp_path):
    p = astromask('run', nb, '-p', 'epochs', 5, '--out', tmp_path/'out', wait=False)
    p.stdout.close()
    assert p.wait(120) == 0 and manifest(tmp_path/'out')['state'] == 'done' and p.stderr.read() == ''

@pytest.mark.slow
def test_a_terminal_that_is_closed(nb, tmp_path):
    out,pid,terminal = tmp_path/'out',*pty.fork()
    if pid == 0: os.execv(COMMAND, [COMMAND, 'run', nb, '-p', 'epochs', '50', '-p', 'seconds', '0.2', '--out', out])
    wait_for(lambda: epochs(out) >= 1)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75 and manifest(out)['state'] == 'unfinished'

# ---- failing

@pytest.mark.parametrize('name,code', [('DataError', 2), ('StorageError', 1), ('AstroMaskError', 1)])
def test_our_errors_are_a_sentence(nb, tmp_path, name, code):
    r = astromask('run', nb, '-p', 'fail', name, '--out', tmp_path/'out')
    assert r.returncode == code and r.stderr == 'astromask: told to fail\n'
    assert manifest(tmp_path/'out')['state'] == 'failed' and manifest(tmp_path/'out')['exit_code'] == code

def test_other_errors_show_where(nb, tmp_path):
    r = astromask('run', nb, '-p', 'fail', 'yes', '--out', tmp_path/'out')
    assert r.returncode == 1 and 'ValueError: told to fail' in r.stderr
    assert str(tmp_path/'out'/'notebook.ipynb') in r.stderr
    assert '\x1b' not in r.stderr and 'papermill' not in r.stderr

def test_a_kernel_that_dies(nb, tmp_path):
    r = astromask('run', nb, '-p', 'fail', 'exit', '--out', tmp_path/'out')
    assert r.returncode == 1 and 'process died' in r.stderr and 'Traceback' not in r.stderr, r.stderr

def test_refused_input_may_be_corrected(nb, tmp_path):
    assert astromask('run', nb, '-p', 'fail', 'InputError', '--out', tmp_path/'out').returncode == 2
    assert astromask('run', nb, '--out', tmp_path/'out').returncode == 0

def test_full_disk(nb, tmp_path):
    def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    r = astromask('run', nb, '-p', 'chatter', 300_000, '--out', tmp_path/'out', preexec_fn=limit)
    assert r.returncode == 1 and 'free some space' in r.stderr and 'Traceback' not in r.stderr, r.stderr
    json.loads((tmp_path/'out'/'notebook.ipynb').read_text())          # what was saved before the long output is whole
    assert not list((tmp_path/'out').glob('.notebook*'))

def test_nowhere_to_write(nb, tmp_path):
    r = astromask('run', nb, '--out', '/proc/astromask')
    assert r.returncode == 1 and 'Could not write /proc/astromask' in r.stderr
    (tmp_path/'file').touch()
    assert astromask('run', nb, '--out', tmp_path/'file').returncode == 2

# ---- parameters

def test_is_done_refuses_what_is_not_a_run(tmp_path):
    (tmp_path/'thesis.tex').touch()
    with pytest.raises(InputError, match='not empty and not a run'): is_done(RunDir(tmp_path), 'toy', {}, {})

@pytest.mark.parametrize('cell', [
    'epochs = 3', 'import os', 'epochs: int = f(3)', 'epochs: int', 'x: dict = {}', 'x: int = "a"', 'a: int = b: int',
    'x: int = (', 'epochs: int = 5.5'])
def test_parameters_cell_must_be_plain(tmp_path, cell):
    nb = dict(cells=[dict(cell_type='code', metadata=dict(tags=['parameters']), source=cell)])
    (tmp_path/'a.ipynb').write_text(json.dumps(nb))
    with pytest.raises(InputError, match='parameters cell'): read_parameters(tmp_path/'a.ipynb')

@pytest.mark.parametrize('text', ['[]', '{}', '{"cells": 3}', '{"cells": [{}]}', '3', '{"cells": ['])
def test_not_a_notebook(tmp_path, text):
    (tmp_path/'a.ipynb').write_text(text)
    with pytest.raises(InputError): read_parameters(tmp_path/'a.ipynb')

def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'with,comma.h5').touch()
    (tmp_path/'deep').mkdir()
    assert cast('path', 'with,comma.h5') == f'{tmp_path}/with,comma.h5'
    assert cast('path', 'deep/../a.h5,b*.h5') == f'{tmp_path}/a.h5,{tmp_path}/b*.h5' == cast('path', ['a.h5', 'b*.h5'])
    assert cast('path', '') == '' and cast('path', 'hf://x/y') == 'hf://x/y' and cast('path', '/a/b') == '/a/b'

KINDS = ('int','float','bool','str','path','list[int]','list[str]')
yaml_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
                           lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=5)

@settings(deadline=None, max_examples=200)
@given(st.sampled_from(KINDS), yaml_values)
def test_values_are_cast_or_refused(kind, value):
    spec = dict(x=Parameter(kind, None))
    try: x = check_parameters(spec, dict(x=value))['x']
    except InputError: return
    assert check_parameters(spec, dict(x=x)) == dict(x=x)                   # casting again changes nothing
    assert yaml.safe_load(yaml.safe_dump(x)) == x                           # and params.yaml holds it exactly

@settings(deadline=None, max_examples=200)
@given(st.text() | st.text(alphabet='[]{}:-,&*!|>"\' \n0123456789ab'))
def test_recipes_are_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp()/'recipe.yaml'
    path.write_text(text)
    try: assert isinstance(read_params_file(path), dict)
    except InputError: pass

# ---- recipes say what they say

SPEC = {k: Parameter(kind, default) for k,kind,default in (('epochs','int',1), ('lr','float',.1), ('ivar','bool',False), ('label','str',''), ('sizes','list[int]',[]),
                                                          ('data','path',''), ('seed','int',0))}

@pytest.mark.parametrize('line,name,value', [
    ('epochs: 017', 'epochs', 17), ('epochs: 08', 'epochs', 8), ('epochs: 1e2', 'epochs', 100), ('epochs: "3"', 'epochs', 3), ('label: 1:30', 'label', '1:30'),
    ('label: 017', 'label', '017'), ('label: no', 'label', 'no'), ('label: on', 'label', 'on'), ('label: yes', 'label', 'yes'), ('label: 0x10', 'label', '0x10'),
    ('label: 1_000', 'label', '1_000'), ('label: 2026-11-29', 'label', '2026-11-29'), ('label: 1.10', 'label', '1.10'), ('label: =', 'label', '='), ("label: ''", 'label', ''),
    ("label: 'null'", 'label', 'null'), ('ivar: no', 'ivar', False), ('ivar: true', 'ivar', True), ('ivar: "yes"', 'ivar', True), ('lr: 1e-3', 'lr', .001), ('lr: .5', 'lr', .5),
    ('sizes: [010, 2]', 'sizes', [10,2]), ('sizes: 3,4', 'sizes', [3,4]), ('seed: 9223372036854775807', 'seed', 2**63-1)])
def test_values_of_a_recipe_are_the_text_that_they_are(tmp_path, line, name, value):
    (tmp_path/'a.yaml').write_text(line)
    found = check_parameters(SPEC, read_params_file(tmp_path/'a.yaml'))[name]
    assert found == value and type(found) is type(value)

@pytest.mark.parametrize('text,why', [
    ('epochs: 1:30', "'1:30' is not"), ('epochs: 0o17', "'0o17' is not"), ('epochs:', 'None is not'), ('label: ~', 'None is not'), ('label: null', 'None is not'),
    ('epochs: on', "'on' is not"), ('ivar: maybe', "'maybe' is not"), ('epochs: {a: 1}', 'is not'), ('1: 2', "no parameter '1'"), ('1.5: 2', "no parameter '1.5'"),
    ('yes: 2', "no parameter 'yes'"), ('? [1, 2]\n: 3', 'line 1: a name is one word'), ('~: 1', "no parameter '~'"),
    ('epochs: 1\nlr: 1\nepochs: 2', 'line 3: `epochs` is given twice'), ('epochs: 1\n"epochs": 1', 'line 2: `epochs` is given twice'), ('label: {a: 1, a: 2}', '`a` is given twice'),
    ('a: &x [1]\nb: [*x,*x]', 'anchors and aliases'), ('<<: {epochs: 3}', "no parameter '<<'"), ('epochs: !!int "017"', 'not valid YAML'), ('epochs: !!python/object/apply:os.getcwd []', 'not valid YAML'),
    ('- epochs', 'lines of `name: value`'), ('epochs', 'lines of `name: value`'), ('epochs: 1\n---\nepochs: 2', 'not valid YAML'), ('seed: 99999999999999999999', 'less than 2**63'),
    ('seed: -1', 'from 0 on'), ('sizes: [1, 99999999999999999999]', 'less than 2**63'), ('epochs: ' + '9'*5000, 'is not'), ('label: [' + 'a, '*5000 + ']', 'is not')])
def test_recipes_are_refused_in_a_sentence(tmp_path, text, why):
    (tmp_path/'a.yaml').write_text(text)
    with pytest.raises(InputError) as e: check_parameters(SPEC, read_params_file(tmp_path/'a.yaml'))
    assert why in str(e.value) and len(str(e.value)) < 700 and '\n' not in str(e.value)

def test_a_bomb_of_aliases_is_refused_at_once(tmp_path):
    lines = ['a0: &a0 [x,x,x,x,x,x,x,x,x]'] + [f'a{i}: &a{i} [{",".join([f"*a{i-1}"]*9)}]' for i in range(1, 30)]
    (tmp_path/'a.yaml').write_text('\n'.join(lines))
    start = time.monotonic()
    with pytest.raises(InputError, match='line 1: anchors and aliases'): read_params_file(tmp_path/'a.yaml')
    assert time.monotonic()-start < 2

def test_only_files_of_a_sane_size_are_recipes(tmp_path):
    os.mkfifo(tmp_path/'pipe.yaml')
    (tmp_path/'big.yaml').write_text('label: ' + 'x'*2**20)
    for path,why in ((tmp_path/'pipe.yaml', 'no file'), (tmp_path, 'no file'), (Path('/dev/zero'), 'no file'), (tmp_path/'none.yaml', 'No such file'), (tmp_path/'big.yaml', 'bytes')):
        with pytest.raises(InputError, match=why): read_params_file(path)

@settings(deadline=None, max_examples=200)
@given(st.sampled_from(KINDS), yaml_values)
def test_what_a_run_records_is_read_back_exactly(tmp_path_factory, kind, value):
    spec = dict(x=Parameter(kind, None))
    try: params = check_parameters(spec, dict(x=value))
    except InputError: return
    path = tmp_path_factory.getbasetemp()/'recorded.yaml'
    path.write_text(yaml.safe_dump(params, sort_keys=False, allow_unicode=True))
    assert check_parameters(spec, read_params_file(path)) == params

def test_a_run_compares_what_it_recorded_by_type(tmp_path):
    run = RunDir(tmp_path/'run')
    params = check_parameters(SPEC, dict(label='017', ivar='yes', sizes='1,2', lr='1e-5'))
    (tmp_path/'run'/'params.yaml').write_text(yaml.safe_dump(params, sort_keys=False))
    run.manifest(experiment='toy', state='done')
    assert is_done(run, 'toy', params, SPEC)
    with pytest.raises(InputError, match="label was '017' and is now '17'"): is_done(run, 'toy', params | dict(label='17'), SPEC)

@pytest.mark.parametrize('seed', [2**63, 10**20, -2**63-1, 1.5, 'x', '3', None])
def test_seeds_beyond_64_bits_are_refused_in_a_sentence(seed):
    from astromask.core import uniform
    from astromask.models.answers import Classes
    from astromask.models.heads import Predictor
    from astromask.models.mae import MAE
    from astromask.models.weights import untrained
    tiny = MAE(img_size=16, patch_size=8, bands='gr', embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
    for ask in (lambda: uniform(seed, 0, np.arange(3), 2), lambda: Predictor(tiny, Classes('ab'), seed=seed), lambda: untrained(tiny, seed)):
        with pytest.raises(InputError, match='is no seed'): ask()

def test_large_seeds_are_seeds():
    from astromask.core import uniform
    from astromask.evaluate.probe import class_folds
    seeds = 2**40, 2**63-1
    assert len({uniform(s, 0, np.arange(3), 2).tobytes() for s in seeds}) == 2
    for s in seeds: assert len(class_folds(np.arange(40)%2, 5, 1, s)) == 5
