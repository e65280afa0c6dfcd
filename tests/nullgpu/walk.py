"""What training and inference ask of a CUDA device, counted on the stand-in: `python standin.py walk.py step small` or `... flow pretrain`

A line of JSON for each step that is named in `STEPS`, or for each flow in `FLOWS`. With --where the lines of ours that launch and wait."""
import argparse, json, logging, math, os, sys, tempfile, time, traceback, warnings
from collections import Counter
from functools import partial
from pathlib import Path
import h5py, numpy as np, torch
from fastai.callback.core import Callback
import standin

ROOT = str(Path(standin.__file__).parents[2])
logging.disable(logging.WARNING)                # steps whose numbers are not numbers
torch.backends.cudnn.enabled = False            # neither its convolutions nor its attention are here: PyTorch's own are taken
torch.backends.cuda.enable_cudnn_sdp(False)

# ---- who waits, and who launches

def ours(frames):
    "The last lines of the package in a stack, the inner one first"
    own = [f for f in frames if f.filename.startswith(f'{PACKAGE}/')]
    return ' < '.join(f'{f.filename[len(PACKAGE)+1:]}:{f.lineno} {f.name}' for f in own[::-1][:2])

class Waits(Counter):
    "Places that wait for the device, as PyTorch tells them"
    def __enter__(self):
        self.was = warnings.showwarning
        warnings.simplefilter('always')
        warnings.showwarning = self.seen
        torch.cuda.set_sync_debug_mode('warn')
        return self
    def __exit__(self, *_):
        torch.cuda.set_sync_debug_mode('default')
        warnings.showwarning = self.was
    def seen(self, message, category, filename, lineno, *_):
        if 'synchroniz' in str(message): self[ours(traceback.extract_stack()[:-1]) or f'{filename}:{lineno}'] += 1

class Launches(Counter):
    "Launches by our lines: what is launched while a line runs counts for it"
    def __enter__(self):
        self.at,self.n = [],standin.counts()['launches']
        sys.settrace(self.call)
        return self
    def __exit__(self, *_): sys.settrace(None)
    def book(self):
        now = standin.counts()['launches']
        if self.at and now > self.n: self[self.at[-1]] += now-self.n
        self.n = now
    def call(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(f'{PACKAGE}/'): return None
        self.book()
        self.at.append('')
        return self.line
    def line(self, frame, event, _):
        self.book()
        if event == 'return': self.at.pop()
        else: self.at[-1] = f'{frame.f_code.co_filename[len(PACKAGE)+1:]}:{frame.f_lineno} {frame.f_code.co_name}'
        return self.line

def start_compiler():
    "What the compiler waits for once in a process, where its caches do not know a kernel, is nobody's flow"
    from torch._inductor import config
    with config.patch(force_disable_caches=True): torch.compile(torch.neg)(torch.zeros(8, device='cuda'))

# ---- steps

def noise(m, n):
    "Cutouts for a model: eight of noise, and others that take no room"
    path = Path(tempfile.mkdtemp())/'noise.h5'
    x = np.random.default_rng(0).normal(size=(8, len(m.bands), *m.img_size)).astype(np.float16)
    Cutouts.write(path, x, bands=m.bands, dtype='float16')
    few = Cutouts.open(path)
    m.scaling = fit_scaling(few, 8)
    with h5py.File(path, 'r+') as f: f['cutouts'].resize(n, 0)
    return Cutouts.open(path)

class Enough(BaseException): "All steps that count were taken"

class StepMeter(Callback):
    "Counts between steps"
    order = 1000
    run_valid = False
    def __init__(self, first, n): self.first,self.n,self.k,self.cpu = first,n,0,[]
    def after_batch(self):
        self.cpu.append(time.process_time())
        self.k += 1
        if self.k == self.first: self.before = standin.counts()
        if self.k == self.first+self.n: self.after = standin.counts()
        if self.k == self.first+self.n: self.waits = Waits().__enter__()
        if self.k == self.first+self.n+2 and WHERE: self.launches = Launches().__enter__()
        if self.k < self.first+self.n+4: return
        if WHERE: self.launches.__exit__()
        self.waits.__exit__()
        raise Enough()

def counted(learn, bs, first=10, n=10, every=np.inf):
    "What a step asks of the device, when the first ones are done; every: seconds between lines in the log"
    torch.cuda.reset_peak_memory_stats()
    start = standin.counts()
    steps = StepMeter(first, n)
    learn.add_cb(steps)
    learn.history.every = every
    try: learn.fit(2)
    except Enough: pass
    each = {k: (steps.after[k]-steps.before[k])/n for k in standin.COUNTED if k != 'allocated'}
    cpu = 1e3*np.diff(steps.cpu)[first:first+n]
    found = dict(bs=bs, **each, kernels=steps.after['captured']-start['captured'], gib=round(torch.cuda.max_memory_allocated()/2**30, 2), cpu_ms=round(float(np.median(cpu)), 2), cpu_least=round(float(cpu.min()), 2),
                 waits={k: v/4 for k,v in steps.waits.items()})
    return found | (dict(where={k: v/2 for k,v in steps.launches.most_common(60)}) if WHERE else {})

def loaders(m, bs, steps=26):
    kw = {} if bs is None else dict(bs=bs)
    n = steps*(bs or 1024)+64
    rows = np.arange(n)
    return cutout_dls(noise(m, n), m.img_size, split=(rows[64:], rows[:64]), device='cuda', **kw)

def pretraining(method, preset, bs=64, every=np.inf, **options):
    "A step of pretraining"
    m = METHODS[method].preset(preset)
    learn = pretrain_learner(loaders(m, bs), m, tempfile.mkdtemp(), **options)
    learn.online_probe.ask = lambda: None
    return counted(learn, learn.dls.train.bs, every=every)

def finetuning(preset, bs=64, recipe='finetune', **options):
    "A step of fine-tuning, to three classes"
    p = Predictor(METHODS['mae'].preset(preset), Classes(['a','b','c']))
    dls = loaders(p.encoder, bs)
    y = np.arange(len(dls.train.dataset)) % 3
    return counted(finetune_learner(dls, p, y, tempfile.mkdtemp(), recipe=recipe, **options), dls.train.bs)

def itself():
    "Things whose counts are known: a sum, its copy to the host, and both where only the first can be captured"
    x = torch.zeros(64, device='cuda')
    at = [standin.counts()]
    x.sum().item()
    at.append(standin.counts())
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph): x.sum().item()
    except RuntimeError as e: refused = 'capturing' in str(e)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph): x.sum()
    at.append(standin.counts())
    for _ in range(3): graph.replay()
    at.append(standin.counts())
    change = lambda i, *names: [at[i+1][k]-at[i][k] for k in names]
    return dict(asked=change(0, 'launches','syncs','fetched'), captured=change(1, 'captured'), refused=refused, replayed=change(2, 'launches','replays'))

