"The methods that are compared: fair, repeatable, resumed; and how many labels they need"
import copy, numpy as np, pytest, torch
from scipy import stats
from astropy.table import Table
from astromask.core import InputError, RunDir, Unfinished
from astromask.data.cutouts import Cutouts
from astromask.data.scaling import fit_scaling
from astromask.embed import embed_cutouts
from astromask.evaluate.probe import paired_difference
from astromask.models.encoder import BandEncoder
from astromask.models.mae import MAE
from astromask.models.weights import load_model, untrained
from astromask.space import space_of
from astromask.tasks import methods
from astromask.tasks.label_efficiency import curves, equal_points, in_words, label_efficiency, label_sizes, label_subsets, labels_needed
from astromask.train.finetune import FinetuneLearner
from astromask.tasks.methods import (Task, batch_size, each_once, fold_parts, gain_table, judge, mean_and_error, measured_against, method_names,
                                     network_options, run_method, run_methods, score_table)

ALL = method_names('all')+['pretrained lars','pretrained knn-whitened','random probe-whitened']

@pytest.fixture(scope='module')
def c(tmp_path_factory):
    "90 objects of three classes, one brighter, one redder than the first; some pixels, and a band, are missing"
    rng = np.random.default_rng(0)
    kind = np.arange(90) % 3
    r2 = np.add.outer(np.square(np.arange(16)-7.5), np.square(np.arange(16)-7.5))
    flux = np.stack([np.select([kind == 1], [20.], 8.), np.select([kind == 1, kind == 2], [20., 16.], 8.)], 1)
    x = flux[...,None,None]*np.exp(-r2/8) + rng.normal(size=(90,2,16,16))
    x[::11,0,:5] = np.nan
    x[7,1] = np.nan
    catalog = dict(id=[f'o{i}' for i in range(90)], label=kind, redshift=.1+.1*kind+rng.uniform(0, .05, 90), mag_g=-2.5*np.log10(flux[:,0]), mag_r=-2.5*np.log10(flux[:,1]))
    return Cutouts.open(Cutouts.write(tmp_path_factory.mktemp('methods')/'c.h5', x.astype(np.float32), bands='gr', catalog=catalog))

@pytest.fixture(scope='module')
def encoder(c):
    torch.manual_seed(0)
    m = MAE(16, 4, 'gr', 32, 1, 2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2).eval()
    m.scaling = fit_scaling(c)
    return m

def class_task(c, encoder, **kw): return Task(c, np.asarray(c.catalog['label']), ['a','b','c'], encoder, **kw)
@pytest.fixture(scope='module')
def told(c, encoder):
    "The question, four test sets, and what methods say of them"
    task = class_task(c, encoder)
    parts = fold_parts(task, 4)
    return task,parts,run_methods(['chance','forest','random probe','pretrained probe'], task, parts)

def redshift_task(c, encoder, **kw): return Task(c, c.catalog['redshift'], encoder=encoder, **kw)

@pytest.mark.parametrize('name', ALL)
def test_test_answers_are_never_looked_at(name, c, encoder):
    "What a method says does not depend on the test labels, and comes out the same again"
    task = class_task(c, encoder)
    train,valid,test = fold_parts(task, 1)[0]
    found = run_method(name, task, train, valid, test, seed=3, epochs=1)
    blind = class_task(c, encoder)
    blind.y[test] = 0
    again = run_method(name, blind, train, valid, test, seed=3, epochs=1)
    assert np.array_equal(found['prediction'], again['prediction']) and np.array_equal(found['probability'], again['probability'])
    assert found['probability'].shape == (len(test),3) and np.allclose(found['probability'].sum(1), 1) and (found['probability'] >= 0).all()

@pytest.mark.parametrize('name', ALL)
def test_all_methods_know_redshifts(name, c, encoder):
    task = redshift_task(c, encoder)
    part = fold_parts(task, 1)[0]
    found = run_method(name, task, *part, epochs=1)
    assert found['prediction'].shape == part[2].shape and np.isfinite(found['prediction']).all() and (found['prediction'] > -1).all()

@pytest.mark.parametrize('name', ['forest','pretrained probe'])
def test_an_answer_depends_on_its_object_alone(name, c, encoder):
    task = class_task(c, encoder)
    train,valid,test = fold_parts(task, 1)[0]
    whole,half = run_method(name, task, train, valid, test),run_method(name, task, train, valid, test[::2])
    assert np.array_equal(whole['prediction'][::2], half['prediction'])

