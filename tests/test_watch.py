"What watches a run changes nothing in it, cannot stop it, and survives restarts"
import hashlib, json, logging, os, re, socket, subprocess, sys, textwrap, time
import numpy as np, psutil, pytest, torch
from fastai.callback.core import Callback
from astromask.core import InputError, RunDir, StorageError, Unfinished
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls, fit_size
from astromask.embed import embed_cutouts
from astromask.models.mae import MAE
from astromask.models.simmim import SimMIM
from astromask.train import watch
from astromask.train.pretrain import pretrain_learner
from astromask.evaluate.probe import rankme
from astromask.train.watch import Bar, OnlineProbe, WandB, probe_question
from toys import elsewhere

BAD_KEY = dict(WANDB_API_KEY='0123456789'*4, WANDB_BASE_URL='http://127.0.0.1:9', WANDB_X_GRAPHQL_RETRY_MAX='1')     # it would try for long

class NoProbe(OnlineProbe):
    "In the probe's place, asking nothing"
    name = 'online_probe'
    def before_fit(self): pass
    def after_batch(self): pass
    def measure(self): pass

class NoWandB(WandB):
    def before_fit(self): pass

@pytest.fixture(scope='module')
def survey(tmp_path_factory):
    "Blobs, round or long, near or far; some damaged"
    rng,n = np.random.default_rng(0),160
    y,x = np.mgrid[:32,:32]-15.5
    long,z = rng.integers(0, 2, n),rng.uniform(.05, .5, n)
    width,ratio = 1.5/z,np.where(long, .3, 1.)
    blobs = np.exp(-.5*((x/width[:,None,None])**2 + (y/(width*ratio)[:,None,None])**2))
    images = (blobs[:,None]*np.array([1,2])[:,None,None] + rng.normal(0, .05, (n,2,32,32))).astype('float32')
    images[3],images[5,1],images[7,:,:,20:] = np.nan,np.nan,np.nan
    path = tmp_path_factory.mktemp('data')/'blobs.h5'
    catalog = dict(id=[f'b{i}' for i in range(n)], ra=rng.uniform(0, 360, n), dec=rng.uniform(-60, 60, n), label=long, redshift=z)
    Cutouts.write(path, images, bands=('g','r'), catalog=catalog)
    bare = path.with_name('bare.h5')
    Cutouts.write(bare, images, bands=('g','r'))
    return path

def learner(survey, run, *cbs, model=MAE, **kw):
    "A learner that these callbacks watch, and no others"
    torch.manual_seed(0)
    run = RunDir(run)
    dls = cutout_dls(Cutouts.open(survey), 32, bs=64, valid=.1, device='cpu')
    learn = pretrain_learner(dls, model.preset('tiny', img_size=32, bands=('g','r')), run, **kw)
    made = [cb if isinstance(cb, Callback) else cb(run) for cb in cbs]
    for kind,none in ((OnlineProbe, NoProbe), (WandB, NoWandB), (Bar, lambda run: Bar(show=False))):
        learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, kind)])
        if not any(isinstance(cb, kind) for cb in made): made.append(none(run))
    learn.add_cbs(made)
    return learn

def often(run): return OnlineProbe(run, minutes=0, share=float('inf'))

def weights(learn):
    "sha256 of the weights and the optimizer's state"
    tensors,_ = learn.state()
    return hashlib.sha256(b''.join(v.detach().contiguous().numpy().tobytes() for _,v in sorted(tensors.items()))).hexdigest()

def singular(e):
    "RankMe from the covariance's eigenvalues, as an independent reference"
    values = np.linalg.eigvalsh(e.T.astype(np.float64) @ e).clip(0)
    p = values**.5/(values**.5).sum()
    return np.exp(-np.sum(p[p > 0]*np.log(p[p > 0])))

@pytest.mark.parametrize('seed', range(4))
def test_rankme_against_another_way(seed):
    rng = np.random.default_rng(seed)
    e = rng.normal(size=(300,24)) @ rng.normal(size=(24,24)) + seed
    assert np.isclose(rankme(e), singular(e), rtol=1e-6) and np.isclose(rankme(7*e[::-1]), rankme(e))

