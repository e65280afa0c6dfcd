"""A dozen checks of the first real GPU, in under ten minutes: `make gpu-check` writes gpu-check.json and prints a table.

What a check finds is beside what it should. Where there is no GPU, or one that computes nothing (tests/nullgpu), every check that can is
run with the smallest models, and the others say what they lack. It ends with 1 if a check failed.

Of the list in notes/gpu.md it leaves out a rank that is killed: that wants two GPUs and a launcher, and is no matter of kernels.
"""
import argparse, dataclasses, json, math, os, subprocess, sys, tempfile, time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
import numpy as np, torch
from astromask.core import InputError, uniform
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.data.scaling import fit_scaling
from astromask.embed import embed_cutouts
from astromask.files import write_json
from astromask.models.mae import MAE
from astromask.models.simmim import SimMIM
from astromask.tasks.predict import embedding, table_of
from astromask.train.callbacks import History
from astromask.train.options import usual_bs
from astromask.train.pretrain import pretrain_learner
from fastai.callback.core import Callback
from torch._dynamo.utils import counters

class NotChecked(Exception): "Why a check says nothing here"
class Enough(BaseException): "All steps that are measured were taken"

@dataclasses.dataclass
class Place:
    "Where is checked, and what can be"
    device:torch.device
    name:str
    real:bool       # Does it compute, and is it a GPU?
    computes:bool   # Are its numbers numbers?
    folder:Path

    @property
    def quick(self): return not self.real
    def needs_gpu(self):
        if not self.real: raise NotChecked('there is no GPU' if self.device.type == 'cpu' else 'it computes nothing')
    def needs_numbers(self):
        if not self.computes: raise NotChecked('it ran, and its numbers are none: the device computes nothing')
    def new(self): return Path(tempfile.mkdtemp(dir=self.folder))

def place(folder, device=None):
    "The device that is there"
    device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'), 0)
    if device.type == 'cpu': return Place(torch.device('cpu'), 'CPU', False, True, folder)
    name = torch.cuda.get_device_name(device)
    real = not name.startswith('stand-in')
    if not real:
        torch.backends.cudnn.enabled = False        # it has nothing of cuDNN
        torch.backends.cuda.enable_cudnn_sdp(False)
        History.learned_nothing = lambda self: False
    return Place(device, name, real, real, folder)

# ---- data and runs

def blobs(path, bands, size, n):
    "Cutouts of round sources on noise"
    rng = np.random.default_rng(0)
    y,x = np.mgrid[:size,:size]-(size-1)/2
    def block(k):
        at = rng.normal(0, size/16, (k, 2, 1, 1, 1))
        width = rng.uniform(1, size/8, (k, 1, 1, 1))
        source = np.exp(-((x-at[:,0])**2+(y-at[:,1])**2)/(2*width**2))*rng.uniform(1, 20, (k, len(bands), 1, 1))
        return (source+rng.normal(size=(k, len(bands), size, size))).astype(np.float16)
    Cutouts.write(path, (block(min(64, n-i)) for i in range(0, n, 64)), bands, dtype='float16')
    return Cutouts.open(path)

def virtual(p, m, n):
    "As many cutouts as are asked for, of 64 that are there: for speeds"
    import h5py
    path = p.new()/'many.h5'
    few = blobs(path, m.bands, m.img_size[0], 64)
    m.scaling = fit_scaling(few, 64)
    with h5py.File(path, 'r+') as f: f['cutouts'].resize(n, 0)
    return Cutouts.open(path)

def survey(p, n=2048):
    "The cutouts that most checks share"
    if p.quick: n = min(n, 192)
    path = p.folder/f'survey-{n}.h5'
    return Cutouts.open(path) if path.exists() else blobs(path, 'ugriz', 32, n)

def learner(p, device=None, out=None, n=2048, bs=64, model='tiny', **options):
    "A learner of the smallest model, from the same weights each time"
    torch.manual_seed(0)
    if p.quick: n,bs = min(n, 192),min(bs, 32)
    rows = np.arange(n)
    learn = pretrain_learner(cutout_dls(survey(p, n), 32, bs=bs, split=(rows[64:], rows[:64]), device=device or p.device), MAE.preset(model, img_size=32), out or p.new(), **options)
    learn.remove_cbs([learn.figures, learn.online_probe])
    return learn

