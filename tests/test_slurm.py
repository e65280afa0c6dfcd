"slurm/run.sh, on a real SLURM that is brought up for it."
import os, re, shutil, signal, socket, subprocess, sys, tempfile, time
from pathlib import Path
import pytest
from astromask.files import read_json
from toys import toy

ROOT = Path(__file__).parent.parent
SCRIPT,HERE = ROOT/'slurm'/'run.sh',ROOT/'tests'/'slurm'
VENV = str(Path(sys.executable).parent.parent)
ENV = os.environ | dict(ASTROMASK_VENV=VENV, PYTHONUNBUFFERED='1', OMP_NUM_THREADS='1')

def wait_for(what, seconds=120, files=()):
    "Its first value that counts; what was written, where none comes"
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, '\n'.join(['waited too long', *(f.read_text() for f in files if f.exists())])
        time.sleep(0.2)
    return value

def counting(out): return (out/'metrics.json').exists() and read_json(out/'metrics.json').get('epochs', 0)
def manifest(out): return read_json(out/'manifest.json')

# ---- the script by itself

def test_the_script_names_nobody():
    options = re.findall(r'^#SBATCH (\S+)', SCRIPT.read_text(), re.M)
    assert options
    assert not [o for o in options if re.match(r'--(account|partition|qos|mail|nodelist|chdir|reservation)', o)]
    assert not re.search(r'/(home|scratch|project|work|users)\b', SCRIPT.read_text())

@pytest.mark.parametrize('number', [signal.SIGUSR1, signal.SIGTERM], ids=lambda s: s.name)
def test_the_script_passes_signals_on(tmp_path, number):
    out = tmp_path/'out'
    command = ['bash', SCRIPT, toy(tmp_path), '-p', 'epochs', '99', '-p', 'seconds', '0.3', '--out', out]
    p = subprocess.Popen(command, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: counting(out))
    p.send_signal(number)
    assert p.wait(120) == 75 and 'continue with: astromask run' in p.stderr.read()
    assert manifest(out)['state'] == 'unfinished'

def test_the_script_says_what_is_missing(tmp_path):
    bare = dict(env=dict(PATH='/usr/bin:/bin'), cwd=tmp_path)
    r = subprocess.run(['/bin/bash', SCRIPT, 'pretrain'], **bare, capture_output=True, text=True)
    assert r.returncode == 2 and 'ASTROMASK_VENV' in r.stderr
    assert subprocess.run(['bash', SCRIPT], capture_output=True).returncode == 2

# ---- on a cluster

@pytest.fixture(scope='module')
def cluster():
    path = os.environ['PATH'] + ':/usr/sbin:/sbin'
    missing = [c for c in ('slurmctld','slurmd','sbatch','munged') if not shutil.which(c, path=path)]
    if missing and not os.environ.get('ASTROMASK_SLURM'): pytest.skip(f'SLURM is not installed ({", ".join(missing)}): apt-get install slurm-wlm munge')
    if os.getuid() != 0: pytest.skip('only root can bring up a SLURM cluster')
    folder = tempfile.mkdtemp(prefix='astromask-slurm-')
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for s in (a,b,c): s.bind(('127.0.0.1', 0))
        ports = [str(s.getsockname()[1]) for s in (a,b,c)]
    up = subprocess.run(['bash', HERE/'up.sh', folder, *ports], capture_output=True, text=True, timeout=60)
    try:
        if up.returncode:
            says = pytest.fail if os.environ.get('ASTROMASK_SLURM') else pytest.skip   # where it must work, and elsewhere
            says(f'SLURM does not come up on this machine: {up.stderr[-500:]}')
        yield Cluster(folder)
    finally:
        subprocess.run(['bash', HERE/'down.sh', folder], timeout=60)
        shutil.rmtree(folder, ignore_errors=True)

class Cluster:
    def __init__(self, folder): self.env = dict(ENV, SLURM_CONF=f'{folder}/slurm.conf')
    def __call__(self, *command, cwd=None):
        how = dict(env=self.env, cwd=cwd, capture_output=True, text=True, check=True, timeout=120)
        return subprocess.run([*map(str, command)], **how).stdout.strip()
    def submit(self, cwd, *args, options=()): return self('sbatch', '--parsable', '--time=10', *options, SCRIPT, *args, cwd=cwd)
    def ended(self, job, seconds=240):
        "Wait for a job; its state and exit code"
        alive = ('PENDING','CONFIGURING','RUNNING','COMPLETING')
        wait_for(lambda: self('squeue', '-h', '-t', 'all', '-o', '%T', '-j', job) not in alive, seconds)
        about = self('scontrol', 'show', 'job', job, '-o')
        return re.search(r'JobState=(\w+)', about)[1], int(re.search(r' ExitCode=(\d+)', about)[1])

