"""Starts training runs in processes of their own, quickly: what is slow to import is imported once, and each run is a fork.

A line of JSON on standard input begins a run (see `train`) and is answered by its process id; when it ends, its exit status follows:
the number of the signal that killed it, negative, or its exit code."""
import json, os, sys
from types import SimpleNamespace
import torch
from astromask.core import AstroMaskError
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.models.mae import MAE
from astromask.models.simmim import SimMIM
from astromask.train.pretrain import pretrain_learner

def train(data, out, epochs, method='mae', workers=1, memory=None, **kw):
    "A tiny model, saved after every step"
    torch.manual_seed(0)
    c = Cutouts.open(data)
    dls = cutout_dls(c, 32, bs=16, valid=0.2, device='cpu', num_workers=workers, memory=memory)
    m = dict(mae=MAE, simmim=SimMIM)[method].preset('tiny', bands=c.bands)
    learn = pretrain_learner(dls, m, out, save_minutes=0, **kw)
    learn.remove_cb(learn.figures)                             # not what is tested, and slow
    learn.figures = SimpleNamespace(try_to_draw=lambda: None)
    vars(learn.online_probe)['draw'] = lambda: None
    learn.fit(epochs)

def run(job):
    try: train(**job)
    except AstroMaskError as e:
        print(e, file=sys.stderr)
        os._exit(e.exit_code)
    os._exit(0)

if __name__ == '__main__':
    print('ready', flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if not pid: run(json.loads(line))
        print(pid, flush=True)
        status = os.waitpid(pid, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)
