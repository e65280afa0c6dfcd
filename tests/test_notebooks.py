"Every notebook runs from top to bottom: one case each, without the cells flagged slow or cuda unless asked for (--flags slow)"
import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb as run_nb # renamed so that pytest does not collect it
from toys import empty_picture

cfg = get_config()
notebooks = sorted(nbglob(cfg.nbs_path, as_path=True))

LONG = {f'experiments/{o}.ipynb' for o in ('81_evaluate','82_redshift','83_label_efficiency','84_search')} | {'70_bench.ipynb'}  # half a minute each, or more

def name(p): return p.relative_to(cfg.nbs_path).as_posix()

@pytest.fixture(autouse=True)
def unshown(monkeypatch):
    "What a cell shows is not drawn: that takes time, and a picture that fails is a message below its cell, which fails no page"
    monkeypatch.setattr('IPython.core.pylabtools.print_figure', lambda *args, **kw: empty_picture())

def marks(p):
    "An experiment keeps figures by itself, and without one it fails"
    drawn = 'experiments/' in name(p) or name(p) == '69_cluster.pages.ipynb'
    return [pytest.mark.slow]*(name(p) in LONG) + [pytest.mark.drawn]*drawn

@pytest.mark.parametrize('path', [pytest.param(p, marks=marks(p)) for p in notebooks], ids=name)
def test_notebook(path, request):
    flags = request.config.getoption('--flags').split()
    ok,_ = run_nb(path, skip_flags=cfg.tst_flags.split(), force_flags=flags, basepath=cfg.config_path)
    assert ok
