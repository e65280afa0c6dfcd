"Killed anywhere, a run ends with the same bits: real processes, real signals, and failures at every call to the system"
import builtins, hashlib, json, os, random, shutil, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from astromask.core import AstroMaskError, InputError, RunDir, StorageError, Unfinished
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.models.mae import MAE
from astromask.models.simmim import SimMIM
from astromask.models.weights import load_model
from astromask.train import checkpoint
from astromask.train.checkpoint import checkpoints, newest_checkpoint, save_checkpoint, verify
from astromask.train.pretrain import pretrain_learner
from toys import bound, elsewhere
import logging

class Zygote:
    "The process that starts runs"
    def __init__(self):
        env = os.environ | dict(OMP_NUM_THREADS='1')
        self.p = subprocess.Popen([sys.executable, Path(__file__).with_name('zygote.py')], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert self.p.stdout.readline() == 'ready\n'
    def start(self, **job):
        self.p.stdin.write(json.dumps(job | dict(data=str(job['data']), out=str(job['out']))) + '\n')
        self.p.stdin.flush()
        return int(self._line())
    def end(self): return int(self._line())
    def _line(self):
        while True:
            line = self.p.stdout.readline().strip()
            if line.lstrip('-').isdigit(): return line
            assert line or self.p.poll() is None, 'the zygote died'
    def run(self, **job):
        self.start(**job)
        return self.end()

@pytest.fixture(scope='module')
def zygote():
    z = Zygote()
    yield z
    z.p.stdin.close()
    z.p.wait(60)

@pytest.fixture(scope='module')
def survey(tmp_path_factory):
    "Cutouts in two bands, some of them damaged, in a file of several blocks"
    rng,path = np.random.default_rng(0),tmp_path_factory.mktemp('data')/'survey.h5'
    x = rng.normal(0, 1, (120,2,32,32)).astype('float32')
    x[3],x[5,1],x[7,:,:,20:] = np.nan,np.nan,np.nan
    Cutouts.write(path, x, bands='gr')
    return path

def outcome(out):
    "The weights, and the numbers of history.csv that are not times"
    rows = [r.split(',') for r in (out/'history.csv').read_text().splitlines()]
    timed = [rows[0].index(k) for k in ('seconds','images_per_second','stalled')]
    return hashlib.sha256((out/'model/model.safetensors').read_bytes()).hexdigest(), [[v for i,v in enumerate(r) if i not in timed] for r in rows]

@pytest.fixture(scope='module')
def averaged(survey, tmp_path_factory):
    "The outcome of a run of two epochs with a mean of the weights"
    new_learner(survey, out := tmp_path_factory.mktemp('averaged')/'run', ema=.9).fit(2)
    return outcome(out)

inside_a_save = []

def wait_for_a_save(out, seconds=2):
    "Return while a checkpoint is being written (or after `seconds`: the run may be over)"
    end = time.monotonic()+seconds
    while not any((out/'checkpoints').glob('.writing-*')) and time.monotonic() < end: time.sleep(.0005)


KILLS = int(os.environ.get('ASTROMASK_KILLS', 13))    # of each variant
VARIANTS = [dict(method='mae', workers=0, ema=.9), dict(method='mae', workers=2, memory=0, ema=.9),
            dict(method='simmim', workers=0, memory=0, ema=.9), dict(method='simmim', workers=2, ema=.9)]

@pytest.mark.slow
@pytest.mark.parametrize('variant', VARIANTS, ids=lambda v: f'{v["method"]}-{v["workers"]}')
def test_killed_at_random_it_ends_with_the_same_bits(zygote, survey, tmp_path, variant):
    "SIGKILL at 13 random moments (ASTROMASK_KILLS=125: at so many), every third inside the next save: 52 kills in all"
    job = dict(data=survey, epochs=3, **variant)
    start = time.monotonic()
    assert zygote.run(out=tmp_path/'whole', **job) == 0
    seconds,rng,killed,inside = time.monotonic()-start,random.Random(str(variant)),0,0
    out = tmp_path/'killed'
    for _ in range(30*KILLS):
        pid = zygote.start(out=out, **job)
        if killed < KILLS:
            time.sleep(rng.uniform(.1, .5)*seconds)
            if killed%3 == 0: wait_for_a_save(out)
            try: os.kill(pid, signal.SIGKILL)
            except ProcessLookupError: pass
        code = zygote.end()
        killed += code == -9
        inside += code == -9 and any((out/'checkpoints').glob('.writing-*'))
        if code == 0:
            assert outcome(out) == outcome(tmp_path/'whole')
            if killed >= KILLS: break
            shutil.rmtree(out)                                   # it was faster than the kills: once more from the beginning
    assert code == 0 and killed >= KILLS
    assert not any((out/'checkpoints').glob('.writing-*'))
    inside_a_save.append(inside)

@pytest.mark.slow
def test_some_were_killed_inside_a_save():
    "Or the test before proves less than it says"
    if len(inside_a_save) < len(VARIANTS): pytest.skip('runs after all kills')
    print(f'{sum(inside_a_save)} of {KILLS*len(VARIANTS)} kills came while saving')
    assert sum(inside_a_save) >= 3

def new_learner(survey, out, method='mae', **kw):
    torch.manual_seed(0)
    c = Cutouts.open(survey)
    m = dict(mae=MAE, simmim=SimMIM)[method].preset('tiny', bands=c.bands)
    learn = pretrain_learner(cutout_dls(c, 32, bs=16, valid=.2, device='cpu'), m, out, **kw)
    learn.remove_cb(learn.figures)                             # not what is tested, and slow
    learn.figures = SimpleNamespace(try_to_draw=lambda: None)
    return learn

class At(Callback):
    "Do something after some step"
    order = 65
    def __init__(self, step, do): self.at,self.do = step,do
    def after_batch(self):
        if self.training and self.learn.step == self.at: self.do()

slowly = pytest.mark.slow

@pytest.mark.parametrize('method,kw', [pytest.param('mae', dict(ema=.9), marks=slowly), pytest.param('simmim', {}, marks=slowly), pytest.param('mae', dict(amp='bf16', accumulate=2), marks=slowly),
                                       pytest.param('mae', dict(amp='fp16', ema=.5, optimizer='nadamuon'), marks=slowly)],
                         ids=lambda o: '-'.join(map(str, o)) if isinstance(o, dict) else o)
def test_stopped_at_every_step(survey, tmp_path, method, kw):
    "Whatever the step, inside an epoch and at its end: the same weights, losses and optimizer"
    whole = new_learner(survey, tmp_path/'whole', method, **kw)
    whole.fit(2)
    tensors = whole.state()[0]
    for step in range(1, whole.step+1):
        out = tmp_path/f'stop{step}'
        learn = new_learner(survey, out, method, **kw)
        learn.add_cb(At(step, lambda: learn.out.request_stop()))
        with pytest.raises(Unfinished, match=f'step {step}'): learn.fit(2)
        learn.out.clear_stop()
        again = new_learner(survey, out, method, **kw)
        again.fit(2)
        assert outcome(out) == outcome(tmp_path/'whole')
        ours = again.state()[0]
        assert ours.keys() == tensors.keys() and all(torch.equal(ours[k], tensors[k]) for k in tensors if not k.startswith('random'))

def test_signals_set_a_flag(zygote, survey, tmp_path):
    "Ctrl-C, and a storm of SIGUSR1 and SIGTERM: the step is finished, one valid checkpoint more, code 75, and on it goes"
    job = dict(data=survey, epochs=6)
    assert zygote.run(out=tmp_path/'whole', **job) == 0
    for k,storm in enumerate(((signal.SIGINT,), 3*(signal.SIGUSR1,)+(signal.SIGTERM,))):
        out = tmp_path/f'run{k}'
        pid = zygote.start(out=out, **job)
        while not any(checkpoints(out/'checkpoints')): time.sleep(.01)
        for number in storm: os.kill(pid, number)
        assert zygote.end() == 75
        for path in checkpoints(out/'checkpoints'): verify(path)
        assert zygote.run(out=out, **job) == 0
        assert outcome(out) == outcome(tmp_path/'whole')

def _calls(monkeypatch, fail_at):
    "Count calls that change the disk, and let one of them fail"
    seen = [0]
    def guard(f):
        def g(*args, **kw):
            seen[0] += 1
            if seen[0] == fail_at: raise OSError(5, 'Input/output error')
            return f(*args, **kw)
        return g
    for module,names in ((os, ('open','write','fsync','replace','rename','mkdir','close')),):
        for name in names: monkeypatch.setattr(module, name, guard(getattr(module, name)))
    monkeypatch.setattr(builtins, 'open', guard(builtins.open))
    return seen

def test_a_failure_at_any_system_call(tmp_path, monkeypatch):
    "Each call in turn fails: the old checkpoint or the new one is whole, and the next save works"
    w = {k: torch.full((100,), float(k)) for k in (1,2,3)}
    n = 1
    while True:
        folder = tmp_path/str(n)
        save_checkpoint(folder, 1, dict(w=w[1]), dict(at=1), keep=1)
        with monkeypatch.context() as patch:
            seen = _calls(patch, n)
            try: save_checkpoint(folder, 2, dict(w=w[2]), dict(at=2), keep=1)
            except (AstroMaskError, OSError) as e: error = e
            else: error = None
        tensors,state,path = newest_checkpoint(folder)
        assert (tensors['w'] == w[state['at']]).all() and state['at'] in (1,2)
        assert error is None or isinstance(error, StorageError), repr(error)
        save_checkpoint(folder, 3, dict(w=w[3]), dict(at=3), keep=1)
        assert newest_checkpoint(folder)[1] == dict(at=3) and not list(folder.glob('.writing*'))
        if seen[0] < n: break
        n += 1
    assert n > 10

def test_what_stays(tmp_path):
    "The newest, the best, and what was loaded; a damaged one is neither"
    def save(step, **kw): return save_checkpoint(tmp_path, step, dict(w=torch.zeros(3)), dict(score={3: .1}.get(step, 1.)), keep=1, **kw)
    first = save(1)
    for step in (2,3,4,5): save(step, loaded=first)
    assert [int(p.name[5:]) for p in checkpoints(tmp_path)] == [5,3,1]
    (tmp_path/'step-000000005'/'tensors.safetensors').write_bytes(b'')
    assert newest_checkpoint(tmp_path)[2].name == 'step-000000003'
    assert save(5, loaded=first).name == 'step-000000005' and verify(tmp_path/'step-000000005') is None   # a damaged one of the same step is replaced

def test_a_failed_save_is_tried_again_and_ends_the_run(survey, tmp_path, monkeypatch, caplog):
    fails = []
    def save(*args, **kw):
        fails.append(len(fails))
        if len(fails) in (2,3) or len(fails) > 8: raise StorageError('/disk is full')
        return save_checkpoint(*args, **kw)
    monkeypatch.setattr('astromask.train.callbacks.save_checkpoint', save)
    learn = new_learner(survey, tmp_path/'run', save_minutes=0)
    learn.checkpoints.wait = 0
    with pytest.raises(StorageError, match='full'): learn.fit(20)
    assert len(fails) == 8+5 and newest_checkpoint(tmp_path/'run'/'checkpoints')[1]['step'] == 8

def test_no_room_is_said_before_training(survey, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10**9, 10**9-10**5, 10**5))
    learn = new_learner(survey, tmp_path/'run')
    with pytest.raises(StorageError, match='free'): learn.fit(1)
    assert learn.step == 0

