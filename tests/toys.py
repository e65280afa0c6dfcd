"Small experiments for tests: one counts epochs, keeps them in metrics.json, stops when asked, and fails when told to; one trains."
import ctypes, faulthandler, importlib, io, json, os, pickle, subprocess, sys, traceback
from contextlib import contextmanager
from pathlib import Path
import pytest

COMMAND = str(Path(sys.executable).with_name('astromask'))
STARTED = []   # processes that were not waited for

def optional(name):
    "An optional package to compare with. Without it a test is skipped; where CI decides it fails"
    return importlib.import_module(name) if os.environ.get('CI') else pytest.importorskip(name)

PARAMETERS = """# What a test may set
epochs: int = 2         # Passes
max_minutes: float = 0  # Unused here
seconds: float = 0.05   # Each epoch's time
data: 'path' = ''       # Unused here
fail: str = ''          # An error's name, or 'exit'
chatter: int = 0        # Characters to print
run_dir: 'path' = ''"""

LOOP = """import os, time
from astromask import core
run = core.RunDir(run_dir)
first = run.metrics().get('epochs', 0)
run.metrics(kernels=run.metrics().get('kernels', []) + [os.getpid()])
print('x'*chatter)
if fail == 'exit': os._exit(9)
if fail: raise getattr(core, fail, ValueError)('told to fail')
for epoch in range(first, epochs):
    if run.stop_requested(): raise core.Unfinished(f'Stopped after {epoch} of {epochs} epochs')
    time.sleep(seconds*AGAIN if first else seconds)
    run.metrics(epochs=epoch+1)
    print('epoch', epoch+1)"""

TRAINING = ["""data: 'path' = ''       # Cutouts
epochs: int = 2         # Passes
run_dir: 'path' = ''""", """import os, time, torch
from types import SimpleNamespace
from fastai.callback.core import Callback
from astromask.core import rank, start_logging
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.models.mae import MAE
from astromask.train.pretrain import pretrain_learner

def fail(how):
    if how == 'raise': raise ValueError('told to fail')
    if how == 'exit': os._exit(9)
    if how == 'hang': time.sleep(600)

class Fail(Callback):
    def before_batch(self):
        if self.learn.step == 4 and rank() == 1: fail(os.environ.get('FAIL'))""", """start_logging()
torch.manual_seed(0)
c = Cutouts.open(data)
learn = pretrain_learner(cutout_dls(c, 32, bs=16, valid=.2, device='cpu'), MAE.preset('tiny', bands=c.bands), run_dir, save_minutes=0)
learn.add_cb(Fail())
learn.remove_cbs([learn.figures, learn.online_probe])
learn.figures = learn.online_probe = SimpleNamespace(try_to_draw=lambda: None, ask=lambda: None)
learn.fit(epochs)"""]

def empty_picture():
    "A PNG of one pixel, in place of what takes long to draw and is not looked at"
    from PIL import Image
    Image.new('L', (1,1)).save(data := io.BytesIO(), 'png')
    return data.getvalue()

def write(path, *cells):
    "A notebook, whose first cell holds its parameters"
    def cell(i, source): return dict(cell_type='code', id=f'c{i}', outputs=[], execution_count=None, source=source, metadata=dict(tags=[] if i else ['parameters']))
    path.write_text(json.dumps(dict(cells=[cell(*o) for o in enumerate(cells)], metadata={}, nbformat=4, nbformat_minor=5)))
    return path

def toy(folder, again=1):
    "Write the experiment into a folder; gives its path. What goes on takes `again` times as long for an epoch"
    return write(Path(folder)/'90_toy.ipynb', PARAMETERS, LOOP.replace('AGAIN', str(again)))

def training(folder):
    "The same for one that trains a tiny model, and saves after every step; one of two ranks fails as FAIL tells it"
    return write(Path(folder)/'90_small.ipynb', *TRAINING)

def astromask(*args, wait=True, **kw):
    "The command in a process of its own: its CompletedProcess, or the process if it is not waited for"
    command = [COMMAND, *map(str, args)]
    env = os.environ | dict(PYTHONUNBUFFERED='1')
    kw = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) | kw
    if wait: return subprocess.run(command, **dict(timeout=240) | kw)
    STARTED.append(subprocess.Popen(command, **kw))
    return STARTED[-1]

# ---- root may write where permissions forbid it (CAP_DAC_OVERRIDE), unless it does without

def bind_child():
    "For preexec_fn: permissions bind the program that is started, root's too"
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)

@contextmanager
def bound():
    "While this lasts, permissions bind this thread"
    libc,header,sets = ctypes.CDLL(None),(ctypes.c_uint32*2)(0x20080522, 0),(ctypes.c_uint32*6)()
    libc.capget(header, sets)
    was,sets[0] = sets[0],sets[0] & ~2
    libc.capset(header, sets)
    try: yield
    finally:
        sets[0] = was
        libc.capset(header, sets)

def elsewhere(f):
    "What f gives in a process of its own, with its own wandb, say, and its own threads"
    read,write = os.pipe()
    if not (pid := os.fork()):
        faulthandler.dump_traceback_later(120, exit=True)    # a child that hangs ends, and its test fails
        try: answer = None,f()
        except BaseException as e: answer = ''.join(traceback.format_exception(e)),None
        with os.fdopen(write, 'wb') as o: pickle.dump(answer, o)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, 'rb') as o: error,answer = pickle.load(o)
    os.waitpid(pid, 0)
    assert not error, error
    return answer
