"""Starts training on several ranks, quickly: what is slow to import is imported once, and every rank is a fork.

A line of JSON on standard input says what each rank gets, and is answered by their exit codes when all have ended."""
import json, os, sys, time, traceback
from pathlib import Path
from types import SimpleNamespace
import numpy as np, torch
from fastai.callback.core import Callback
from astromask.core import AstroMaskError, rank, world
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.models.mae import MAE
from astromask.models.simmim import SimMIM
from astromask.train.pretrain import pretrain_learner

class Record(Callback):
    "Keep what this rank sees, and the gradients of its first steps"
    order = 25                                                            # after SafeStep
    def __init__(self, out): self.rows,self.grads,self.out = [],[],Path(out)
    def before_batch(self): self.rows.append([self.learn.epoch, self.training, self.yb[0].tolist()])
    def before_step(self):
        if len(self.grads) < 3: self.grads.append(torch.cat([p.grad.flatten() for p in self.learn.parameters() if p.grad is not None]).clone())
    def save(self):
        name = f'{time.monotonic_ns()}-rank{rank()}'
        (self.out/f'{name}.json').write_text(json.dumps(self.rows))
        np.save(self.out/f'{name}.grads.npy', torch.stack(self.grads).numpy())
        np.save(self.out/f'{name}.weights.npy', torch.cat([p.detach().flatten() for p in self.learn.parameters()]).numpy())

class At(Callback):
    "Do something after some step"
    order = 65
    def __init__(self, step, do): self.at,self.do = step,do
    def after_batch(self):
        if self.training and self.learn.step == self.at: self.do()

def answer_late(learn):
    "The first answer of a probe waits for the third step, and figures are drawn whenever none is being drawn"
    probe,answer,learn.figures.minutes = learn.online_probe,learn.online_probe.answer,0
    def late(m, now):
        end = time.monotonic()+60
        while world() > 1 and now['step'] == 0 and learn.step < 3:
            if time.monotonic() > end: raise TimeoutError('nobody trains while the probe answers')
            time.sleep(.01)
        return answer(m, now)
    probe.answer = late

def train(data, out, epochs, valid, method='mae', bs=16, shards=None, stop_at=None, bad_at=None, watched=False, **kw):
    "A tiny model; what ranks saw is kept beside its run directory"
    torch.manual_seed(0)
    c = Cutouts.open(data)
    dls = cutout_dls(c, 32, bs=bs, valid=valid, device='cpu', shards=shards)
    m = dict(mae=MAE, simmim=SimMIM)[method].preset('tiny', bands=c.bands)
    learn = pretrain_learner(dls, m, out, clip=1e9, **kw)
    if watched: answer_late(learn)
    else:
        learn.remove_cbs([learn.figures, learn.online_probe])             # not what is tested, and slow
        learn.figures = learn.online_probe = SimpleNamespace(try_to_draw=lambda: None, ask=lambda: None)
    learn.add_cb(record := Record(Path(out).parent))
    last = rank() == world()-1                                            # what happens to one rank
    if stop_at and last: learn.add_cb(At(stop_at, lambda: setattr(learn.stop, 'asked', True)))
    if bad_at and last: learn.add_cb(At(bad_at, lambda: setattr(learn, 'loss_func', lambda out,rows: out.loss*torch.nan)))
    learn.safe_step.patience = 3
    try: learn.fit(epochs)
    finally: record.save()

def run(env, job):
    os.environ.update(env)
    try: train(**job)
    except AstroMaskError as e:
        print(f'{type(e).__name__}: {e}', file=sys.stderr)
        os._exit(e.exit_code)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

if __name__ == '__main__':
    print('ready', flush=True)
    for line in sys.stdin:
        envs,job = json.loads(line)
        pids = [pid for env in envs if (pid := os.fork()) or run(env, job)]
        print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids], flush=True)