@pytest.mark.parametrize('name', ['pretrained knn','pretrained knn-whitened'])
def test_what_is_asked_about_has_no_say_in_the_space(name, c, encoder):
    "Objects that are not asked about have: so the others that are tested are made odd here, and not left out"
    task = class_task(c, encoder)
    train,valid,test = fold_parts(task, 1)[0]
    before = run_method(name, task, train, valid, test)
    task.embedding('pretrained')[test[1::2]] *= 100
    after = run_method(name, task, train, valid, test)
    assert np.array_equal(before['prediction'][::2], after['prediction'][::2])

def test_search_and_neighbours_read_alike(c, encoder):
    "knn is judged in the space in which search finds"
    task = class_task(c, encoder, pool='mean+pixels')
    x = task.embedding('pretrained')
    table = embed_cutouts(encoder, c, pool='mean+pixels', progress=False)
    searched = space_of(table, 'balanced').direction(x)
    np.testing.assert_allclose(task.space('balanced', x, np.zeros(0, int)).direction(x), searched, atol=1e-5)

def test_what_is_easy_is_learned(told):
    task,parts,results = told
    t = score_table(task, {k: results[k] for k in ('chance','forest','pretrained probe')}, parts)
    assert t['score'][0] == pytest.approx(1/3) and t['score'][1] > .9 and t['score'][2] > .8

def test_random_and_pretrained_differ_in_weights_only(c, encoder):
    task = class_task(c, encoder)
    other = task.model('random', 5)
    assert other.config == encoder.config and other.scaling.config() == encoder.scaling.config()
    assert torch.equal(other.pos_embed, encoder.pos_embed) and not torch.equal(other.patch_embed.proj.weight, encoder.patch_embed.proj.weight)
    assert task.model('pretrained', 5) is encoder

def test_an_untrained_encoder_is_read_in_all_orientations_where_the_other_needs_one(c, encoder):
    m = copy.deepcopy(encoder).fit_steady([dict(x=c[:40])])
    task = class_task(c, m)
    assert 'steady' in task.pool and task.embedding('pretrained').shape == task.embedding('random', 1).shape
    wanted = embed_cutouts(untrained(m, 1), c, pool=task.pool.replace('steady', m.steady.of), views=8, progress=False)['embedding']
    np.testing.assert_array_equal(task.embedding('random', 1), wanted)

def test_embeddings_are_made_once(c, encoder, monkeypatch):
    calls,embed = [],methods.embed_cutouts
    monkeypatch.setattr(methods, 'embed_cutouts', lambda *a, **kw: calls.append(1) or embed(*a, **kw))
    task = class_task(c, encoder, draws=2)
    z = redshift_task(c, encoder, draws=2, shared=task)
    for t in (task, z):
        for seed in range(4):
            for which in ('random','pretrained'): t.embedding(which, seed)
    assert len(calls) == 3 and np.array_equal(task.embedding('random', 0), z.embedding('random', 2))
    assert not np.array_equal(task.embedding('random', 0), task.embedding('random', 1))

def test_the_encoder_is_fitted_to_the_bands(c, encoder):
    red = c.select('r')
    task = class_task(red, encoder)
    assert task.encoder.bands == ('r',)
    with torch.no_grad(): want = encoder.embed(red[:5], bands='r').numpy()
    np.testing.assert_allclose(task.embedding('pretrained')[:5], want, atol=1e-5)

def test_a_frozen_encoder_stays_what_it_is(c, encoder, tmp_path):
    "Parameters and buffers: in the copy that an attentive probe keeps; fine-tuning changes its copy, and neither what it was made from"
    before = {k: v.clone() for k,v in encoder.state_dict().items()}
    task = class_task(c, encoder)
    for head in ('attentive','finetune'):
        run_method(f'pretrained {head}', task, *fold_parts(task, 1)[0], epochs=1, folder=tmp_path/head)
        kept = load_model(tmp_path/head).encoder.state_dict()
        assert kept and all(torch.equal(v, before[k]) for k,v in kept.items()) == (head == 'attentive')
    assert all(torch.equal(v, before[k]) for k,v in encoder.state_dict().items())

