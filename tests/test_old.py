"""Runs that were begun by earlier versions: their checkpoints and models open, and training goes on.

tests/old holds one run per format. `python tests/test_old.py tests/old/format-2` makes that of the format 2, when there is one."""
import shutil, sys
from pathlib import Path
import numpy as np, pytest, torch
from astromask.core import InputError
from astromask.files import read_json, write_json
from astromask.data.cutouts import Cutouts
from astromask.data.loaders import cutout_dls
from astromask.models.mae import MAE
from astromask.models.weights import load_model, model_hash
from astromask.train.checkpoint import FORMAT, checkpoints, load_checkpoint, newest_checkpoint
from astromask.train.pretrain import pretrain_learner

OLD = sorted((Path(__file__).parent/'old').glob('format-*'))

def learner(folder, out, **kw):
    "What these runs train on what: forty cutouts of noise"
    x = np.random.RandomState(0).standard_normal((40,2,8,8)).astype('float32')    # its numbers never change
    c = Cutouts.open(Cutouts.write(Path(folder)/'survey.h5', x, bands='gr'))
    torch.manual_seed(0)
    m = MAE.preset('tiny', bands=c.bands, img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2, mlp_ratio=2)
    return pretrain_learner(cutout_dls(c, 8, bs=8, valid=.2, device='cpu'), m, out, ema=.9, **kw)

def make(out):
    "An epoch, of which the checkpoint and the model are kept"
    learner(out.parent, out).fit(1)
    for o in [*(p for p in out.iterdir() if p.name not in ('checkpoints','model','history.csv')), out.parent/'survey.h5']:
        shutil.rmtree(o) if o.is_dir() else o.unlink()

def test_every_format_is_kept(): assert [p.name for p in OLD] == [f'format-{n}' for n in range(1, FORMAT+1)]

@pytest.mark.parametrize('old', OLD, ids=lambda p: p.name)
def test_an_old_run_goes_on(old, tmp_path):
    out = shutil.copytree(old, tmp_path/'run')
    assert sum(p.stat().st_size for p in old.rglob('*') if p.is_file()) < 100_000
    before = load_model(out)
    tensors,state,path = newest_checkpoint(out/'checkpoints')
    torch.testing.assert_close(before.norm.weight, tensors['mean.norm.weight'])
    learn = learner(tmp_path, out)
    learn.fit(2)
    assert (learn.step, learn.epochs_done) == (2*state['step'], 2) and learn.history.rows[0].items() >= state['history'][0].items()
    assert [row['images'] for row in learn.history.rows] == [32, 64]      # which it did not keep
    after = load_model(out)
    assert not torch.equal(after.norm.weight, before.norm.weight)
    x = torch.randn(3, 2, 8, 8)
    assert before.encode(x).shape == after.encode(x).shape

def test_an_old_run_keeps_its_optimizer(tmp_path):
    "A run of before there was a choice was one of AdamW's"
    out = shutil.copytree(OLD[0], tmp_path/'run')
    with pytest.raises(InputError, match='was begun with optimizer adamw, and now it is nadamuon'): learner(tmp_path, out, optimizer='nadamuon').fit(2)

def test_an_attentive_head_of_one_query_answers_as_before():
    p = load_model(Path(__file__).parent/'old'/'attentive')
    x = np.random.RandomState(0).standard_normal((4,2,8,8)).astype('float32')
    x[1,0] = x[2,:,:4] = np.nan
    with torch.no_grad(): np.testing.assert_allclose(p.predict(x)['probability'][:,0], [.24229172,.3880335,.38633674,.5943615], atol=1e-5)
    assert model_hash(p).startswith('fdce05e36ab9acb8') and 'queries' not in p.config

def test_a_later_format_is_refused(tmp_path):
    out = shutil.copytree(OLD[-1], tmp_path/'run')
    sums = checkpoints(out/'checkpoints')[0]/'sums.json'
    write_json(sums, read_json(sums) | dict(format=FORMAT+1))
    with pytest.raises(InputError, match=f'has format {FORMAT+1}, and this AstroMASK reads format {FORMAT}: continue the run with the AstroMASK that wrote it'): learner(tmp_path, out).fit(2)
    assert sums.exists() and len(checkpoints(out/'checkpoints')) == 1
    write_json(sums, {k: v for k,v in read_json(sums).items() if k != 'format'})      # as before formats had numbers
    assert load_checkpoint(sums.parent)[1]['epochs_done'] == 1

if __name__ == '__main__': make(Path(sys.argv[1]))
