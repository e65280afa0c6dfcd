"How the house reads is measured, and may only get better: tests/house.json has the ceilings (`python tests/house.py --lower` after a change for the better)"
import re
import pytest
from house import ceilings, measure, root, table

@pytest.fixture(scope='module')
def numbers():
    found = measure()
    print('\n' + table(found, ceilings()))
    return found

@pytest.mark.parametrize('name', list(ceilings()))
def test_no_worse(numbers, name):
    assert numbers[name] <= ceilings()[name], f'{name}: {numbers[name]}, and it was {ceilings()[name]}\n{table(numbers, ceilings())}'

def test_every_module_has_its_page():
    "nbdev-export leaves the module of a page that moved or went"
    for p in sorted((root/'astromask').rglob('*.py')):
        if m := re.search(r'File to edit: (\S+\.ipynb)', p.read_text()): assert (p.parent/m[1]).exists(), p
