"What is built is what users get: an sdist, a wheel made from it, and that wheel at work in an empty folder away from the clone"
import os, resource, shutil, site, subprocess, sys
from configparser import ConfigParser
from importlib.metadata import PathDistribution
from pathlib import Path
from zipfile import ZipFile, Path as ZipPath
import pytest
from packaging.requirements import Requirement

root = Path(__file__).parent.parent
experiments = sorted(nb.name for nb in (root/'nbs/experiments').glob('*.ipynb'))

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "A wheel built from an sdist built from the tracked folders"
    source,out = tmp_path_factory.mktemp('build')/'source', tmp_path_factory.mktemp('dist')
    left_out = shutil.ignore_patterns('.*', '_proc', '_docs', 'runs', 'build', 'dist', '*.egg-info', '__pycache__')
    shutil.copytree(root, source, symlinks=True, ignore=left_out)
    build = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, source]
    ran = subprocess.run(build, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert len(list(out.glob('astromask-*.tar.gz'))) == 1
    return next(out.glob('astromask-*.whl'))

@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    "A fresh environment that has the wheel, and borrows this environment's packages (but not its editable install)"
    venv = tmp_path_factory.mktemp('user')/'venv'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', venv], check=True)
    purelib = next(venv.glob('lib/python*/site-packages'))
    pip = [sys.executable, '-m', 'pip', '--python', venv/'bin/python', 'install', '-q', '--no-deps', '--no-index', wheel]
    subprocess.run(pip, check=True)
    (purelib/'borrowed.pth').write_text('\n'.join(site.getsitepackages()))
    return venv/'bin'

def run(command, cwd, **env):
    "Run a command in a folder that knows nothing of the clone"
    clean = {k:v for k,v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV', 'IN_TEST')}
    return subprocess.run([str(o) for o in command], cwd=cwd, env=clean | env, capture_output=True, text=True)

def test_requirements_are_those_of_settings_ini(wheel):
    ini = ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini')
    wanted = {(str(Requirement(r)), None) for r in ini['requirements']['core'].split()}
    wanted |= {(str(Requirement(r)), extra) for extra,rs in ini['extras'].items() for r in rs.split()}
    with ZipFile(wheel) as z: info = next(n for n in z.namelist() if n.endswith('METADATA')).split('/')[0]
    found = set()
    for r in map(Requirement, PathDistribution(ZipPath(wheel, info+'/')).requires):
        extra = r.marker and next(e for e in ini['extras'] if r.marker.evaluate({'extra': e}))
        r.marker = None
        found.add((str(r), extra))
    assert found == wanted

def test_constraints_meet_the_requirements():
    ini = ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini')
    pins = dict(line.split('==') for line in (root/'constraints.txt').read_text().lower().splitlines() if '==' in line)
    for r in map(Requirement, (ini['requirements']['core'] + ' '.join(ini['extras'].values())).split()):
        if r.name.lower() in ('astromask', *ini['extras']): continue
        assert r.specifier.contains(pins[r.name.lower()]), f'{r} against {pins[r.name.lower()]} in constraints.txt'

def test_wheel_holds_the_experiments_and_the_pages(wheel):
    with ZipFile(wheel) as z: names = z.namelist()
    assert {'astromask/web/explorer.html', 'astromask/web/live.html'} <= set(names)
    assert [n for n in experiments if f'astromask/experiments/{n}' not in names] == []
    modules = [m.relative_to(root).as_posix() for m in (root/'astromask').rglob('*.py')]
    assert [m for m in modules if m not in names] == []

def test_import_is_fast_and_has_no_side_effects(installed, tmp_path):
    code = ('import sys, time; t = time.process_time(); import astromask; t = time.process_time()-t; '
            'print(t, astromask.__file__, "torch" in sys.modules, "matplotlib" in sys.modules)')
    took,file,torch,matplotlib = run([installed/'python', '-c', code], tmp_path, HOME=str(tmp_path)).stdout.split()
    assert float(took) < 0.5 and (torch, matplotlib) == ('False', 'False')
    assert file.startswith(str(installed.parent)), 'the clone was imported, not the wheel'
    assert list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('given,found', [({}, '100000'), (dict(GOMP_SPINCOUNT='5'), '5'), (dict(OMP_WAIT_POLICY='passive'), 'None')], ids=str)
def test_threads_wait_a_moment_only(given, found):
    "Before torch is loaded, and not where the user has said how"
    env = {k: v for k,v in os.environ.items() if k not in ('GOMP_SPINCOUNT','OMP_WAIT_POLICY')} | given
    code = 'import os, sys, astromask; assert "torch" not in sys.modules; print(os.environ.get("GOMP_SPINCOUNT"))'
    assert subprocess.run([sys.executable, '-c', code], env=env, cwd=root, capture_output=True, text=True, check=True).stdout.strip() == found

USES_MEMORY = """
import astromask, resource
import numpy as np
def use(): return [np.ones(1 << 17) for _ in range(64)]
def pages(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): use()
before = pages()
for _ in range(10): use()
print((pages()-before)//10)
"""

@pytest.mark.skipif(sys.platform != 'linux', reason='an option of glibc')
@pytest.mark.parametrize('given,kept', [({}, True), (dict(MALLOC_TRIM_THRESHOLD_='131072'), False)], ids=str)
def test_memory_that_was_freed_is_used_again(given, kept):
    "64 MiB are not emptied anew by the kernel each time, unless the user has said how"
    env = {k: v for k,v in os.environ.items() if not k.startswith(('MALLOC_','GLIBC_'))} | given
    ran = subprocess.run([sys.executable, '-c', USES_MEMORY], env=env, cwd=root, capture_output=True, text=True, check=True)
    assert (int(ran.stdout) < 100) == kept

def test_help_answers_in_under_a_second(installed, tmp_path):
    used = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) # processor time, since tests share the machine
    run([installed/'astromask', '--help'], tmp_path) # compiles
    start = used()
    ran = run([installed/'astromask', '--help'], tmp_path)
    assert used()-start < 1
    assert ran.returncode == 0, ran.stderr
    assert all(verb in ran.stdout for verb in ('simulate', 'inspect', 'run'))

def test_verbs_work_away_from_the_clone(installed, tmp_path):
    for command in (['simulate', 'out.h5', '--n', 8], ['inspect', 'out.h5']):
        ran = run([installed/'astromask', *command], tmp_path)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert 'Traceback' not in ran.stderr and '8' in ran.stdout

@pytest.mark.slow
def test_an_experiment_runs_away_from_the_clone(installed, tmp_path):
    run([installed/'astromask', 'simulate', 'out.h5', '--n', 40], tmp_path)
    ran = run([installed/'astromask', *'run pretrain -p data out.h5 -p preset tiny --out here'.split()], tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path/'here/model/model.safetensors').exists()

def test_shell_scripts_parse():
    scripts = [root/'.ci/run', *(root/'slurm').rglob('*.sh'), *(root/'tests').rglob('*.sh')]
    for script in scripts: subprocess.run(['bash', '-n', script], check=True)