def test_parts(c, encoder):
    task = class_task(c, encoder)
    groups = np.arange(90)//2                                             # every second object is its neighbour's twin
    parts = fold_parts(task, 7, groups=groups)
    assert len(parts) == 7
    for part in parts:
        assert sorted(np.concatenate(part)) == list(range(90)) and all(len(p) for p in part)
        for a,b in ((0,1),(0,2),(1,2)): assert not set(groups[part[a]]) & set(groups[part[b]])
    assert sorted(np.concatenate([p[2] for p in parts[:5]])) == list(range(90))
    with pytest.raises(InputError, match='splits 2'): fold_parts(task, 3, splits=2)

def test_a_stopped_comparison_goes_on(c, encoder, tmp_path, monkeypatch):
    task = class_task(c, encoder)
    parts,names = fold_parts(task, 2),['chance','pretrained probe','random finetune']
    whole = run_methods(names, task, parts, epochs=1)
    run,asked,true = RunDir(tmp_path/'run'),[],methods.run_method
    def ask(*a, **kw):
        asked.append(a[0])
        if len(asked) == 4: run.request_stop()
        return true(*a, **kw)
    monkeypatch.setattr(methods, 'run_method', ask)
    with pytest.raises(Unfinished, match='Stopped before pretrained probe of seed 1'): run_methods(names, task, parts, run=run, epochs=1)
    assert len(asked) == 4
    run.clear_stop()
    found = run_methods(names, task, parts, run=run, epochs=1)
    for name in names:
        for a,b in zip(whole[name], found[name]):
            assert np.array_equal(a['prediction'], b['prediction']) and np.array_equal(a['probability'], b['probability'])
    n = len(asked)
    run_methods(names, task, parts, run=run, epochs=1)
    assert len(asked) == n                                                # all were kept

def test_an_answer_is_kept_for_its_question_only(c, encoder, tmp_path, monkeypatch):
    run,asked,true = RunDir(tmp_path/'run'),[],methods.run_method
    def ask(*a, **kw):
        asked.append(a[0])
        return true(*a, **kw)
    monkeypatch.setattr(methods, 'run_method', ask)
    task = class_task(c, encoder)
    part = fold_parts(task, 1)[0]
    other,torn = class_task(c, encoder),class_task(c, copy.deepcopy(encoder))
    other.y[part[0][0]] = (other.y[part[0][0]]+1) % 3
    with torch.no_grad(): next(torn.encoder.parameters()).add_(1)
    first = methods.kept_answer('pretrained finetune', task, part, 0, run, epochs=1)
    for again in ((task, part, 0, run), (other, part, 0, run), (torn, part, 0, run), (task, fold_parts(task, 2)[1], 0, run), (task, part, 1, run)):
        methods.kept_answer('pretrained finetune', *again, epochs=1)
    assert len(asked) == 5                                                # the first of these was known
    more = methods.kept_answer('pretrained finetune', task, part, 0, run, epochs=3)
    assert len(asked) == 6 and not np.array_equal(more['probability'], first['probability'])

def test_networks_are_taught_as_it_is_asked(c, encoder, tmp_path, monkeypatch):
    "Patience for all; branches are left out where an encoder is fine-tuned; what is not asked for leaves the names of answers as they were"
    asked,true = {},methods.finetune_learner
    def teach(*a, recipe, patience, **kw):
        asked[recipe] = patience,kw.get('drop_path')
        return true(*a, recipe=recipe, patience=patience, **kw)
    monkeypatch.setattr(methods, 'finetune_learner', teach)
    names = ['cnn','random finetune','pretrained attentive','pretrained finetune']
    task,options = class_task(c, encoder),network_options(names, patience=2, drop_path=.1)
    part = fold_parts(task, 1)[0]
    run_methods(names, task, [part], run=RunDir(tmp_path/'run'), epochs=1, **options)
    assert asked == dict(cnn=(2,None), attentive=(2,None), finetune=(2,.1), scratch=(2,.1))
    assert network_options(names, patience=0, drop_path=0.) == {}
    assert methods.answer_name('cnn', task, part, epochs=1, **options) != methods.answer_name('cnn', task, part, epochs=1)
    for bad,words in ((dict(patience=-1), 'patience is -1'), (dict(drop_path=1.), 'drop_path is 1.0')):
        with pytest.raises(InputError, match=words): network_options(names, **bad)
    with pytest.raises(InputError, match='no encoder is fine-tuned'): network_options(names[:1], drop_path=.1)