@pytest.mark.parametrize('closed', ['.','checkpoints','model'])
def test_a_directory_that_cannot_be_written_is_said_before_training(survey, tmp_path, closed):
    out = tmp_path/'run'
    learn = new_learner(survey, out)
    (out/closed).mkdir(exist_ok=True)
    (out/closed).chmod(0o555)
    with bound():
        try: (out/closed/'x').touch()
        except PermissionError: pass
        else: pytest.skip('permissions do not bind root here')
        with pytest.raises(StorageError, match=f'^Could not write {(out/closed).resolve()}: Permission denied; check the folder and its permissions$'): learn.fit(1)
    assert learn.step == 0 and not (out/'history.csv').exists() and not list(out.rglob('*.safetensors'))
    (out/closed).chmod(0o755)
    learn.fit(1)
    assert load_model(out).bands == ('g','r')

def test_another_task_is_refused_with_the_difference(survey, tmp_path):
    new_learner(survey, tmp_path/'run').fit(1)
    x = Cutouts.open(survey)[:]
    other = Cutouts.write(tmp_path/'other.h5', x+1, bands='gr')
    same = Cutouts.write(tmp_path/'elsewhere.h5', x, bands='gr', catalog=dict(id=Cutouts.open(survey).catalog['id']))
    for kw,says in ((dict(lr=.1), 'lr'), (dict(amp='bf16'), 'amp'), (dict(ema=.9), 'ema'), (dict(schedule='constant'), 'schedule')):
        with pytest.raises(InputError, match=f'begun with {says} .*now it is'): new_learner(survey, tmp_path/'run', **kw).fit(2)
    with pytest.raises(InputError, match='begun with (data|scaling)'): new_learner(other, tmp_path/'run').fit(2)
    c = Cutouts.open(survey)
    m = MAE.preset('tiny', bands='gr', embed_dim=64)
    with pytest.raises(InputError, match="the model's embed_dim 32, and now it is 64"): pretrain_learner(cutout_dls(c, 32, bs=16, valid=.2, device='cpu'), m, tmp_path/'run').fit(2)
    new_learner(same, tmp_path/'run').fit(2)                                 # the same objects in another file