class Losses(Callback):
    "Keeps what each step lost, on the device"
    run_valid = False
    def __init__(self, most=None): self.found,self.rows,self.most = [],[],most
    def after_batch(self):
        self.found.append(self.loss.detach().clone())
        self.rows.append(self.yb[0].clone())
        if len(self.found) == self.most: raise Enough()
    def numbers(self): return torch.stack(self.found).float().cpu().numpy()

def lost(learn, steps):
    "The losses of so many steps, and the rows of each"
    kept = Losses(steps)
    learn.add_cb(kept)
    try: learn.fit(1 + steps//len(learn.dls.train))
    except Enough: pass
    return kept.numbers(), torch.cat(kept.rows).cpu().numpy()

def same_bits(a, b):
    "Are two states the same tensors?"
    return a.keys() == b.keys() and all(torch.equal(a[k].cpu(), b[k].cpu()) for k in a if not k.startswith('random'))

class Clock(Callback):
    "Images per second of the steps after the first ones"
    order,run_valid = 1000,False
    def __init__(self, first, n): self.first,self.n,self.k = first,n,0
    def before_fit(self): self.since = time.perf_counter()
    def now(self):
        if self.dls.device.type != 'cuda': return time.perf_counter()
        torch.cuda.synchronize()
        torch.cuda._sleep(1)        # a mark between what a profiler sees
        return time.perf_counter()
    def after_batch(self):
        self.k += 1
        if self.k == self.first: self.since = self.now()
        if self.k == self.first+self.n:
            self.each = (self.now()-self.since)/self.n
            raise Enough()

def speed(p, preset, bs=None, steps=20, first=10, **options):
    "Images per second of whole steps of pretraining, batch (None: the default one), and peak memory in GiB"
    if p.quick: preset,bs,steps,first = 'tiny',16,2,2
    m = MAE.preset(preset)
    bs = bs or usual_bs(m, p.device, 10**6)
    n = (steps+first+2)*bs
    dls = cutout_dls(virtual(p, m, n+64), m.img_size, split=(np.arange(64, n+64), np.arange(64)), device=p.device, bs=bs)
    learn = pretrain_learner(dls, m, p.new(), **options)
    learn.remove_cbs([learn.figures, learn.online_probe])
    clock = Clock(first, steps)
    learn.add_cb(clock)
    if p.real: torch.cuda.reset_peak_memory_stats()
    try: learn.fit(2)
    except Enough: pass
    memory = torch.cuda.max_memory_allocated()/2**30 if p.real else None
    return dict(images_per_s=round(bs/clock.each), bs=bs, gib=memory and round(memory, 1))

# ---- the checks: each returns (is it as it should be, numbers)

def forward_alike(p):
    "The same weights give the same on both, in float32; in bfloat16 to its error"
    worst = {}
    kinds = dict(mae=MAE.preset('tiny', img_size=32), cross=MAE.preset('tiny', img_size=32, decoder='cross', predict_ratio=.5),
                 vitae=MAE.preset('tiny', img_size=32, block='vitae'), swin=SimMIM.preset('tiny', img_size=32))
    for name,m in kinds.items():
        c = survey(p)
        m.scaling = fit_scaling(c, 256)
        x = torch.from_numpy(c[:32])
        noise = uniform(0, 0, torch.arange(32), m.n_noise, 'mask')
        def asked(device, half=None):
            m.to(device)
            with torch.no_grad(), torch.autocast(device.type, half, enabled=half is not None): return m(x.to(device), generator=noise.to(device)).loss.item()
        here = asked(torch.device('cpu'))
        worst[name] = [abs(asked(p.device, o)/here-1) for o in (None, torch.bfloat16)]
    p.needs_numbers()
    full,half = (max(o[k] for o in worst.values()) for k in (0,1))
    return full < 1e-4 and half < 2e-2, dict(float32=full, bfloat16=half)

def steps_alike(p):
    "Twenty steps on CPU and device, in float32: the same objects, losses within 1e-3"
    steps = 5 if p.quick else 20
    (a,rows_a),(b,rows_b) = (lost(learner(p, device=o, amp=''), steps) for o in (torch.device('cpu'), p.device))
    p.needs_numbers()
    same = bool((rows_a == rows_b).all())
    apart = float(np.abs(b/a-1).max())
    return same and apart < 1e-3, dict(same_objects=same, apart=apart)

def halves_learn(p):
    "200 steps in bfloat16 and in float16 end where float32 does, within 2 %; of float16's first steps fewer than 5 are left out"
    if p.device.type == 'cpu': raise NotChecked('half precision is for GPUs')
    steps,found = (3 if p.quick else 200),{}
    for amp in ('','bf16','fp16'):
        learn = learner(p, amp=amp)
        found[amp] = float(lost(learn, steps)[0][-20:].mean())
        found[f'skipped {amp}'] = int(learn.safe_step.skipped)
    p.needs_numbers()
    apart = {o: abs(found[o]/found['']-1) for o in ('bf16','fp16')}
    return max(apart.values()) < .02 and found['skipped bf16'] == 0 and found['skipped fp16'] < 5, found | apart

def twice_the_same(p):
    "The deterministic option gives the same bits twice: usual, object scaling, noise and cosmic rays"
    found = {}
    for name,options in dict(usual={}, object=dict(scaling='object'), noise=dict(augment='noise,cosmic_rays')).items():
        states = []
        for _ in range(2):
            learn = learner(p, n=256, deterministic=True, **options)
            learn.fit(1)
            states.append(learn.state()[0])
        found[name] = same_bits(*states)
    p.needs_numbers()
    return all(found.values()), found

def resumed(p):
    "A run that is broken off at step 5 and continued ends with the bits of one that was not"
    make = partial(learner, p, n=256, deterministic=True, save_minutes=0)
    through = make()
    through.fit(2)
    out = p.new()
    broken = make(out=out)
    broken.add_cb(Losses(5))
    try: broken.fit(2)
    except Enough: pass
    again = make(out=out)
    again.fit(2)
    same = same_bits(again.state()[0], through.state()[0])
    p.needs_numbers()
    return same and again.step == through.step, dict(steps=again.step, same_bits=same)

class Strict(Callback):
    "An error for every wait, between the first steps and the last"
    order,run_valid = 1000,False
    def __init__(self, first, last): self.first,self.last,self.k = first,last,0
    def after_batch(self):
        self.k += 1
        if self.k == self.first: torch.cuda.set_sync_debug_mode('error')
        if self.k == self.last: raise Enough()

def no_waits(p):
    "50 steps of which none waits for the device"
    if p.device.type == 'cpu': raise NotChecked('there is no GPU')
    first,last = (8,14) if p.quick else (10,60)
    learn = learner(p, bs=8 if p.quick else 32)  # all of them steps of one epoch
    learn.history.every = math.inf              # a line each ten seconds, for which it waits once
    learn.add_cb(Strict(first, last))
    try: learn.fit(2)
    except Enough: return True, dict(steps=last-first)
    except RuntimeError as e:
        if 'synchroniz' not in str(e): raise
        import traceback
        return False, dict(waits=[f'{o.filename.split("/astromask/")[-1]}:{o.lineno}' for o in traceback.extract_tb(e.__traceback__) if '/astromask/' in o.filename][-2:])
    finally: torch.cuda.set_sync_debug_mode('default')

def between_marks(events):
    "What the device did between the two marks of a `Clock`, in order"
    events = sorted((e for e in events if e.device_type == torch.autograd.DeviceType.CUDA), key=lambda e: e.time_range.start)
    first,last = [i for i,e in enumerate(events) if 'spin_kernel' in e.name]
    return events[first+1:last]

def step_profile(events, steps):
    "Of steps on a device: kernels of one, the share of the time in which nothing runs, and whether attention is a flash kernel"
    spans = [(e.time_range.start, e.time_range.end) for e in events]
    busy = sum(b-a for a,b in spans)/(max(b for _,b in spans)-spans[0][0])
    kernels = [e.name for e in events if not e.name.startswith(('Memcpy','Memset'))]
    return dict(kernels=len(kernels)/steps, idle=round(1-min(1, busy), 3), flash=any('flash' in o for o in kernels))

def kernels_known(preset):
    "Of a step, as the stand-in counts them"
    return json.loads((Path(__file__).parents[1]/'tests'/'nullgpu'/'ceilings.json').read_text())['step'][preset]['kernels']

def idle(p):
    "As the profiler sees steps of small and vit_b: kernels within 15 % of the stand-in's, flash attention; for vit_b idle for less than 10 % of the time"
    p.needs_gpu()
    from torch.profiler import ProfilerActivity, profile
    found,steps = {},6
    for preset in ('small','vit_b'):
        with profile(activities=[ProfilerActivity.CUDA]) as prof: rate = speed(p, preset, steps=steps, first=6)
        found[preset] = step_profile(between_marks(prof.events()), steps) | dict(known=kernels_known(preset)) | rate
    alike = all(o['flash'] and abs(o['kernels']/o['known']-1) < .15 for o in found.values())
    return alike and found['vit_b']['idle'] < .1, found

def peak(p, dtype=torch.bfloat16, n=8192):
    "What the device multiplies matrices with, TFLOP/s"
    a = torch.randn(n, n, device=p.device, dtype=dtype)
    for _ in range(3): a @ a
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20): a @ a
    torch.cuda.synchronize()
    return 20*2*n**3/(time.perf_counter()-began)/1e12

