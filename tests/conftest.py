"What the tests share: no screen, no network, nothing written outside temporary folders"
import os, shutil, signal, tempfile
import pytest
from toys import empty_picture

ours = 'PYTEST_XDIST_WORKER' not in os.environ              # workers share what one of them simulated
scratch = tempfile.mkdtemp(prefix='astromask-tests-') if ours else os.path.dirname(os.environ['ASTROMASK_CACHE'])
os.environ |= dict(MPLBACKEND='Agg', WANDB_MODE='disabled', HF_HUB_OFFLINE='1', PYTHONUNBUFFERED='1',
                   ASTROMASK_CACHE=f'{scratch}/cache')
os.environ.setdefault('OMP_NUM_THREADS', '1') # small models gain nothing from more, and threads that wait for each other lose much

for name in ('SLURM_JOB_ID','SLURM_ARRAY_TASK_ID'): os.environ.pop(name, None)    # or a test would requeue the job that it runs in

signal.signal(signal.SIGHUP, signal.SIG_DFL)    # under nohup it is ignored, and the commands we start would inherit that

def pytest_addoption(parser):
    parser.addoption('--flags', default='', help="Notebook cells to run besides the usual: 'slow', 'cuda'")

def pytest_configure(config): config.addinivalue_line('markers', 'drawn: the pictures of its runs are looked at')

def pytest_collection_modifyitems(items):
    "Files whose tests fork come first: where a model was compiled, autograd has threads and cannot be forked"
    items.sort(key=lambda item: not hasattr(item.module, 'elsewhere'))

def pytest_unconfigure():
    if ours: shutil.rmtree(scratch, ignore_errors=True)

@pytest.fixture(autouse=True, scope='session')
def figures_closed():
    "Figures that notebooks leave open would pile up over the session"
    yield
    import matplotlib.pyplot as plt
    plt.close('all')

@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    "Runs keep empty pictures: they take more time than the few steps of a test, and one that fails is a warning only"
    if request.node.get_closest_marker('drawn'): return
    from astromask.core import RunDir
    monkeypatch.setattr(RunDir, 'savefig', lambda run,fig,name: run.write(f'figures/{name}.png', empty_picture()))