@pytest.mark.parametrize('parts', (2, 4))
def test_parts_of_a_batch_make_the_same_step(survey, tmp_path, parts):
    "Also where parts have unequal numbers of targets"
    whole,cut = new_learner(survey, tmp_path/'a'),new_learner(survey, tmp_path/'b', accumulate=parts)
    for learn in (whole,cut): learn.fit(1)
    for (k,a),(_,b) in zip(whole.model.named_parameters(), cut.model.named_parameters()):
        if k.endswith('qkv.bias'): a,b = (torch.cat([q, v]) for q,_,v in (o.chunk(3) for o in (a, b)))    # what is added to all keys changes nothing: its gradient is rounding, which AdamW makes a step of
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5, msg=k)
    assert abs(whole.history.rows[0]['train_loss']-cut.history.rows[0]['train_loss']) < 1e-5

def test_objects_without_a_finite_loss_are_named(survey, tmp_path, monkeypatch, caplog):
    "Float32's end in one object: its steps are left out, it is named, and nothing is destroyed"
    x = Cutouts.open(survey)[:]
    path = Cutouts.write(tmp_path/'wild.h5', x, bands='gr')
    learn = new_learner(path, tmp_path/'run')
    row = int(learn.dls.train.rows[5])
    forward = learn.forward
    def broken(batch): return (lambda o: o._replace(loss=torch.where((batch['x'].nan_to_num().sum((1,2,3)) == mark).any(), torch.nan, o.loss)))(forward(batch))
    kept = learn.dls.train.dataset.kept[0]
    kept[row] = 12345.
    mark = kept[row].sum()
    learn.forward = broken
    logging.getLogger('astromask').propagate = True
    with caplog.at_level('WARNING', 'astromask'): learn.fit(2)
    assert f'wild:{row}' in caplog.text and '1 object(s) (' in caplog.text
    assert int(learn.safe_step.lost) == 2 and all(p.isfinite().all() for p in learn.model.parameters())
    hopeless = new_learner(path, tmp_path/'hopeless')
    hopeless.safe_step.patience = 3
    hopeless.dls.train.dataset.kept[0][:] = 12345.
    mark = hopeless.dls.train.dataset.kept[0][0].sum()
    forward,hopeless.forward = hopeless.forward,broken
    with pytest.raises(AstroMaskError, match=r'5 steps in a row|6 steps in a row'): hopeless.fit(3)