def flops(preset):
    "Of a step, for an image: forward, and backward at twice that"
    from torch.utils.flop_counter import FlopCounterMode
    m = MAE.preset(preset)
    x = torch.randn(1, len(m.bands), *m.img_size)
    with FlopCounterMode(display=False) as count, torch.no_grad(): m(x, generator=torch.rand(1, m.n_noise))
    return 3*count.get_total_flops()

KNOWN = dict(small=150_000, vit_s=45_000, vit_b=3_800)      # images/s on an H200: 70 % of what notes/gpu.md models at a batch of 1024

def speeds(p):
    "Images per second of small, vit_s and vit_b at their default batch, beside what the device's own matrix product would allow"
    found = {k: speed(p, k) for k in KNOWN}
    p.needs_gpu()
    top = peak(p)
    for k,o in found.items(): o['of_peak'] = round(o['images_per_s']*flops(k)/top/1e12, 3)
    found['peak_tflops'] = round(top)
    fast = not any(o in p.name for o in ('H100','H200')) or all(found[k]['images_per_s'] >= v for k,v in KNOWN.items())
    return found['vit_b']['of_peak'] >= .35 and fast, found

def recorded(p):
    "A recorded step (a CUDA graph) of small at a batch of 64 is at least twice as fast as one taken operation by operation"
    if p.device.type == 'cpu': raise NotChecked('CUDA graphs are for GPUs')
    found = {name: speed(p, 'small', 64, record=on)['images_per_s'] for name,on in dict(recorded=True, one_by_one=False).items()}
    p.needs_numbers()
    return found['recorded'] >= 2*found['one_by_one'], found