STEPS = {
    'small': partial(pretraining, 'mae', 'small'),
    'small with a line': partial(pretraining, 'mae', 'small', every=0.),
    'vit_s': partial(pretraining, 'mae', 'vit_s'),
    'vit_b': partial(pretraining, 'mae', 'vit_b'),
    'hsc': partial(pretraining, 'simmim', 'hsc'),
    'galaxy10': partial(pretraining, 'mae', 'galaxy10'),
    'unions': partial(pretraining, 'mae', 'unions', bs=16),     # vit_l and vit_h are vit_b with as many blocks as this, and more memory than a test should take
    'astromae': partial(pretraining, 'mae', 'astromae'),
    'simmim small': partial(pretraining, 'simmim', 'small'),
    'simmim_vit_b': partial(pretraining, 'simmim', 'simmim_vit_b', bs=16),
    'simmim_swin_b': partial(pretraining, 'simmim', 'simmim_swin_b', bs=16),
    'finetune': partial(finetuning, 'small'),
    'small deterministic': partial(pretraining, 'mae', 'small', deterministic=True),
    'hsc deterministic': partial(pretraining, 'simmim', 'hsc', deterministic=True),
    'finetune deterministic': partial(finetuning, 'small', deterministic=True),
    'itself': lambda **_: itself()}

# ---- flows: whole ones, of the smallest models

def survey(n=100):
    "Cutouts of noise in the bands of the presets, with classes and redshifts"
    path = Path(tempfile.mkdtemp())/'survey.h5'
    rng = np.random.default_rng(0)
    catalog = dict(id=[f'o{i}' for i in range(n)], ra=rng.uniform(0, 360, n), dec=rng.uniform(-60, 60, n), z=rng.uniform(0, 1, n),
                   **{'class': np.array(['a','b','c'])[np.arange(n) % 3]})
    Cutouts.write(path, rng.normal(size=(n, 5, 32, 32)), bands='ugriz', catalog=catalog, ivar=np.ones((n, 5, 32, 32)))
    return Cutouts.open(path)