@pytest.mark.parametrize('model', [MAE, pytest.param(SimMIM, marks=pytest.mark.slow)])
def test_watching_changes_no_bit(survey, tmp_path, model, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    elsewhere(lambda: watching_changes_no_bit(survey, tmp_path, model))

def watching_changes_no_bit(survey, tmp_path, model):
    plain = learner(survey, tmp_path/'plain', model=model)
    plain.fit(2)
    bare,before = torch.get_rng_state(),np.random.get_state()[1].copy()
    watched = learner(survey, tmp_path/'watched', often, WandB, Bar(show=True), model=model)
    watched.fit(2)
    watched.wandb.finish()
    assert weights(watched) == weights(plain)
    assert [r['train_loss'] for r in watched.history.rows] == [r['train_loss'] for r in plain.history.rows]
    assert (torch.get_rng_state() == bare).all() and (np.random.get_state()[1] == before).all()
    assert len(watched.online_probe.rows) == watched.step+1

class Mode(Callback):
    "Is the model as the loop left it, after the probe?"
    order,run_valid,modes = OnlineProbe.order+1,False,()
    def after_batch(self): self.modes = (*self.modes, self.model.training)

def test_modes_are_restored(survey, tmp_path):
    learn = learner(survey, tmp_path/'run', often, Mode())
    learn.fit(1)
    assert len(learn.mode.modes) == learn.step and all(learn.mode.modes)

def test_probes_know_blobs(survey, tmp_path):
    learn = learner(survey, tmp_path/'run', often)
    learn.fit(1)
    row = learn.online_probe.rows[-1]
    assert row['probe_accuracy'] > .7 and row['knn_accuracy'] > .6 and 0 < row['probe_nmad'] < .2 and row['rankme'] > 2
    assert (tmp_path/'run/figures/progress.png').exists()

def test_without_labels_there_is_rankme(survey, tmp_path):
    learn = learner(survey.with_name('bare.h5'), tmp_path/'run', often)
    learn.fit(1)
    row = learn.online_probe.rows[-1]
    assert np.isnan([row[k] for k in watch.ANSWERS]).all() and row['rankme'] > 1

def test_what_watches_follows_validation_inside_an_epoch(survey, tmp_path):
    "By the clock: a row before each step, a probe and a reconstruction with it, and no bit of the training changed"
    drawn = []
    def begin(name, *cbs, **kw):
        learn = learner(survey, tmp_path/name, *cbs, **kw)
        learn.figures.share = float('inf')
        vars(learn.figures)['draw'] = lambda: drawn.append((name,learn.step))
        vars(learn.online_probe)['draw'] = lambda: None
        learn.fit(2)
        return learn
    plain = begin('plain')
    learn = begin('run', lambda run: OnlineProbe(run, share=float('inf')), valid_minutes=1e-9)
    assert weights(learn) == weights(plain) and [r['step'] for r in learn.history.rows] == [1,2,3,4]
    assert [r['valid_loss'] for r in learn.history.rows[1::2]] == [r['valid_loss'] for r in plain.history.rows]
    assert [r['step'] for r in learn.online_probe.rows] == [0,1,3,4] and drawn == [('plain',4),('run',1),('run',3),('run',4)]

def test_a_restart_keeps_the_rows(survey, tmp_path):
    learn = learner(survey, tmp_path/'run', often)
    learn.fit(1)
    done = learn.online_probe.rows
    lost = done + [done[-1] | dict(step=done[-1]['step']+1)]      # of a step that no checkpoint has
    watch.write_answers(tmp_path/'run/probe.csv', lost)
    learn = learner(survey, tmp_path/'run', often)
    learn.fit(2)
    steps = [r['step'] for r in watch.read_answers(tmp_path/'run/probe.csv')]
    assert steps == list(range(learn.step+1)) and str(learn.online_probe.rows[:len(done)]) == str(done)

def test_a_damaged_table_is_begun_anew(survey, tmp_path, caplog):
    (tmp_path/'run').mkdir()
    (tmp_path/'run/probe.csv').write_text('step,rankme\n1,what\n')
    learn = learner(survey, tmp_path/'run', OnlineProbe)
    learn.fit(1)
    assert 'damaged' in caplog.text and learn.online_probe.rows[0]['step'] == 0

def test_the_question_is_the_same_in_any_order(survey):
    t = Cutouts.open(survey).catalog
    def sides(t):
        q = probe_question(t)
        return {str(t['id'][q.rows[i]]) for i in q.train}
    assert sides(t) == sides(t[::-1])

def test_collapse_is_loud(survey, tmp_path, caplog):
    learn = learner(survey, tmp_path/'run', often)
    learn.online_probe.embeddings = lambda m: np.ones((160,8), np.float32)
    learn.fit(1)
    assert 'HAVE COLLAPSED' in caplog.text

def test_a_full_disk_costs_the_files_only(survey, tmp_path, caplog, monkeypatch):
    def full(*a): raise StorageError('the disk is full')
    monkeypatch.setattr(watch, 'write_answers', full)
    learn = learner(survey, tmp_path/'run', often)
    learn.fit(1)
    assert 'the disk is full' in caplog.text and len(learn.online_probe.rows) == learn.step+1

def test_other_ranks_do_not_watch(survey, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, 'rank', lambda: 1)
    monkeypatch.setenv('WANDB_MODE', 'offline')
    learn = learner(survey, tmp_path/'run', often, WandB, Bar(show=True))
    learn.fit(1)
    assert not learn.online_probe.rows and learn.wandb.thread is None and learn.bar.line is None
    assert not (tmp_path/'run/probe.csv').exists() and not (tmp_path/'run/wandb.json').exists()

def test_a_slow_probe_is_asked_less_often(survey, tmp_path):
    learn = learner(survey, tmp_path/'run', OnlineProbe)
    learn.online_probe.minutes,learn.online_probe.share = 0,1e-9
    learn.fit(1)
    assert [r['step'] for r in learn.online_probe.rows][:1] == [0] and len(learn.online_probe.rows) <= 2

# A file of one's own

def theirs(survey, path, size=(24,40), bands=('r',), rows=slice(None), missing=(), **columns):
    "Objects of the survey as another file has them: other pixels, other places, other names"
    c,n = Cutouts.open(survey).select(bands),len(range(160)[rows])
    rng = np.random.default_rng(1)
    x = fit_size(c[rows], size, fill=0) + rng.normal(0, .02, (n,len(bands),*size)).astype('float32')
    catalog = dict(id=[f't{i}' for i in range(n)], ra=rng.uniform(0, 360, n), dec=rng.uniform(60, 80, n))
    catalog |= {k: np.asarray(c.catalog[k])[rows] for k in ('label','redshift') if k not in missing}
    return Cutouts.open(Cutouts.write(path, x, bands=bands, catalog=catalog | columns))

def own_learner(survey, run, c=None, **kw):
    "A learner whose probe is asked after every step"
    torch.manual_seed(0)
    dls = cutout_dls(Cutouts.open(survey), 32, bs=64, valid=.1, device='cpu')
    learn = pretrain_learner(dls, MAE.preset('tiny', img_size=32, bands=('g','r')), RunDir(run), probe_data=c, **kw)
    learn.online_probe.minutes,learn.online_probe.share = 0,float('inf')
    return learn

@pytest.mark.slow
def test_a_file_of_ones_own_changes_no_bit(survey, tmp_path):
    plain = own_learner(survey, tmp_path/'plain')
    plain.fit(2)
    c = theirs(survey, tmp_path/'c.h5')
    watched = own_learner(survey, tmp_path/'watched', c, probe_objects=100)
    class StopAt2(Callback):
        order = 65
        def after_batch(self): self.learn.step == 2 and watched.out.request_stop()
    watched.add_cb(StopAt2())
    with pytest.raises(Unfinished): watched.fit(2)
    watched.out.clear_stop()
    again = own_learner(survey, tmp_path/'watched', c, probe_objects=100)
    again.fit(2)                                               # stopped and continued
    assert weights(again) == weights(plain)
    rows = again.online_probe.rows
    assert [r['step'] for r in rows] == list(range(again.step+1)) and len(again.online_probe.question.rows) == 100
    assert str([r['probe_nmad'] for r in rows]) != str([r['probe_nmad'] for r in plain.online_probe.rows])

def test_another_question_begins_another_table(survey, tmp_path, caplog):
    "The curve of a continued run is that of one question; the earlier table stays under another name"
    first = own_learner(survey, tmp_path/'run')
    first.fit(1)
    before = (tmp_path/'run/probe.csv').read_text()
    for k in (1,2):                                             # the second continues its own
        again = own_learner(survey, tmp_path/'run', theirs(survey, tmp_path/f'c{k}.h5'))
        again.fit(1+k)
    assert (tmp_path/'run/probe-own.csv').read_text() == before
    steps = [r['step'] for r in watch.read_answers(tmp_path/'run/probe.csv')]
    assert steps == list(range(first.step, again.step+1)) and caplog.text.count('another question') == 1
    assert json.loads((tmp_path/'run/probe.json').read_text())['objects'] == len(again.online_probe.question.rows)

def test_it_is_asked_as_embed_asks(survey, tmp_path):
    "Another size, one of two bands, other pixels' origin: the answers are those of the table that embed would write"
    c = theirs(survey, tmp_path/'c.h5')
    learn = own_learner(survey, tmp_path/'run', c)
    learn.fit(1)
    q = learn.online_probe.question
    e = np.asarray(embed_cutouts(learn.model, c, bs=128, views=1, progress=False)['embedding'])[q.rows]
    answers,row = watch.probe_answers(e, q),learn.online_probe.rows[-1]
    assert row['probe_accuracy'] > .6 and np.isfinite(row['probe_nmad'])
    assert all(np.isclose(row[k], answers[k], atol=1e-6) for k in answers)
    assert (q.labels == np.asarray(c.catalog['label'])[q.rows]).all()

def test_probes_read_the_units_of_the_model(survey, tmp_path):
    "The same objects in other units give the same answers"
    flux = {}
    for unit,factor in (('nJy',1.), ('uJy',1e-3)):
        x = Cutouts.open(survey)
        path = Cutouts.write(tmp_path/f'{unit}.h5', x[:]*factor, bands=x.bands, unit=unit, catalog=x.catalog)
        flux[unit] = Cutouts.open(path)
    found = {}
    for unit in flux:
        half = np.arange(0, 160, 2)
        dls = cutout_dls(flux['nJy'], 32, bs=32, split=(half[8:],half[:8]), device='cpu')
        torch.manual_seed(0)
        learn = pretrain_learner(dls, MAE.preset('tiny', img_size=32, bands=('g','r')), tmp_path/f'run-{unit}', probe_data=flux[unit])
        found[unit] = learn.online_probe.embeddings()
    assert np.allclose(found['nJy'], found['uJy'], atol=1e-4, equal_nan=True) and np.nanstd(found['nJy']) > 0

def test_objects_that_train_are_left_out(survey, tmp_path, caplog):
    mixed = tmp_path/'mixed.h5'
    c,new = Cutouts.open(survey),theirs(survey, tmp_path/'new.h5', (32,32), ('g','r'))
    names = dict(id=[f'x{i}' for i in range(320)], ra=np.full(320, np.nan), dec=np.full(320, np.nan))
    both = {k: np.concatenate([np.asarray(o.catalog[k]) for o in (c,new)]) for k in ('label','redshift')}
    Cutouts.write(mixed, np.concatenate([c[:],new[:]]), bands=('g','r'), catalog=names | both)
    learn = own_learner(survey, tmp_path/'run', Cutouts.open(mixed))
    train = learn.dls.train.rows
    rows = learn.online_probe.question.rows
    held = set(range(320)) - set(rows)
    assert not set(rows) & set(train) - {3} and held <= set(train)      # 3 is all NaN: nothing tells it
    said = [r.message for r in caplog.records if 'among those that train' in r.message]
    assert len(said) == 1 and f'{len(held)} of 320 objects' in said[0]

def test_places_tell_them_too(survey, tmp_path, caplog):
    t = Cutouts.open(survey).catalog
    c = theirs(survey, tmp_path/'c.h5', ra=np.asarray(t['ra']), dec=np.asarray(t['dec']))
    with pytest.raises(InputError, match='too few are known'): own_learner(survey, tmp_path/'run', c)
    assert 'are among those that train' in caplog.text

@pytest.mark.parametrize('file,kw,words', [
    (dict(), dict(probe_label='kind'), "c.h5 has no column 'kind'"),
    (dict(), dict(probe_redshift='zspec'), "c.h5 has no column 'zspec'"),
    (dict(kind=['a']*160), dict(probe_label='kind'), r'probe_label \(kind\)'),
    (dict(missing=('label','redshift')), {}, 'c.h5 tells no class and no redshift'),
    (dict(rows=slice(30)), {}, 'c.h5: of 30 objects .* too few'),
    (dict(), dict(probe_objects=0), 'probe_objects is 0')])
def test_what_cannot_be_asked_is_refused_before_training(survey, tmp_path, file, kw, words):
    c = theirs(survey, tmp_path/'c.h5', **file)
    with pytest.raises(InputError, match=words): own_learner(survey, tmp_path/'run', c, **kw)
    assert not (tmp_path/'run/history.csv').exists()

def test_bands_that_the_model_does_not_know(survey, tmp_path):
    x = np.random.default_rng(0).normal(size=(160,3,32,32)).astype('float32')
    c = Cutouts.open(Cutouts.write(tmp_path/'c.h5', x, bands=('g','r','z'), catalog=dict(label=np.arange(160)%2)))
    with pytest.raises(InputError, match='band z, which the model does not know'): own_learner(survey, tmp_path/'run', c)
    own_learner(survey, tmp_path/'run', c.select(['r']))
    with pytest.raises(InputError, match='columns of probe_data'): own_learner(survey, tmp_path/'run', probe_label='kind')

def test_the_spectrum_against_another_way():
    e = np.random.default_rng(0).normal(size=(500,80))*np.linspace(3, .1, 80) + 5
    values = np.sort(np.linalg.eigvalsh(np.cov(e.T)))[::-1]
    found = watch.variance_shares(np.concatenate([e, np.full((3,80), np.nan)]))
    assert all(np.isclose(found[f'variance_{k}'], values[:k].sum()/values.sum()) for k in (1,4,16,64))

def test_rows_tell_the_spectrum(survey, tmp_path):
    learn = learner(survey, tmp_path/'run', often)
    learn.fit(1)
    row = watch.read_answers(tmp_path/'run/probe.csv')[-1]
    assert 0 < row['variance_1'] < row['variance_4'] < row['variance_16'] <= row['variance_64'] <= 1+1e-9

@pytest.mark.drawn
def test_an_older_table_goes_on_as_it_was(survey, tmp_path):
    "Of a run that an earlier version began, whose rows know no spectrum"
    learn = learner(survey, tmp_path/'run', often)
    learn.fit(1)
    rows = [{k: v for k,v in r.items() if not k.startswith('variance')} for r in watch.read_answers(tmp_path/'run/probe.csv')]
    watch.write_answers(tmp_path/'run/probe.csv', rows)
    learn = learner(survey, tmp_path/'run', often)
    learn.fit(2)
    kept = watch.read_answers(tmp_path/'run/probe.csv')
    assert len(kept) == learn.step+1 and all(np.isfinite(r['rankme']) for r in kept) and (tmp_path/'run/figures/progress.png').exists()

@pytest.mark.drawn
def test_each_reconstruction_is_kept(survey, tmp_path):
    "Under its step, in the middle of an epoch too; the newest under the old name; and no bit changes"
    learn = learner(survey, tmp_path/'run')
    learn.figures.minutes,learn.figures.share = 0,float('inf')
    learn.fit(2)
    kept = sorted((tmp_path/'run/figures/reconstructions').iterdir())
    assert [p.name for p in kept] == [f'{k:08d}.png' for k in range(1, learn.step+1)] and learn.step > 2
    assert (tmp_path/'run/figures/reconstruction.png').read_bytes() == kept[-1].read_bytes() != kept[0].read_bytes()
    plain = learner(survey, tmp_path/'plain')
    plain.figures.try_to_draw = lambda: None
    plain.fit(2)
    assert weights(learn) == weights(plain)

# Weights & Biases

def _parts(data, at=7, block=2**15):
    "The records of a file in LevelDB's log format, which wandb's is"
    part = b''
    while at+7 <= len(data):
        if (left := block - at%block) < 7: at += left
        n,kind = int.from_bytes(data[at+4:at+6], 'little'),data[at+6]
        part,at = part+data[at+7:at+7+n],at+7+n
        if kind in (1,4): yield part; part = b''

def records(run):
    "What the newest offline run tells: (rows by step, id)"
    from wandb.proto import wandb_internal_pb2 as pb
    newest = sorted((run/'wandb').glob('offline-run-*'))[-1]
    file,deadline = next(iter(newest.glob('run-*.wandb'))),time.monotonic()+10
    while file.stat().st_size < 4000 and time.monotonic() < deadline: time.sleep(.1)      # its service writes when it likes
    data,rows = file.read_bytes(),{}
    for o in _parts(data):
        record = pb.Record()
        record.ParseFromString(o)
        if record.WhichOneof('record_type') == 'history':
            rows[record.history.step.num] = {('/'.join(i.nested_key) or i.key): json.loads(i.value_json) for i in record.history.item}
    return rows,newest.name.split('-')[-1]

@pytest.mark.slow
def test_offline_with_one_id_over_restarts(survey, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    run,ids = RunDir(tmp_path/'run'),[]
    def session(epochs):
        learn = learner(survey, run.path, OnlineProbe, WandB)
        learn.fit(epochs)
        run.metrics(pretrain=dict(valid_loss=.5))
        learn.wandb.finish()
        return learn.history.rows,warnings(caplog)
    for epochs in (1,2):
        history,said = elsewhere(lambda: session(epochs))
        rows,name = records(run.path)
        ids.append(name)
        last = history[-1]
        assert not said and rows[last['step']]['train_loss'] == pytest.approx(last['train_loss']) and 'rankme' in rows[0] and len(history) == epochs
        assert {'progress','metrics'} <= {k.split('/')[0] for row in rows.values() for k in row}
        time.sleep(1)                                          # directories are named by the second
    assert len(set(ids)) == 1 == len({json.loads((run/'wandb.json').read_text())['id'], *ids})
    assert len(list((run/'wandb').glob('offline-run-*'))) == 2

def watched(survey, run, caplog, *cbs, seconds=30, fake=False):
    "A run that W&B was to show: its weights, how long the farewell took, and the warnings"
    def one():
        for name in [k for k in sys.modules if k.split('.')[0] == 'wandb'] if fake else (): del sys.modules[name]
        learn = learner(survey, run, WandB, *cbs)
        learn.fit(1)
        start = time.monotonic()
        learn.wandb.finish(seconds)
        return weights(learn),time.monotonic()-start,warnings(caplog)
    return elsewhere(one)

@pytest.fixture(scope='module')
def unwatched(survey, tmp_path_factory):
    learn = learner(survey, tmp_path_factory.mktemp('unwatched'))
    learn.fit(1)
    return weights(learn)

def warnings(caplog): return [r.message for r in caplog.records if 'W&B' in r.message]

def test_no_network_and_a_bad_key(survey, tmp_path, monkeypatch, caplog, unwatched):
    monkeypatch.delenv('WANDB_MODE')
    for k,v in BAD_KEY.items(): monkeypatch.setenv(k, v)
    found,_,said = watched(survey, tmp_path/'run', caplog, seconds=90)
    assert found == unwatched and len(said) == 1 and 'offline' in said[0]
    assert len(records(tmp_path/'run')[0]) > 0

FAKES = dict(missing='raise ImportError("No module named wandb")', broken='def __getattr__(name): raise RuntimeError("it broke\\nagain")',
             hanging='import time\ntime.sleep(100)')

@pytest.mark.parametrize('kind', FAKES)
def test_a_wandb_that_fails(survey, tmp_path, monkeypatch, caplog, unwatched, kind):
    (tmp_path/'fake').mkdir()
    (tmp_path/'fake/wandb.py').write_text(FAKES[kind])
    monkeypatch.syspath_prepend(tmp_path/'fake')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    found,farewell,said = watched(survey, tmp_path/'run', caplog, seconds=2 if kind == 'hanging' else 30, fake=True)
    assert found == unwatched and len(said) == 1 and farewell < 20

def services(): return [p for p in psutil.Process().children(recursive=True) if p.name().startswith(('wandb','gpu_stats'))]

def test_a_service_that_crashes(survey, tmp_path, monkeypatch, caplog, unwatched):
    "Killed in the middle of the run"
    monkeypatch.setenv('WANDB_MODE', 'offline')
    class Kill(Callback):
        order = 95
        def after_batch(self):
            if self.learn.step != 2: return
            deadline = time.monotonic()+60
            while not hasattr(self.learn.wandb, 'shown') and time.monotonic() < deadline: time.sleep(.1)
            for p in services(): p.kill()
    found,farewell,said = watched(survey, tmp_path/'run', caplog, Kill(), seconds=10)
    assert found == unwatched and len(said) == 1 and farewell < 20

def test_a_place_that_cannot_be_written(survey, tmp_path, monkeypatch, caplog, unwatched):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    (tmp_path/'run').mkdir()
    (tmp_path/'run/wandb').touch()                             # permissions would not stop root
    found,_,said = watched(survey, tmp_path/'run', caplog)
    assert found == unwatched and len(said) == 1

def test_a_server_that_never_answers(survey, tmp_path, monkeypatch, caplog, unwatched):
    monkeypatch.delenv('WANDB_MODE')
    with socket.create_server(('127.0.0.1', 0)) as server:
        monkeypatch.setenv('WANDB_API_KEY', BAD_KEY['WANDB_API_KEY'])
        monkeypatch.setenv('WANDB_BASE_URL', f'http://127.0.0.1:{server.getsockname()[1]}')
        found,farewell,said = watched(survey, tmp_path/'run', caplog, seconds=3)
    assert found == unwatched and farewell < 10 and len(said) == 1

def test_a_full_disk_for_wandb(survey, tmp_path, monkeypatch, caplog, unwatched):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    home = tmp_path/'run/wandb'
    home.mkdir(parents=True)
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=16k', 'tmpfs', home], capture_output=True).returncode:
        pytest.skip('mounting a small file system needs root')
    try:
        found,farewell,said = watched(survey, tmp_path/'run', caplog, seconds=20)
        assert found == unwatched and farewell < 30 and len(said) <= 1
    finally: subprocess.run(['umount', '-l', home])

def test_a_damaged_id(survey, tmp_path, monkeypatch, caplog, unwatched):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    (tmp_path/'run').mkdir()
    (tmp_path/'run/wandb.json').write_text('{')
    found,_,said = watched(survey, tmp_path/'run', caplog)
    assert found == unwatched and len(said) == 1

def test_disabled_starts_nothing(survey, tmp_path, caplog):
    learn = learner(survey, tmp_path/'run', WandB)             # conftest says WANDB_MODE=disabled
    learn.fit(1)
    assert learn.wandb.thread is None and not (tmp_path/'run/wandb.json').exists()

@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_service(tmp_path):
    code = '''
        import sys, time
        from astromask.core import RunDir
        from astromask.train.watch import WandB
        cb = WandB(RunDir(sys.argv[1]), config={})
        cb.start()
        while not hasattr(cb, 'shown'): time.sleep(.1)
        print('begun', flush=True)
        time.sleep(100)'''
    env = os.environ | dict(WANDB_MODE='offline')
    process = subprocess.Popen([sys.executable, '-c', textwrap.dedent(code), tmp_path/'run'], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout.readline() == 'begun\n'
    left = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert left and not psutil.wait_procs(left, 60)[1]

# A bar

def test_the_bar_shows_the_steps(survey, tmp_path, capsys, caplog):
    learn = learner(survey, tmp_path/'run', Bar(show=True))
    learn.history.every = 0
    learn.fit(2)
    shown = capsys.readouterr().err
    assert re.search(rf'training: 100%.* {learn.step}/{learn.step} ', shown) and 'loss=' in shown
    assert learn.history.every == 0 and not [r for r in caplog.records if r.message.startswith('step ')]

def test_a_bar_of_minutes(survey, tmp_path, capsys):
    learn = learner(survey, tmp_path/'run', Bar(show=True), max_minutes=.05)
    learn.fit(1)
    assert '3/3' in capsys.readouterr().err

def test_no_bar_where_nobody_looks(monkeypatch):
    monkeypatch.setattr(sys, 'stderr', type('Terminal', (), dict(isatty=lambda self: True))())
    for key in ('IN_TEST','JPY_SESSION_NAME','VSCODE_PID','COLAB_RELEASE_TAG'): monkeypatch.delenv(key, raising=False)
    assert watch.someone_looks()
    monkeypatch.setenv('IN_TEST', '1')
    assert not watch.someone_looks()