class Graphs(Callback):
    "How many graphs were compiled when each epoch ended"
    def __init__(self): self.found = []
    def after_epoch(self): self.found.append(counters['stats']['unique_graphs'])

def compiled(p):
    "A compiled model is ready in three minutes, loses the same within 1e-2, and is not compiled again in a second epoch"
    p.needs_gpu()
    steps = 5
    plain = lost(learner(p, amp='bf16'), steps)[0]
    began = time.perf_counter()
    found = lost(learner(p, amp='bf16', compile=True), steps)[0]
    seconds = time.perf_counter()-began
    apart = float(np.abs(found/plain-1).max())
    learn,graphs = learner(p, n=256, amp='bf16', compile=True),Graphs()
    learn.add_cb(graphs)
    learn.fit(2)
    again = graphs.found[1]-graphs.found[0]
    return seconds < 180 and apart < 1e-2 and not again, dict(seconds=round(seconds), apart=apart, graphs=graphs.found[0], again=again)

def loaders(p):
    "Batches from the device's memory, the host's and the file: a step waits less than 5 % of its time for resident ones"
    found = {}
    for name,memory in dict(device=None, host=1<<40, file=0).items():
        m = MAE.preset('tiny' if p.quick else 'small')
        bs,n = (16,160) if p.quick else (1024,20_480)
        dls = cutout_dls(virtual(p, m, n), m.img_size, bs=bs, split=(np.arange(64, n), np.arange(64)), device=p.device, memory=memory)
        if name == 'host' and dls.train.dataset.kept: dls.train.dataset.kept = [o.cpu() for o in dls.train.dataset.kept]
        learn = pretrain_learner(dls, m, p.new())
        learn.remove_cbs([learn.figures, learn.online_probe])
        began = time.perf_counter()
        try:
            learn.add_cb(Losses(len(dls.train)))
            learn.fit(1)
        except Enough: pass
        if p.real: torch.cuda.synchronize()
        seconds = time.perf_counter()-began
        found[name] = dict(waiting=round(dls.train.waited/seconds, 3), images_per_s=round(len(dls.train)*bs/seconds))
    p.needs_gpu()
    return found['device']['waiting'] < .05, found