def test_a_mean_of_the_weights(survey, tmp_path):
    "Against its definition, step by step; the model that is left is the mean"
    learn,seen = new_learner(survey, tmp_path/'run', ema=.8),[]
    class Watch(Callback):
        order = 90
        def before_fit(self): seen.append(self.model.norm.weight.detach().clone())
        def after_step(self): seen.append(self.model.norm.weight.detach().clone())
    learn.add_cb(Watch())
    learn.fit(2)
    mean = seen[0]
    for t,w in enumerate(seen[1:]): mean = mean + (1-min(.8, (1+t)/(10+t)))*(w-mean)
    torch.testing.assert_close(learn.average.mean['norm.weight'], mean)
    torch.testing.assert_close(load_model(tmp_path/'run').norm.weight, mean)
    assert torch.equal(learn.model.norm.weight, load_model(tmp_path/'run').norm.weight)       # what one has is what is kept

@pytest.mark.slow
def test_what_is_judged_is_the_mean(survey, tmp_path):
    "Validation sees the mean; and training goes on from the model's own weights, in the same process too"
    seen = []
    class Watch(Callback):
        order = 55
        def after_pred(self):
            if not self.training: seen.append(torch.equal(self.model.norm.weight, self.learn.average.mean['norm.weight']))
    learn = new_learner(survey, tmp_path/'run', ema=.8)
    learn.add_cb(Watch())
    learn.fit(1)
    learn.fit(3)
    assert seen and all(seen)
    for out,epochs in (('again', (1,3)), ('other', (1,3))):
        for n in epochs: new_learner(survey, tmp_path/out, ema=.8).fit(n)
    assert outcome(tmp_path/'run') == outcome(tmp_path/'again')

