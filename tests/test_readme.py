"README.md is what nbs/index.ipynb says"
import runpy
from pathlib import Path

root = Path(__file__).parent.parent

def test_readme_in_sync():
    tool = runpy.run_path(str(root/'tools/readme.py'))
    assert (root/'README.md').read_text() == tool['readme'](), 'README.md is out of step with nbs/index.ipynb: run make readme'