NEED = dict(vit_b=53, vit_l=83)     # GiB of a step at a batch of 1024 in bfloat16, as notes/gpu.md models it

def memory(p):
    "What steps of vit_b and vit_l need at a batch of 1024 in bfloat16: within 8 GiB of the model (that the default batch fits, `speeds` shows)"
    p.needs_gpu()
    there = torch.cuda.get_device_properties(p.device).total_memory/2**30
    found = {k: speed(p, k, 1024, steps=3, first=2, record=False)['gib'] for k,v in NEED.items() if there > v+20}
    if not found: raise NotChecked(f'the GPU has {there:.0f} GiB')
    return all(abs(v-NEED[k]) < 8 for k,v in found.items()), found

@contextmanager
def no_more_memory(p, room):
    "So many bytes of the device may be taken beyond what is"
    most = torch.cuda.memory_reserved(p.device)+room
    torch.cuda.set_per_process_memory_fraction(most/torch.cuda.get_device_properties(p.device).total_memory, p.device)
    try: yield
    finally: torch.cuda.set_per_process_memory_fraction(1., p.device)

def too_large(p):
    "Blocks, and batches, that do not fit into the memory end a table, and a training, in one sentence, which says what to do"
    if p.device.type == 'cpu': raise NotChecked('there is no GPU')
    c = blobs(p.new()/'survey.h5', 'ugriz', 32, 4096)
    m = MAE.preset('tiny', img_size=32)
    m.scaling = fit_scaling(c, 64)
    def table(bs): return lambda: table_of(embedding(m), [str(c.files[0])], p.new()/'table.parquet', bs=bs, device=str(p.device), progress=False)
    def training(bs):
        rows = np.arange(len(c))
        dls = cutout_dls(c, 32, bs=bs, split=(rows[64:], rows[:64]), device=p.device)
        learn = pretrain_learner(dls, MAE.preset('tiny', img_size=32), p.new())
        learn.remove_cbs([learn.figures, learn.online_probe])
        return lambda: learn.fit(1)
    said = {}
    for name,of in dict(table=table, training=training).items():
        of(64)()
        large = of(2048)                                     # with its pixels, 40 MiB
        torch.cuda.empty_cache()
        with no_more_memory(p, 32*2**20):
            try: large()
            except InputError as e: said[name] = str(e)
    wanted = dict(table='Blocks of 2048 objects', training='Batches of 2048 objects')
    return all(v in said.get(k, '') for k,v in wanted.items()), dict(said=said)

def embedded(p):
    "Vectors of 50,000 cutouts, of the device and of the CPU: cosine over 0.9999 in float32, over 0.999 as they are by default; and how many per second"
    c = survey(p, 50_000)
    m = MAE.preset('tiny', img_size=32)
    m.scaling = fit_scaling(c, 256)
    def vectors(device, amp=None): return np.asarray(embed_cutouts(m.to(device), c, progress=False, amp=amp)['embedding'])
    here,full = vectors('cpu'),vectors(p.device, '')
    began = time.perf_counter()
    usual = vectors(p.device)
    rate = round(len(c)/(time.perf_counter()-began))
    p.needs_numbers()
    full,usual = (float(((here*o).sum(1)/np.linalg.norm(here, axis=1)/np.linalg.norm(o, axis=1)).min()) for o in (full,usual))
    return full > .9999 and usual > .999, dict(float32=full, usual=usual, per_s=rate)