# ---- what a reader of this code found

def raise_(error): raise error

class Do(Callback):
    "Something at some event of some step"
    order = 66
    def __init__(self, event, step, do): self.step_,self.do = step,do; setattr(self, event, self.now)
    def now(self):
        if self.learn.step == self.step_: self.do()

@pytest.mark.slow
def test_a_compiled_model_trains_and_resumes(survey, tmp_path, monkeypatch):
    "The same numbers as without, to rounding; by the backend that needs no compiler"
    monkeypatch.setattr(torch, 'compile', lambda m: torch._dynamo.optimize('eager')(m))
    elsewhere(lambda: compiled_trains_and_resumes(survey, tmp_path))     # it starts threads, after which no test could fork

def compiled_trains_and_resumes(survey, tmp_path):
    whole = new_learner(survey, tmp_path/'whole', compile=True)
    whole.fit(2)
    learn = new_learner(survey, tmp_path/'run', compile=True)
    learn.add_cb(At(7, lambda: learn.out.request_stop()))
    with pytest.raises(Unfinished): learn.fit(2)
    new_learner(survey, tmp_path/'run', compile=True).fit(2)
    assert outcome(tmp_path/'run') == outcome(tmp_path/'whole')
    plain = new_learner(survey, tmp_path/'plain')
    plain.fit(2)
    assert abs(plain.history.rows[-1]['valid_loss'] - whole.history.rows[-1]['valid_loss']) < 1e-4