def test_a_fit_that_is_stopped_goes_on(c, encoder, tmp_path, monkeypatch):
    "The network's own checkpoint, not only the answers that are there"
    task = class_task(c, encoder)
    part = fold_parts(task, 1)[0]
    whole = methods.kept_answer('pretrained finetune', task, part, 0, RunDir(tmp_path/'whole'), epochs=3)
    run,fitted = RunDir(tmp_path/'run'),FinetuneLearner.judged
    def stop(self):
        run.request_stop()
        return fitted(self)
    monkeypatch.setattr(FinetuneLearner, 'judged', stop)
    with pytest.raises(Unfinished, match='saved at step'): methods.kept_answer('pretrained finetune', task, part, 0, run, epochs=3)
    monkeypatch.undo()
    run.clear_stop()
    assert len(list((run/'fits').glob('*/checkpoints/*'))) > 0
    found = methods.kept_answer('pretrained finetune', task, part, 0, run, epochs=3)
    assert np.array_equal(found['probability'], whole['probability'])

def test_errors_of_gains(told):
    task,parts,results = told
    a,b = ([judge(task, r, p[2])['balanced_accuracy'] for r,p in zip(results[k], parts)] for k in ('pretrained probe','random probe'))
    want = paired_difference(a, b, len(parts[0][0]), len(parts[0][2]))
    assert mean_and_error(task, results['pretrained probe'], parts, '', results['random probe']) == pytest.approx(want)
    fixed = [parts[0]]*3
    same = run_methods(['pretrained probe'], task, fixed)['pretrained probe']
    right = same[0]['prediction'] == task.y[parts[0][2]]
    mean,error = mean_and_error(task, same, fixed, 'accuracy', repeats=2000)
    assert mean == pytest.approx(right.mean()) and error == pytest.approx(right.std()/len(right)**.5, rel=.1)
    t = gain_table(task, results, parts)
    assert {(r['method'],r['against']) for r in t} == {('forest','chance'),('random probe','chance'),('pretrained probe','random probe'),('pretrained probe','forest')}
    assert np.allclose(t['p'], 2*stats.t.sf(abs(t['errors_better']), 3), equal_nan=True)   # four seeds
    assert np.allclose((one := gain_table(task, run_methods(['chance','forest'], task, fixed), fixed))['p'], 2*stats.norm.sf(abs(one['errors_better'])), equal_nan=True)

def test_lower_is_better_for_redshifts(c, encoder):
    task = redshift_task(c, encoder)
    parts = fold_parts(task, 3)
    t = gain_table(task, run_methods(['chance','forest'], task, parts), parts)
    assert t['difference'][0] < 0 and t['errors_better'][0] > 2

def test_every_gain_has_a_baseline_that_differs_in_one_thing():
    for name in ALL:
        first,(_,_,head) = measured_against(name)[0],name.rpartition(' ')
        assert first == (f'random {head}' if name.startswith('pretrained') else 'chance')

def test_words_for_methods():
    assert method_names('') == ['chance','forest','pixels','random probe','pretrained probe','random knn','pretrained knn']
    assert method_names('knn, pretrained finetune') == ['random knn','pretrained knn','pretrained finetune']
    for wrong in ('magic','pretrained magic','pretrained'):
        with pytest.raises(InputError, match='There is no method'): method_names(wrong)
    with pytest.raises(InputError, match='no encoder'): Task(range(3), [0,1,2], 'abc').model('pretrained')
    with pytest.raises(InputError, match='one for each'): Task(range(3), [0,1])

def test_a_class_that_does_not_train(c, encoder):
    "has no probability, and does no harm"
    task = class_task(c, encoder)
    train,valid,test = fold_parts(task, 1)[0]
    train = train[task.y[train] < 2]
    for name in ALL:
        found = run_method(name, task, train, valid, test, epochs=1)
        assert np.isfinite(found['probability']).all() and not (found['prediction'] == 2).any(), name

def test_each_object_once(c, encoder):
    task = class_task(c, encoder)
    parts = fold_parts(task, 6)                                           # the sixth tests some again
    results = run_methods(['chance'], task, parts)['chance']
    rows,found = each_once(results, parts)
    assert rows.tolist() == list(range(90)) and len(found['prediction']) == 90

@pytest.mark.parametrize('n,size', [(1,8),(600,8),(1540,16),(2400,32),(10**6,256)])
def test_small_sets_have_small_batches(n, size): assert batch_size(n) == size

