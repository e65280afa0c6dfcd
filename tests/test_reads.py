"The page 'What we read and what we assume' holds every entry of the tables that the code uses"
import importlib, json, pkgutil, re
from pathlib import Path
import pytest
import astromask.data, astromask.units

PAGE = Path(__file__).parents[1]/'nbs'/'19_data.reads.ipynb'
ELSEWHERE = {'astromask.data.loaders','astromask.data.scaling','astromask.data.duplicates','astromask.data.augment','astromask.data.catalogs'}    # their tables are no part of reading

def public_tables():
    "(module, name) of what rooms that read files publish in capitals"
    rooms = [f'astromask.data.{m.name}' for m in pkgutil.iter_modules(astromask.data.__path__)]
    for room in [o for o in rooms if o not in ELSEWHERE] + ['astromask.units','astromask.surveys']:
        yield from ((room, k) for k in importlib.import_module(room).__all__ if k.isupper())

def entries(o):
    "All words and numbers within a table"
    if isinstance(o, dict): return [e for k,v in o.items() for e in entries(k)+entries(v)]
    if isinstance(o, re.Pattern): return [o.pattern]
    if isinstance(o, (tuple,list,set,frozenset)): return [e for v in o for e in entries(v)]
    return [o] if isinstance(o, (str,bytes)) or isinstance(o, (int,float)) and not isinstance(o, bool) else []

def on_page(o, page):
    "Does a word, number or pattern stand on the page, by itself or among words that go with it?"
    text = (o if isinstance(o, str) else f'{o:g}' if isinstance(o, float) else str(o)).replace('|', r'\|')
    alone = re.search(rf'(?<!\w){re.escape(text)}(?!\w)', page) or isinstance(o, int) and hex(o) in page
    return bool(alone) or isinstance(o, str) and len(o.split()) > 1 and all(on_page(w, page) for w in o.split())

def outputs(nb):
    out = [o.get('data', {}).get('text/markdown', '') for c in nb['cells'] for o in c.get('outputs', [])]
    return '\n'.join(''.join(o) for o in out)

@pytest.mark.parametrize('room, name', sorted(public_tables()))
def test_every_entry_is_on_the_page(room, name):
    page = outputs(json.loads(PAGE.read_text()))
    missing = [o for o in entries(getattr(importlib.import_module(room), name)) if not on_page(o, page)]
    assert not missing, f'{name} of {room} has {missing[:8]}, which {PAGE.name} does not show: run it again (nbdev-test --save), or give the table a place'

def test_outcomes_are_those_of_now():
    "No case of the page ended in anything but an answer or a sentence"
    page = outputs(json.loads(PAGE.read_text()))
    assert 'Traceback' not in page and page.count('| refused: ') >= 4