@pytest.mark.parametrize('event,step', [('before_backward',4), ('before_step',4), ('after_step',4), ('after_batch',4), ('before_validate',6)])
def test_broken_off_inside_a_step(survey, averaged, tmp_path, event, step):
    "The same learner goes on from its checkpoint, not from what the broken step left"
    learn = new_learner(survey, tmp_path/'run', ema=.9, save_minutes=0)
    learn.add_cb(broken := Do(event, step, lambda: raise_(ZeroDivisionError('broken'))))
    with pytest.raises(ZeroDivisionError): learn.fit(2)
    learn.remove_cb(broken)
    learn.fit(2)
    assert outcome(tmp_path/'run') == averaged
    fresh = new_learner(survey, tmp_path/'fresh')
    fresh.add_cb(Do(event, step, lambda: raise_(ZeroDivisionError('broken'))))
    with pytest.raises(ZeroDivisionError): fresh.fit(2)
    with pytest.raises(InputError, match='holds no checkpoint'): fresh.fit(2)

def test_killed_between_the_last_save_and_the_validation(survey, tmp_path):
    "The step is saved already when its epoch ends: the history is not lost"
    new_learner(survey, tmp_path/'whole').fit(1)
    learn = new_learner(survey, tmp_path/'run')
    learn.add_cb(At(6, lambda: learn.checkpoints.try_to_save()))
    learn.add_cb(Do('before_validate', 6, lambda: raise_(ZeroDivisionError('killed'))))
    with pytest.raises(ZeroDivisionError): learn.fit(1)
    new_learner(survey, tmp_path/'run').fit(1)
    assert outcome(tmp_path/'run') == outcome(tmp_path/'whole')
    state = newest_checkpoint(tmp_path/'run'/'checkpoints')[1]
    assert (state['step'],state['epochs_done'],len(state['history'])) == (6,1,1)
    new_learner(survey, tmp_path/'run').fit(1)                            # and once more: nothing to do
    assert outcome(tmp_path/'run') == outcome(tmp_path/'whole')

def spoil(learn, steps, value):
    "Let the loss of some steps be a value"
    loss = learn.loss_func
    learn.loss_func = lambda out,rows: loss(out, rows) + (value if learn.step in steps and learn.training else 0.)

def test_infinite_losses_can_be_resumed(survey, tmp_path):
    "Two in one epoch would add up to infinity, which JSON does not know"
    learn = new_learner(survey, tmp_path/'run')
    spoil(learn, (1,2), torch.inf)
    learn.add_cb(At(4, lambda: learn.out.request_stop()))
    with pytest.raises(Unfinished): learn.fit(1)
    again = new_learner(survey, tmp_path/'run')
    again.fit(1)
    row = again.history.rows[0]
    assert np.isfinite(row['train_loss']) and row['train_loss'] < 10 and int(again.safe_step.lost) == int(again.safe_step.skipped) == 2

def test_a_loss_that_is_not_finite_is_not_perfect(survey, tmp_path):
    learn = new_learner(survey, tmp_path/'run')
    spoil(learn, range(100), torch.nan)
    learn.fit(1)
    assert np.isnan(learn.history.rows[0]['train_loss']) and np.isfinite(learn.history.rows[0]['valid_loss'])
    for p in learn.model.parameters(): p.data.fill_(torch.nan)
    learn.safe_step.patience = 1000
    learn.fit(2)
    assert np.isnan(learn.history.rows[1]['valid_loss'])
    assert newest_checkpoint(tmp_path/'run'/'checkpoints')[1]['score'] is None
    assert all(np.isnan(r['train_loss']) for r in new_learner(survey, tmp_path/'run').history.rows)

def test_half_precision_that_never_fits_is_told(survey, tmp_path):
    "Gradients that stay NaN are no overflow that a smaller scale could mend"
    learn = new_learner(survey, tmp_path/'run', amp='fp16')
    learn.safe_step.patience = 5
    learn.add_cb(type('Spoil', (Callback,), dict(order=15, before_step=lambda self: [p.grad.fill_(torch.nan) for p in self.model.parameters()]))())
    with pytest.raises(AstroMaskError, match='steps in a row'): learn.fit(20)

