"The simulated survey: what reads badly in a notebook (processes, kills, two at once)"
import os, signal, subprocess, sys, time
import numpy as np, pytest
from astromask.core import InputError
from astromask.data.cutouts import Cutouts
from astromask.data.simulate import simulate_survey, simulated_survey

def python(code, **kw): return subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)

def same(a, b): # Two files, as far as the shorter one goes
    a,b = Cutouts.open(a), Cutouts.open(b)
    n = min(len(a), len(b))
    np.testing.assert_array_equal(a[:n], b[:n])
    for name in a.catalog.colnames:
        x,y = (np.ma.filled(c.catalog[name][:n]) for c in (a,b))
        np.testing.assert_array_equal(x, y)

def test_same_objects_whatever_n_and_processes(tmp_path):
    one,two = simulate_survey(tmp_path/'one.h5', 100, processes=1), simulate_survey(tmp_path/'two.h5', 130, processes=2)
    same(one, two)
    other = simulate_survey(tmp_path/'other.h5', 4, seed=1)
    assert not np.array_equal(Cutouts.open(other)[:4], Cutouts.open(one)[:4], equal_nan=True)

def test_script_without_a_main_guard_may_use_processes(tmp_path):
    run = python(f'from astromask.data.simulate import simulate_survey; print(simulate_survey({str(tmp_path/"a.h5")!r}, 66, processes=2))')
    out,_ = run.communicate(timeout=600)
    assert run.returncode == 0, out
    assert len(Cutouts.open(tmp_path/'a.h5')) == 66

def test_killed_simulation_leaves_nothing_at_the_path(tmp_path):
    run = python(f'from astromask.data.simulate import simulated_survey; simulated_survey(20000, cache={str(tmp_path)!r}, processes=1)')
    folder,end = tmp_path/'simulated', time.time()+300
    while time.time() < end and not (folder.is_dir() and any(folder.iterdir())): time.sleep(.1)
    assert any(folder.iterdir()), run.communicate()
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not list(folder.glob('[!.]*.h5'))

def test_two_at_once_both_get_the_file(tmp_path):
    code = f'from astromask.data.simulate import simulated_survey; print(simulated_survey(20, cache={str(tmp_path)!r}, processes=1))'
    runs = [python(code), python(code)]
    paths = {r.communicate(timeout=600)[0].strip().splitlines()[-1] for r in runs}
    assert [r.returncode for r in runs] == [0,0] and len(paths) == 1
    assert len(Cutouts.open(paths.pop())) == 20
    assert len(os.listdir(tmp_path/'simulated')) == 1

@pytest.mark.parametrize('wrong,says', [
    (dict(n=0), 'n=0'), (dict(n=2.5), 'n=2.5'), (dict(n='many'), 'n=many'), (dict(survey='2mass'), '2mass'), (dict(bands='ugx'), "'x'"), (dict(bands='gg'), 'each given once'),
    (dict(seed=-1), 'seed=-1'), (dict(size=7), 'size=7'), (dict(limit=40), 'limit=40'), (dict(fractions={'comet':1}), 'comet'),
    (dict(fractions={'star':-1}), 'star'), (dict(fractions={}), 'at least one')])
def test_bad_arguments_are_one_sentence(tmp_path, wrong, says):
    with pytest.raises(InputError, match=says): simulate_survey(tmp_path/'x.h5', **(dict(n=4)|wrong))
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('survey', ['sdss','hsc','unions','legacy','nircam'])
def test_every_survey_has_measurable_objects(tmp_path, survey):
    c = Cutouts.open(simulate_survey(tmp_path/'x.h5', 12, survey, processes=1))
    ref = {'sdss':'r', 'hsc':'i', 'unions':'r', 'legacy':'r', 'nircam':'f200w'}[survey]
    assert np.nanmedian(c.catalog[f'snr_{ref}']) > 20
    assert np.isfinite(c[:]).mean() > .9

def test_classes_come_as_often_as_asked(tmp_path):
    c = Cutouts.open(simulate_survey(tmp_path/'x.h5', 60, fractions=dict(star=1, quasar=1), processes=1))
    kinds = np.asarray(c.catalog['class'])
    assert set(kinds) == {'star','quasar'} and 15 < (kinds == 'star').sum() < 45
    assert np.isnan(c.catalog['redshift'][kinds == 'star']).all()
