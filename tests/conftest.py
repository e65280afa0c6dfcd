"What the tests share: no screen, no network, nothing written outside temporary folders"
import os, shutil, signal, tempfile
import pytest

scratch = tempfile.mkdtemp(prefix='astromask-tests-')
os.environ |= dict(MPLBACKEND='Agg', WANDB_MODE='disabled', HF_HUB_OFFLINE='1', PYTHONUNBUFFERED='1',
                   ASTROMASK_CACHE=f'{scratch}/cache')
os.environ.setdefault('OMP_NUM_THREADS', '1') # small models gain nothing from more, and threads that wait for each other lose much

for name in ('SLURM_JOB_ID','SLURM_ARRAY_TASK_ID'): os.environ.pop(name, None)    # or a test would requeue the job that it runs in

signal.signal(signal.SIGHUP, signal.SIG_DFL)    # under nohup it is ignored, and the commands we start would inherit that

def pytest_addoption(parser):
    parser.addoption('--flags', default='', help="Notebook cells to run besides the usual: 'slow', 'cuda'")

def pytest_collection_modifyitems(items):
    "Files whose tests fork come first: where a model was compiled, autograd has threads and cannot be forked"
    items.sort(key=lambda item: not hasattr(item.module, 'elsewhere'))

def pytest_unconfigure(): shutil.rmtree(scratch, ignore_errors=True)

@pytest.fixture(autouse=True, scope='session')
def figures_closed():
    "Figures that notebooks leave open would pile up over the session"
    yield
    import matplotlib.pyplot as plt
    plt.close('all')