def test_what_cannot_be_written_does_not_end_a_run(survey, tmp_path, monkeypatch):
    "history.csv, figures and probe: told, and tried again"
    learn = new_learner(survey, tmp_path/'run')
    write,failed = RunDir.write,[]
    def full(self, name, *args):
        failed.append(name)
        if len(failed) < 3: raise StorageError('the disk is full')
        return write(self, name, *args)
    monkeypatch.setattr(RunDir, 'write', full)
    vars(learn.online_probe)['measure'] = lambda: raise_(RuntimeError('CUDA out of memory'))
    learn.fit(3)
    assert failed.count('history.csv') >= 3 and len((tmp_path/'run'/'history.csv').read_text().splitlines()) == 4

def test_a_stop_on_a_disk_that_is_full_for_a_moment(survey, tmp_path, monkeypatch):
    fails = []
    def save(*args, **kw):
        fails.append(1)
        if len(fails) < 4: raise StorageError('the disk is full')
        return save_checkpoint(*args, **kw)
    monkeypatch.setattr('astromask.train.callbacks.save_checkpoint', save)
    learn = new_learner(survey, tmp_path/'run')
    learn.checkpoints.wait = 0
    learn.add_cb(At(3, lambda: learn.out.request_stop()))
    with pytest.raises(Unfinished, match='step 3'): learn.fit(1)
    assert newest_checkpoint(tmp_path/'run'/'checkpoints')[1]['step'] == 3 and not learn.out.stop_requested()

def test_a_stop_during_validation_does_not_wait_for_its_end(survey, averaged, tmp_path):
    learn,seen = new_learner(survey, tmp_path/'run', ema=.9),[]
    class Ask(Callback):
        def after_pred(self):
            if self.training: return
            seen.append(1)
            self.learn.stop.asked = True
    learn.add_cb(Ask())
    with pytest.raises(Unfinished, match='step 6'): learn.fit(2)
    assert len(seen) == 1
    new_learner(survey, tmp_path/'run', ema=.9).fit(2)
    assert outcome(tmp_path/'run') == averaged

def unwatched(*args, **kw):
    learn = new_learner(*args, **kw)
    learn.online_probe.ask = lambda: None
    return learn

def test_validation_inside_an_epoch(survey, tmp_path):
    "Weights and the validation at the epoch's end are as without; stopped before a row, or in one, the rows are the same"
    plain = unwatched(survey, tmp_path/'plain', ema=.9)
    plain.fit(1)
    unwatched(survey, tmp_path/'whole', ema=.9, valid_steps=2).fit(1)
    sha,(names,*rows) = outcome(tmp_path/'whole')
    assert sha == outcome(tmp_path/'plain')[0] and rows[-1][names.index('valid_loss')] == str(plain.history.rows[-1]['valid_loss'])
    assert [r[:2] for r in rows] == [['1','2'],['1','4'],['1','6']] and len({r[2] for r in rows}) == 3
    class Ask(Callback):
        def after_pred(self):
            if not self.training and self.learn.step == 4: self.learn.stop.asked = True
    for k,cb in enumerate((At(2, lambda: learn.out.request_stop()), Ask())):
        out = tmp_path/f'stopped{k}'
        learn = unwatched(survey, out, ema=.9, valid_steps=2)
        learn.add_cb(cb)
        with pytest.raises(Unfinished): learn.fit(1)
        unwatched(survey, out, ema=.9, valid_steps=2).fit(1)
        assert outcome(out) == (sha,[names,*rows])
    unwatched(survey, tmp_path/'plain', ema=.9, valid_steps=4).fit(2)            # begun by epochs, continued by steps
    assert [r[1] for r in outcome(tmp_path/'plain')[1][1:]] == ['6','8','12']