def twice(make, fit=1):
    "Train, and go on from what was saved: a pass more"
    for n in (fit, fit+1):
        learn = make()
        learn.fit(n)
    return learn.step

def pretrain(m, memory=None, ivar=False, watched=False, **options):
    "Pretraining with a checkpoint after every step, and validation; watched: with probe and figure in every pass"
    out = tempfile.mkdtemp()
    def make():
        dls = cutout_dls(DATA, m.img_size, bs=16, split=SPLIT, device='cuda', memory=memory, ivar=ivar)
        learn = pretrain_learner(dls, type(m)(**m.config), out, save_minutes=0, **options)
        if watched: learn.figures.minutes = learn.online_probe.minutes = 0
        else: learn.remove_cbs([learn.figures, learn.online_probe])
        return learn
    return lambda: twice(make)

def finetune(p, y='class', recipe='finetune', **options):
    "Fine-tuning with a checkpoint after every step"
    out = tempfile.mkdtemp()
    answers = np.arange(len(DATA)) % 3 if y == 'class' else np.asarray(DATA.catalog['z'])
    def make():
        torch.manual_seed(0)
        return finetune_learner(cutout_dls(DATA, 32, bs=16, split=SPLIT, device='cuda'), p(), answers, out, recipe=recipe, save_minutes=0, **options)
    return lambda: twice(make)

def tiny(**options): return METHODS['mae'].preset('tiny', **options)
def classes(**options): return lambda: Predictor(tiny(), Classes(['a','b','c']), **options)

def flows(kind, deterministic):
    "Name and call of each flow of a kind"
    more = dict(deterministic=True) if deterministic else {}
    words = 'dihedral,rotate,jitter,crop,blur,gain,noise,cosmic_rays,bad_pixels'
    if kind == 'pretrain':
        yield 'mae', pretrain(tiny(), watched=True, **more)
        yield 'mae from the file, in halves', pretrain(tiny(), memory=0, accumulate=2, ema=.99, band_dropout=.3, drop_path=.1, **more)
        yield 'mae with ivar', pretrain(tiny(), ivar=True, **more)
        yield 'mae with sky token and object scaling', pretrain(tiny(sky_token=True), scaling='object', **more)
        yield 'mae cross', pretrain(tiny(decoder='cross', predict_ratio=.5), **more)
        yield 'mae, all augmentations', pretrain(tiny(), augment=words, **more)
        yield 'mae, float16', pretrain(tiny(), amp='fp16', **more)
        yield 'mae, bfloat16', pretrain(tiny(), amp='bf16', **more)
        yield 'mae with heads and views', pretrain(tiny(), invariance=.1, label_weight=.1, **more)
        yield 'simmim', pretrain(METHODS['simmim'].preset('tiny'), **more)
        yield 'vitae', pretrain(tiny(block='vitae'), **more)
    if kind == 'finetune':
        yield 'classes', finetune(classes(), **more)
        yield 'redshift, bins', finetune(lambda: Predictor(tiny(), Bins(20)), 'z', **more)
        yield 'redshift, mixture', finetune(lambda: Predictor(tiny(), Mixture(3)), 'z', **more)
        yield 'recipe of the MAE paper', finetune(classes(norm='layer'), recipe='mae', **more)
        yield 'probe', finetune(classes(norm='batch'), recipe='probe', **more)
        yield 'attentive', finetune(classes(head='attentive'), recipe='attentive', **more)
        yield 'apertures', finetune(lambda: Predictor(Apertures(DATA.bands, 32, scaling=None), Point(), norm='batch'), 'z', recipe='cnn', frozen='encoder', augment='', **more)
        yield 'CNN', finetune(lambda: Predictor(CNN(DATA.bands, 32), Point()), 'z', recipe='cnn', **more)
    if kind == 'infer':
        m = tiny()
        m.scaling = fit_scaling(DATA, 64)
        m.cuda()
        for pool in ('mean','central','max','cls'): yield f'embed {pool}', lambda pool=pool: len(embed_cutouts(m, DATA, bs=32, pool=pool, views=8, progress=False))
        for answer in (Classes(['a','b','c']), Point()):
            p = Predictor(m, answer).cuda()
            yield f'predict {type(answer).__name__}', lambda p=p: len(predict_cutouts(p, DATA, bs=32, progress=False))
        yield 'table of redshifts', lambda: table_of(prediction(p), [str(DATA.files[0])], f'{tempfile.mkdtemp()}/t.parquet', bs=32, device='cuda', progress=False)['objects']
        yield 'table of vectors', lambda: table_of(embedding(m), [str(DATA.files[0])], f'{tempfile.mkdtemp()}/t.parquet', bs=32, device='cuda', progress=False)['objects']