def saved(p):
    "A checkpoint of vit_b holds the training up for less than a second, and is written in ten"
    m = MAE.preset('tiny' if p.quick else 'vit_b')
    dls = cutout_dls(virtual(p, m, 128), m.img_size, bs=16, split=(np.arange(64, 128), np.arange(64)), device=p.device)
    learn = pretrain_learner(dls, m, p.new(), save_minutes=1e9)
    learn.remove_cbs([learn.figures, learn.online_probe])
    learn.fit(1)
    began = time.perf_counter()
    learn.checkpoints.try_to_save()
    held = time.perf_counter()-began
    learn.checkpoints.collect()
    written = time.perf_counter()-began
    return held < 1 and written < 10, dict(held_s=round(held, 2), written_s=round(written, 2))

CHILD = """import os, sys, torch
sys.path.insert(0, sys.argv[1])
import gpu_check
from pathlib import Path
torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
p = gpu_check.place(Path(sys.argv[2]), 'cuda')
learn = gpu_check.learner(p, device=torch.device('cuda', int(os.environ['LOCAL_RANK'])), out=Path(sys.argv[2])/'two', n=256, deterministic=True, amp='')
learn.fit(1)
"""

def two_ranks(p):
    "Two processes over NCCL, on two GPUs, train to what one does, within 1e-3"
    p.needs_gpu()
    if torch.cuda.device_count() < 2: raise NotChecked('there is one GPU')
    one = learner(p, n=256, deterministic=True, amp='')
    one.fit(1)
    (p.folder/'child.py').write_text(CHILD)
    subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', p.folder/'child.py', str(Path(__file__).parent), str(p.folder)], check=True)
    from astromask.train.checkpoint import newest_checkpoint
    two = newest_checkpoint(p.folder/'two'/'checkpoints')[0]
    apart = max(float((v.cpu()-two[f'model.{k}'].cpu()).norm()/v.cpu().norm().clamp(min=1e-6)) for k,v in one.model.state_dict().items() if v.is_floating_point())
    return apart < 1e-3, dict(apart=apart)

CHECKS = [forward_alike, steps_alike, halves_learn, twice_the_same, resumed, no_waits, idle, speeds, recorded, compiled, loaders, memory, too_large, embedded, saved, two_ranks]

# ---- all of them

def checked(check, p):
    "What a check found, however it ends"
    began = time.perf_counter()
    try:
        good,numbers = check(p)
        found = dict(result='good' if good else 'BAD', numbers=numbers)
    except NotChecked as e: found = dict(result='not checked', why=str(e))
    except Exception as e: found = dict(result='BAD', why=f'{type(e).__name__}: {" ".join(str(e).split())[:300]}')
    return dict(check=check.__name__, asks=check.__doc__, **found, seconds=round(time.perf_counter()-began, 1))

def line(o):
    told = o.get('why') or ', '.join(f'{k} {v:.3g}' if isinstance(v, float) else f'{k} {v}' for k,v in o['numbers'].items())
    return f'{o["check"].replace("_", " "):16}{o["result"]:>12}{o["seconds"]:8.1f} s  {told}'

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='gpu-check.json', help='where what was found is written')
    parser.add_argument('--minutes', type=float, default=9, help='checks that would begin later are left out, and said so')
    parser.add_argument('--device', default='', help='cuda or cpu; empty takes a GPU where there is one')
    parser.add_argument('--only', default='', help='names of checks, with commas')
    o = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix='astromask-gpu-') as folder:
        p = place(Path(folder), o.device)
        print(f'{p.name}, torch {torch.__version__}\n')
        found = []
        for check in CHECKS:
            if o.only and check.__name__ not in o.only.split(','): continue
            late = time.perf_counter()-began > 60*o.minutes
            found.append(dict(check=check.__name__, asks=check.__doc__, result='not checked', why=f'{o.minutes:g} minutes were over', seconds=0.) if late else checked(check, p))
            print(line(found[-1]), flush=True)
    seconds = time.perf_counter()-began
    results = [o['result'] for o in found]
    write_json(Path(o.out), dict(device=p.name, torch=torch.__version__, seconds=round(seconds), checks=found))
    print(f'\n{results.count("good")} good, {results.count("BAD")} bad, {results.count("not checked")} not checked, in {seconds:.0f} s: {o.out}')
    sys.exit('BAD' in results)

if __name__ == '__main__': main()