def test_a_run_by_steps(survey, tmp_path):
    "It ends inside an epoch, masks and validations go by steps; stopped before a row, where an epoch ends, after the last step, or killed before the last row: the same"
    kw = dict(steps=15, valid_steps=4, mask_ratio_start=.25, ema=.9)
    whole = unwatched(survey, tmp_path/'whole', **kw)
    whole.fit(1)
    assert (whole.step,whole.epochs_done,whole.batch) == (15,2,3)
    assert [(r['epoch'],r['step']) for r in whole.history.rows] == [(1,4),(1,6),(2,8),(2,12),(3,15)]
    ways = [At(step, lambda: learn.out.request_stop()) for step in (4,6,15)] + [Do('before_validate', 15, lambda: raise_(ZeroDivisionError('killed')))]
    for k,way in enumerate(ways):
        learn = unwatched(survey, out := tmp_path/f'stopped{k}', save_minutes=0, **kw)
        learn.add_cb(way)
        with pytest.raises((Unfinished,ZeroDivisionError)): learn.fit(1)
        learn.out.clear_stop()
        for _ in range(2): unwatched(survey, out, **kw).fit(1)                   # and once more: nothing to do
        assert outcome(out) == outcome(tmp_path/'whole')
    more = unwatched(survey, tmp_path/'whole', **kw | dict(steps=20))
    more.fit(1)
    assert (more.step,more.epochs_done,more.batch,more.images()) == (20,3,2,320)    # from where it was in its epoch

def test_the_best_is_found_inside_an_epoch(survey, tmp_path):
    def learner():
        learn = unwatched(survey, tmp_path/'run', valid_steps=1, patience=2)
        learn.score = lambda row: [3,1,2,1,0,0][row['step']-1]
        return learn
    learn,kept = learner(),{}
    learn.add_cb(At(2, lambda: kept.update({k: v.clone() for k,v in learn.model.state_dict().items()})))
    for again in range(2):
        learn.fit(1)
        assert (learn.step, learn.epochs_done, len(learn.history.rows)) == (4,0,4)          # the fourth is not better than the second
        assert all(torch.equal(v, kept[k]) for k,v in load_model(tmp_path/'run').state_dict().items())
        learn = learner()

def test_another_split_is_refused(survey, tmp_path):
    c = Cutouts.open(survey)
    def learner(valid): return pretrain_learner(cutout_dls(c, 32, bs=16, valid=valid, device='cpu'), MAE.preset('tiny', bands=c.bands), tmp_path/'run')
    learner(np.arange(24)).fit(1)
    with pytest.raises(InputError, match='begun with split'): learner(np.arange(90, 114)).fit(2)

def test_two_learners_in_one_directory(survey, tmp_path):
    first,second = (new_learner(survey, tmp_path/'run') for _ in range(2))
    def other():
        with pytest.raises(InputError, match='in use by process'): second.fit(1)
    first.add_cb(At(2, other))
    first.fit(1)
    second.fit(2)                                                        # afterwards it may
    assert len(second.history.rows) == 2

def test_objects_held_out_are_not_asked(tmp_path):
    "The probe that watches a run knows nothing of the test set"
    x,n = np.random.default_rng(0).normal(0, 1, (200,2,32,32)).astype('float32'),200
    path = Cutouts.write(tmp_path/'labelled.h5', x, bands='gr', catalog=dict(id=[f'o{i}' for i in range(n)], redshift=np.linspace(.1, 1, n)))
    c,rows = Cutouts.open(path),np.random.default_rng(1).permutation(n)
    dls = cutout_dls(c, 32, bs=16, split=(rows[:120],rows[120:150],rows[150:]), device='cpu')
    learn = pretrain_learner(dls, MAE.preset('tiny', bands=c.bands), tmp_path/'run')
    asked = learn.online_probe.ask_about()
    assert len(asked.train) and set(asked.rows) <= set(rows[:150])
