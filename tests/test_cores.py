"Threads where other work wants the cores"
import os, subprocess, sys, time
from contextlib import contextmanager
import pytest
from astromask import cores

linux = pytest.mark.skipif(sys.platform != 'linux', reason='the system does not say how long a thread waited')

@contextmanager
def busy(n):
    "Processes that never rest"
    others = [subprocess.Popen([sys.executable,'-c','while True: pass']) for _ in range(n)]
    try: yield
    finally:
        for o in others: o.kill()
        for o in others: o.wait()

TRAINS = """
import time, torch
from astromask.cores import sharing_cores
from astromask.errors import start_logging
start_logging()
torch.set_num_threads(2)
x = torch.randn(256, 256)
with sharing_cores(every=.2):
    end = time.monotonic()+4
    while time.monotonic() < end: x = (x @ x).sin()
"""

@linux
def test_who_finds_the_cores_crowded_says_so_once():
    env = os.environ | dict(GOMP_SPINCOUNT='100000')
    with busy(2*os.cpu_count()):
        ran = subprocess.run([sys.executable,'-c',TRAINS], env=env, capture_output=True, text=True, check=True, timeout=300)
    assert ran.stdout.count('Other work wants the cores') + ran.stderr.count('Other work wants the cores') == 1

def test_training_and_embedding_share_cores(tmp_path, monkeypatch):
    "Both look, and nobody looks any more afterwards"
    from astromask import embed
    from astromask.data.cutouts import Cutouts
    from astromask.data.loaders import cutout_dls
    from astromask.data.simulate import simulated_survey
    from astromask.models.mae import MAE
    from astromask.train import learner
    from astromask.train.pretrain import pretrain_learner
    looked = []
    @contextmanager
    def look():
        looked.append(True)
        yield
        looked.append(False)
    for room in (embed,learner): monkeypatch.setattr(room, 'sharing_cores', look)
    c = Cutouts.open(simulated_survey(40, seed=0))
    m = MAE.preset('tiny', c.bands, 16)
    embed.embed_cutouts(m, c, progress=False)
    assert looked == [True,False]
    looked.clear()
    pretrain_learner(cutout_dls(c, 16, bs=8, seed=0), m, tmp_path/'run', steps=2, steady=0).fit(1)
    assert looked[0] and not looked[-1]

def test_a_system_that_grants_no_threads_is_not_asked_for_any(monkeypatch):
    "OpenMP would end the process"
    asked = []
    monkeypatch.setattr(cores, '_may_start', lambda n: False)
    monkeypatch.setattr(cores, 'openmp_libraries', lambda: asked.append(1) or [])
    with cores.without_spinning(): pass
    assert not asked
    def refuse(self): raise RuntimeError("can't start new thread")
    monkeypatch.undo()
    monkeypatch.setattr(cores.threading.Thread, 'start', refuse)
    assert not cores._may_start(3)

@linux
def test_company_leaves():
    "Threads that were there for others' sake are gone"
    import torch
    torch.ones(1 << 20).exp()
    before = len(os.listdir('/proc/self/task'))
    with cores.without_spinning(): assert len(os.listdir('/proc/self/task')) > before
    for _ in range(100):
        if len(os.listdir('/proc/self/task')) <= before: break
        time.sleep(.05)
    assert len(os.listdir('/proc/self/task')) <= before