def test_a_job_runs_an_experiment(cluster, tmp_path):
    (tmp_path/'p.yaml').write_text('epochs: 3\n')
    job = cluster.submit(tmp_path, toy(tmp_path), '-f', 'p.yaml')
    assert cluster.ended(job) == ('COMPLETED', 0), (tmp_path/f'astromask-{job}.out').read_text()
    log,out = (tmp_path/f'astromask-{job}.out').read_text(),tmp_path/'runs'/'90_toy'/f'job-{job}'
    assert 'epoch 3' in log and f'job {job} on ' in log and 'ended with code 0' in log
    m = manifest(out)
    assert m['state'] == 'done' and m['sessions'][0]['slurm_job'] == job and counting(out) == 3
    assert {'notebook.ipynb','params.yaml','manifest.json','metrics.json'} <= set(os.listdir(out))

@pytest.mark.slow
def test_a_warned_job_is_requeued_and_finishes(cluster, tmp_path):
    "The same job, in two starts"
    out = tmp_path/'out'
    job = cluster.submit(tmp_path, toy(tmp_path), '-p', 'epochs', 20, '-p', 'seconds', 0.25, '--out', 'out')
    wait_for(lambda: counting(out))
    cluster('scancel', '--signal=USR1', '--batch', job)
    assert cluster.ended(job) == ('COMPLETED', 0), (tmp_path/f'astromask-{job}.out').read_text()
    log = (tmp_path/f'astromask-{job}.out').read_text()
    assert f'SLURM starts job {job} again' in log and log.count('epoch 1\n') == 1 and counting(out) == 20, log
    assert [(s['slurm_job'],s['state']) for s in manifest(out)['sessions']] == [(job,'unfinished'), (job,'done')]
    assert 'Restarts=1 ' in cluster('scontrol', 'show', 'job', job, '-o')

@pytest.mark.slow
def test_a_warned_task_of_an_array_is_requeued(cluster, tmp_path):
    args = toy(tmp_path),'-p','epochs',20,'-p','seconds',0.25
    job = cluster.submit(tmp_path, *args, options=['--array=3-4'])
    where = lambda: list((tmp_path/'runs').glob('*/*/metrics.json'))
    wait_for(lambda: len(where()) == 2)
    cluster('scancel', '--signal=USR1', '--batch', f'{job}_3')
    for task in ('3','4'): assert cluster.ended(f'{job}_{task}') == ('COMPLETED', 0), [f.read_text() for f in tmp_path.glob('*.out')]
    assert sorted(len(manifest(f.parent)['sessions']) for f in where()) == [1,2] and [counting(f.parent) for f in where()] == [20,20]

@pytest.mark.slow
def test_a_warned_job_that_may_not_be_requeued_ends_with_75_and_the_next_one_finishes(cluster, tmp_path):
    out = tmp_path/'out'
    args = tmp_path,toy(tmp_path),'-p','epochs',40,'-p','seconds',0.25,'--out','out'
    job = cluster.submit(*args, options=['--no-requeue'])
    wait_for(lambda: counting(out))
    cluster('scancel', '--signal=USR1', '--batch', job)
    assert cluster.ended(job) == ('FAILED', 75), (tmp_path/f'astromask-{job}.out').read_text()
    assert manifest(out)['state'] == 'unfinished' and 'Requested operation is presently disabled' in (tmp_path/f'astromask-{job}.out').read_text()
    again = cluster.submit(*args)
    assert cluster.ended(again) == ('COMPLETED', 0), (tmp_path/f'astromask-{again}.out').read_text()
    assert counting(out) == 40 and 'epoch 1\n' not in (tmp_path/f'astromask-{again}.out').read_text()
    assert [s['slurm_job'] for s in manifest(out)['sessions']] == [job, again]

@pytest.mark.slow
def test_a_cancelled_job_saves_its_state(cluster, tmp_path):
    out = tmp_path/'out'
    job = cluster.submit(tmp_path, toy(tmp_path), '-p', 'epochs', 99, '-p', 'seconds', 0.25, '--out', out)
    wait_for(lambda: counting(out))
    cluster('scancel', job)                      # TERM to every process of the job, the kernel too
    assert cluster.ended(job)[0] == 'CANCELLED'
    wait_for(lambda: manifest(out)['state'] == 'unfinished', files=[out/'manifest.json',tmp_path/f'astromask-{job}.out'])
    assert 'Stopped after' in manifest(out)['error']

def test_a_refused_job_says_why(cluster, tmp_path):
    job = cluster.submit(tmp_path, toy(tmp_path), '-p', 'epoch', 3)
    assert cluster.ended(job) == ('FAILED', 2)
    assert 'did you mean epochs?' in (tmp_path/f'astromask-{job}.out').read_text()

@pytest.mark.slow
def test_a_job_pretrains(cluster, tmp_path):
    job = cluster.submit(tmp_path, 'pretrain', '--out', 'out')
    assert cluster.ended(job, 600) == ('COMPLETED', 0), (tmp_path/f'astromask-{job}.out').read_text()
    assert manifest(tmp_path/'out')['state'] == 'done' and (tmp_path/'out'/'model'/'model.safetensors').exists()