def harmless():
    "Numbers are not numbers here: what would judge them is given others"
    number,whole = torch.Tensor.__float__,torch.Tensor.__int__
    torch.Tensor.__float__ = lambda t: 1.*bool(number(t)*0 or 1) if t.is_cuda else number(t)
    torch.Tensor.__int__ = lambda t: 0*bool(number(t)) if t.is_cuda else whole(t.nan_to_num() if t.is_floating_point() else t)
    fetch = callbacks.fetched
    callbacks.fetched = lambda *numbers: [0.*bool(o) for o in fetch(*numbers)] if any(map(torch.is_tensor, numbers)) else list(numbers)
    watch.probe_answers = lambda e, q, least=20: dict.fromkeys(watch.ANSWERS, .5)
    watch.rankme = lambda e: 5.
    History.learned_nothing = lambda self: False
    RunLearner.score = FinetuneLearner.score = lambda self, row: 0.
    for answer in (Classes,Bins,Mixture): answer.init_bias = lambda self, y: torch.zeros(self.n_out)  # what is no number cannot be counted
    History.every = property(lambda self: math.inf, lambda self, every: None)                         # no lines by the clock
    RunLearner.check_same = lambda self, there: None        # it compares answers that were worked out on the device
    FinetuneLearner.rows_used = RunLearner.rows_used        # those whose answers are numbers

def ran(flow):
    "What a flow did, or where it failed; and how often it waited"
    before,began = standin.counts(),time.process_time()
    with Waits() as waits:
        try: done = dict(ok=True, gave=flow())
        except Exception as e:
            at = [f'{o.filename[len(PACKAGE)+1:]}:{o.lineno}' for o in traceback.extract_tb(e.__traceback__) if o.filename.startswith(f'{PACKAGE}/')]
            done = dict(ok=False, error=f'{type(e).__name__}: {" ".join(str(e).split())[:300]}', at=at[-3:])
    after = standin.counts()
    torch.use_deterministic_algorithms(False)
    return done | dict(cpu_s=round(time.process_time()-began, 1)) | {k: after[k]-before[k] for k in ('launches','replays','syncs','elsewhere','pageable')} | dict(waits=dict(waits.most_common(25)))

def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('kind', choices=['step','flow'])
    p.add_argument('names', nargs='+', help='of STEPS; or of flows: pretrain, finetune, infer')
    p.add_argument('--bs', type=int)
    p.add_argument('--amp')
    p.add_argument('--eager', action='store_true', help='steps that are not recorded, as those of several ranks')
    p.add_argument('--deterministic', action='store_true')
    p.add_argument('--only', default='', help='flows with this in their name')
    p.add_argument('--where', action='store_true')
    p.add_argument('--package', default=ROOT, help='a clone of another version')
    return p.parse_args()

if __name__ == '__main__':
    a = arguments()
    WHERE = a.where
    PACKAGE = f'{a.package}/astromask'
    sys.path.insert(0, a.package)
    from astromask.data.cutouts import Cutouts
    from astromask.data.loaders import cutout_dls
    from astromask.data.scaling import fit_scaling
    from astromask.embed import embed_cutouts
    from astromask.models.answers import Bins, Classes, Mixture, Point
    from astromask.models.heads import Predictor
    from astromask.models.networks import CNN, Apertures
    from astromask.tasks.predict import embedding, prediction, table_of
    from astromask.train import callbacks, watch
    from astromask.train.callbacks import History
    from astromask.train.learner import RunLearner
    from astromask.train.finetune import FinetuneLearner, finetune_learner, predict_cutouts
    from astromask.train.pretrain import METHODS, pretrain_learner
    if a.kind == 'step':
        given = {k: v for k,v in dict(bs=a.bs, amp=a.amp, record=False if a.eager else None).items() if v is not None}
        for name in a.names: print(json.dumps(dict(step=name) | STEPS[name](**given)), flush=True)
    else:
        DATA = survey()
        SPLIT = np.arange(20, 100),np.arange(20)
        harmless()
        start_compiler()
        for kind in a.names:
            for name,flow in flows(kind, a.deterministic):
                if a.only in name: print(json.dumps(dict(flow=f'{kind}: {name}') | ran(flow)), flush=True)