@pytest.mark.parametrize('size,rows,cols', [((32,32),(1,2),(1,2)), ((40,24),(1,2,3),(0,1,2)), ((8,16),(0,),(0,1))])
def test_central_patches(size, rows, cols):
    torch.manual_seed(0)
    m = BandEncoder(size, 8, 'gr', embed_dim=16, depth=1, num_heads=2).eval()
    m.init_weights()
    x = torch.randn(3,2,*size)
    middle = torch.tensor([r*m.grid[1]+k for r in rows for k in cols])
    with torch.no_grad():
        torch.testing.assert_close(m.embed(x, pool='central'), m.encode(x)[:,middle].mean(1))
        r,k = rows[0],cols[0]
        x[0,:,8*r:8*r+8,8*k:8*k+8] = torch.nan                            # one of them was not observed
        if len(middle) > 1: torch.testing.assert_close(m.embed(x, pool='central')[0], m.encode(x)[0,middle[1:]].mean(0))
        x[1,:,8*rows[0]:8*rows[-1]+8,8*cols[0]:8*cols[-1]+8] = torch.nan  # none was
        e = m.embed(x, pool='central')
    everything = x[1].isnan().all()
    assert e[2].isfinite().all() and e[1].isfinite().all() != everything

def test_subsets_are_nested_and_balanced(c, encoder):
    task = class_task(c, encoder)
    task.y[:60:3] = -1                                                    # ten of class 0 are left
    rows = task.known
    sizes = label_sizes(task, rows, first=4, factor=2)
    assert sizes == [4,8,16,0]
    subsets = label_subsets(task, rows, sizes, seed=1)
    for (a,b),(p,q) in zip(subsets, subsets[1:]): assert set(a) < set(p) and set(b) < set(q)
    assert all(not set(a) & set(b) for a,b in subsets)
    assert np.bincount(task.y[np.concatenate(subsets[1])]).tolist() == [8,8,8] and np.bincount(task.y[subsets[1][1]]).tolist() == [2,2,2]
    assert np.array_equal(np.sort(np.concatenate(subsets[-1])), rows)
    assert not np.array_equal(subsets[0][0], label_subsets(task, rows, sizes, seed=2)[0][0])
    assert np.bincount(task.y[np.concatenate(label_subsets(task, rows, [20])[0])]).tolist() == [10,20,20]
    z = redshift_task(c, encoder)
    assert [len(np.concatenate(s)) for s in label_subsets(z, z.known, [10,0])] == [10,90]

def test_curves_count_the_labels_that_validate(c, encoder, tmp_path):
    task = class_task(c, encoder)
    parts = fold_parts(task, 2)
    table = label_efficiency(['chance','pretrained probe','pretrained finetune'], task, parts, [4,0], images=30, run=RunDir(tmp_path/'r'))
    assert sorted(set(table['labels'])) == [12,72] and len(table) == 12
    assert len(list((tmp_path/'r/answers').iterdir())) == 12 and not list((tmp_path/'r/fits').iterdir())
    assert np.allclose(curves(table)['chance']['mean'], 1/3)

def test_labels_needed_on_curves_that_fall():
    assert labels_needed([10,100,1000], [.5,.4,.8], .45) == pytest.approx(10**2.125)      # a lucky start does not count
    assert labels_needed([10,100,1000], [.5,.46,.8], .45) == pytest.approx(10)
    assert labels_needed([10,100,1000], [.3,.6,.5], .45) == pytest.approx(10**1.5)
    assert np.isnan(labels_needed([10,100], [.1,.2], .3))

def test_sentences():
    n,scores = [32,96,288,2400],{'pretrained probe': [.5,.6,.7,.8], 'random finetune': [.3,.4,.5,.6], 'cnn': [.2,.2,.3,.45]}
    t = Table(rows=[(0, k, i, m, s) for k,v in scores.items() for i,(m,s) in enumerate(zip(n, v))], names=('seed','method','size','labels','score'))
    said = in_words(equal_points(t), 1, 32)
    assert 'With 96 labels the probe equals training from scratch on 2,400 (0.600; 96 to 96 in single seeds).' in said
    assert 'With 32 labels or fewer the probe equals the supervised ResNet on 2,400 (0.450; 32 to 32 in single seeds).' in said
    assert not any(s.startswith('With 32 labels or fewer the supervised') for s in said)
