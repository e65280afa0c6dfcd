"The recipes of slurm/params, one for each setting of an earlier system: each fits its notebook, and runs on data as that system had them"
from pathlib import Path
import h5py, matplotlib.pyplot as plt, numpy as np, pytest, torch
from torch.utils.data import TensorDataset
from astromask.cluster.sweeps import plan_sweep, read_grid
from astromask.core import RunDir
from astromask.data.cutouts import Cutouts
from astromask.files import read_json
from astromask.models.mae import MAE
from astromask.models.simmim import SimMIM
from astromask.models.weights import save_model
from astromask.parameters import check_parameters, find_experiment, read_parameters, read_params_file
from astromask.tasks.methods import method_names

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT/'slurm'/'params').glob('*-*.yaml'))
GRIDS = sorted((ROOT/'slurm'/'sweeps').glob('*.yaml'))
SYSTEMS = {p.stem.split('-', 1)[1] for p in RECIPES}

def typed(recipe):
    "The experiment of a recipe and what it sets, of its type"
    experiment,given = recipe.stem.split('-')[0],read_params_file(recipe)
    whole = check_parameters(read_parameters(find_experiment(experiment)), given)
    return experiment,{k: whole[k] for k in given}

# ---- quick

@pytest.mark.parametrize('recipe', RECIPES, ids=lambda p: p.stem)
def test_a_recipe_fits_its_notebook(recipe):
    experiment,p = typed(recipe)
    if experiment == 'pretrain':
        sizes = dict(mae=MAE, simmim=SimMIM)[p['method']].presets[p['preset']]
        assert sizes['img_size'] in (32, 64, 224, 256)
    assert method_names(p.get('methods', ''))
    assert recipe.read_text().startswith('# ')                       # whose it is

def test_every_system_has_its_pretraining():
    assert {f'pretrain-{s}' for s in SYSTEMS} == {p.stem for p in RECIPES if p.stem.startswith('pretrain-')}

@pytest.mark.parametrize('grid', GRIDS, ids=lambda p: p.stem)
def test_a_grid_fits_its_recipe(grid, tmp_path):
    system = grid.stem.split('-')[0]
    recipe = next(r for r in RECIPES if r.stem.endswith(f'-{system}') and r.name in grid.read_text())
    sweep = plan_sweep(recipe.stem.split('-')[0], read_params_file(recipe), read_grid(grid), tmp_path)
    assert len(sweep.points) in (4, 5, 11)

# ---- some steps on data of that layout

def pixels(*shape): return np.random.default_rng(len(shape)).normal(1, .3, shape).astype('f4')

def h5(path, **arrays):
    with h5py.File(path, 'w') as f:
        for k,v in arrays.items(): f[k] = v
    return path

n,three = 60,np.arange(60) % 3
sky = dict(ra=np.arange(n)*.1, dec=np.zeros(n), zspec=np.linspace(.2, .9, n).astype('f4'))
colours = lambda size: (pixels(n, size, size, 3)*100).clip(0, 255).astype('u1')
LAYOUTS = dict(
    galaxy10=lambda d: dict(data=h5(d/'Galaxy10_DECals.h5', images=colours(256), ans=three, ra=sky['ra'], dec=sky['dec'])),
    sky_embeddings=lambda d: dict(bands='g,i,r,y,z', data=h5(d/'s.h5', cutouts=pixels(n,5,64,64), **{'class': three.astype('f4')}, zspec_err=np.full(n, .01, 'f4'), **sky)),
    astromask=lambda d: dict(bands='u,g,r,i,z', data=h5(d/'cutout.stacks.ugriz.lsb.200x200.0.60.h5', images=pixels(n,5,200,200), zspec=sky['zspec'])),
    unions=lambda d: dict(bands='u,g,r,i,z', data=h5(d/'u.h5', cutouts=pixels(n,5,64,64), is_dwarf=np.arange(n) % 2, **sky)),
    mae=lambda d: dict(bands='R,G,B', data=h5(d/'Galaxy10_DECals.h5', images=colours(224), ans=three)),
    simmim=lambda d: dict(bands='R,G,B', data=h5(d/'Galaxy10_DECals.h5', images=colours(224), ans=three)))

def astromae(d):
    torch.save(TensorDataset(torch.from_numpy(pixels(n,5,32,32)), torch.from_numpy(np.random.default_rng(0).uniform(14, 20, (n,5))), torch.linspace(.01, .3, n)), d/'0.pt')
    return dict(data=d/'0.pt')
LAYOUTS['astromae'] = astromae

FEW = dict(pretrain=dict(preset='tiny', epochs=1, bs=16, amp=''), evaluate=dict(epochs=1, seeds=1, splits=3),
           label_efficiency=dict(sizes='4', seeds=1, splits=3, images=16), redshift=dict(epochs=1, by_place=False), search=dict(k=3, draws=1, rounds=1, ask=3))

def perform(experiment, params, out):
    "Execute the cells of an experiment here: no kernel has to start for it"
    names = dict(display=lambda *o: None)
    for cell in read_json(find_experiment(experiment))['cells']:
        if cell['cell_type'] != 'code': continue
        exec(compile(''.join(cell['source']), experiment, 'exec'), names)
        if 'parameters' in cell['metadata'].get('tags', ()): names |= params | dict(run_dir=str(out))
        plt.close('all')
    return RunDir(out).metrics()

@pytest.mark.slow
@pytest.mark.parametrize('recipe', RECIPES, ids=lambda p: p.stem)
def test_a_recipe_runs_on_its_data(recipe, tmp_path, monkeypatch):
    "The same with a small model of the same patches, for a step or a few"
    monkeypatch.setenv('IN_TEST', '1')
    experiment,p = typed(recipe)
    where = {k: str(v) for k,v in LAYOUTS[recipe.stem.split('-', 1)[1]](tmp_path).items()}
    few = dict(FEW[experiment])
    if experiment == 'pretrain':
        sizes = dict(mae=MAE, simmim=SimMIM)[p['method']].presets[p['preset']]
        few |= {k: sizes[k] for k in ('img_size','patch_size')}
    else:
        c = Cutouts.open(where['data'], bands=where.get('bands') or None)
        few['model'] = str(tmp_path/'model')
        save_model(MAE.preset('tiny', bands=c.bands), few['model'])
    spec = read_parameters(find_experiment(experiment))
    found = perform(experiment, check_parameters(spec, where | p | few), tmp_path/'run')
    if experiment == 'pretrain': assert found['pretrain']['steps'] >= 3 and np.isfinite(found['pretrain']['train_loss'])
    else: assert found.get('scores') or found.get('records') or found.get('curves') or found
