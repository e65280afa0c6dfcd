"The command line: quick to answer, clear when it refuses."
import subprocess, sys
from pathlib import Path
import pytest, yaml
from click.testing import CliRunner
from astromask.cli import main
from astromask.parameters import check_parameters, experiments, find_experiment, read_parameters
from toys import astromask, toy

RECIPES = sorted((Path(__file__).parent.parent/'slurm'/'params').glob('*.yaml'))

def call(*args): return CliRunner().invoke(main, [str(a) for a in args])

def test_help_is_quick():
    r = astromask('--help')
    assert r.returncode == 0 and all(verb in r.stdout for verb in ('simulate','inspect','run'))
    code = 'import sys, astromask.cli; print(*sys.modules)'
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'astromask.runs' in r.stdout
    assert not {'torch','galsim','astropy','h5py','matplotlib','papermill','jupyter_client'} & set(r.stdout.split())

def test_every_verb_has_help():
    for verb in main.commands: assert call(verb, '--help').exit_code == 0
    assert call('paint').exit_code == 2 and call('inspect').exit_code == 2

@pytest.mark.parametrize('args,says', [
    (['pretain'], "no experiment 'pretain'"), (['nowhere/a.ipynb'], 'no experiment'),
    (['NB', '-p', 'epoch', '3'], 'did you mean epochs?'), (['NB', '-p', 'run_dir', 'x'], '--out'),
    (['NB', '-p', 'epochs', 'many'], "epochs is of type int; 'many' is not"),
    (['NB', '-p', 'epochs', '5.5'], "'5.5' is not"), (['NB', '-p', 'epochs', ''], "'' is not"),
    (['NB', '-f', 'none.yaml'], 'Could not read none.yaml'), (['NB', '-f', 'bad.yaml'], 'bad.yaml is not valid YAML'),
    (['NB', '-f', 'list.yaml'], 'lines of `name: value`'), (['NB', '-f', 'unknown.yaml'], "no parameter 'maskratio'"),
    (['NB', '-f', 'empty.yaml'], 'epochs is of type int; None is not')])
def test_run_refuses_bad_input_before_it_starts(tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    recipes = dict(bad='a: [1', list='- 1', unknown='maskratio: 1', empty='epochs:')
    for name,text in recipes.items(): Path(f'{name}.yaml').write_text(text)
    nb = toy(tmp_path)
    r = call('run', *[nb if a == 'NB' else a for a in args])
    assert r.exit_code == 2 and says in r.stderr, r.stderr
    assert r.stderr.startswith('astromask: ') and r.stderr.count('\n') == 1
    assert not Path('runs').exists()

def test_run_lists(tmp_path):
    r = call('run', toy(tmp_path), '--parameters')
    assert r.exit_code == 0 and 'epochs: int = 2' in r.output and '# Passes' in r.output and 'run_dir' not in r.output
    r = call('run')
    assert r.exit_code == 0 and all(name in r.output for name in experiments())

def test_experiments_have_parameters():
    for path in experiments().values():
        spec = read_parameters(path)
        assert 'run_dir' in spec and check_parameters(spec, {}), path

@pytest.mark.parametrize('recipe', RECIPES, ids=lambda p: p.stem)
def test_recipes_fit_their_notebooks(recipe):
    check_parameters(read_parameters(find_experiment(recipe.stem.split('-')[0])), yaml.safe_load(recipe.read_text()))

def test_simulate_then_inspect(tmp_path):
    out = tmp_path/'s.h5'
    r = call('simulate', out, '--n', 6, '--bands', 'gri', '--seed', 1)
    assert r.exit_code == 0 and out.exists(), r.output
    assert call('simulate', out, '--n', 6).exit_code == 2                       # not without --overwrite
    r = call('inspect', out)
    assert r.exit_code == 0 and '6' in r.output, r.output
    assert 'none, or not in every file' in r.output
    assert call('simulate', out, '--n', 6, '--bands', 'gri', '--ivar', '--overwrite').exit_code == 0
    assert 'inverse variance of every pixel' in call('inspect', out).output
    assert call('simulate', tmp_path/'t.h5', '--survey', 'nosuch').exit_code == 2
    assert call('simulate', tmp_path/'t.h5', '--bands', 'gx').exit_code == 2
    assert not (tmp_path/'t.h5').exists()

def test_inspect_refuses(tmp_path):
    (tmp_path/'empty.h5').touch()
    for name in ('none.h5', 'empty.h5'):
        r = call('inspect', tmp_path/name)
        assert r.exit_code == 2 and name in r.stderr, r.stderr
