"How the house reads, in numbers: `python tests/house.py` prints the table; test_house.py holds each number at its ceiling"
import ast, json, re, sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
import numpy as np

root = Path(__file__).parent.parent
DEFINITIONS = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef

@dataclass
class Cell:
    "A code cell that is not hidden"
    source:str
    exported:bool
    tree:ast.Module = field(init=False)
    def __post_init__(self):
        try: self.tree = ast.parse(self.source)
        except SyntaxError: self.tree = ast.parse(re.sub(r'^ *[%!].*$', 'pass', self.source, flags=re.M))   # magics

    @property
    def definitions(self): return [n for n in self.tree.body if isinstance(n, DEFINITIONS)]

    @property
    def public(self): return [n for n in self.definitions if not n.name.startswith('_') or n.name.startswith('__')]

    @property
    def lines(self): return [l for l in self.source.splitlines() if l.strip() and not l.startswith('#|')]

    @property
    def imports_only(self): return all(isinstance(n, (ast.Import,ast.ImportFrom)) for n in self.tree.body)

def code_cells(nb):
    "The cells of a notebook that a reader sees"
    for c in json.loads(nb.read_text())['cells']:
        source = ''.join(c['source'])
        if c['cell_type'] != 'code' or re.search(r'^#\| *(hide|default_exp)', source, re.M): continue
        yield Cell(source, bool(re.search(r'^#\| *export', source, re.M)))

def pages(): return sorted(p for p in (root/'nbs').rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(root).parts))

def longest_run(cells):
    "Exported cells in a row without one that runs something"
    longest = run = 0
    for c in cells:
        run = run+1 if c.exported else 0
        longest = max(longest, run)
    return longest

def private_imports(cells):
    "Names with an underscore that a room takes from another"
    for c in cells:
        for n in ast.walk(c.tree):
            if isinstance(n, ast.ImportFrom) and (n.module or '').startswith('astromask'):
                yield from (a.name for a in n.names if a.name.startswith('_'))

def parallel(tree):
    "Statements that assign several expressions to several names at once"
    return sum(isinstance(n, ast.Assign) and isinstance(n.value, ast.Tuple) and any(isinstance(t, ast.Tuple) for t in n.targets) for n in ast.walk(tree))

def has_figure(nb):
    return any('image/' in k for c in json.loads(nb.read_text())['cells'] for o in c.get('outputs', []) for k in o.get('data', {})) \
        or any('![' in ''.join(c['source']) or '```{mermaid}' in ''.join(c['source']) for c in json.loads(nb.read_text())['cells'] if c['cell_type'] == 'markdown')

def module_graph():
    "Module -> modules of ours that it imports when it is imported"
    graph = {}
    for p in sorted((root/'astromask').rglob('*.py')):
        if 'experiments' in p.parts: continue
        name = '.'.join(p.relative_to(root).with_suffix('').parts).removesuffix('.__init__')
        found = set()
        for n in ast.parse(p.read_text()).body:
            if isinstance(n, ast.ImportFrom):
                base = name.split('.')[:-n.level] if n.level else []
                module = '.'.join([*base, *([n.module] if n.module else [])])
                if module.startswith('astromask'): found |= {module}
        graph[name] = found
    return graph

def circles(graph):
    "Modules that import themselves by a detour"
    def reaches(a, b, seen):
        return any(o == b or o not in seen and (seen.add(o) or reaches(o, b, seen)) for o in graph.get(a, ()))
    return [m for m in graph if reaches(m, m, set())]

def measure():
    "The numbers, by name"
    rooms = {p: list(code_cells(p)) for p in pages()}
    exported = [c for cells in rooms.values() for c in cells if c.exported and not c.imports_only]
    sizes = [len(c.lines) for c in exported]
    code = [l for cells in rooms.values() for c in cells for l in c.lines]
    package = [c for cells in rooms.values() for c in cells if c.exported]
    at = defaultdict(set)
    for p,cells in rooms.items():
        for c in cells:
            if c.exported:
                for n in c.definitions:
                    if not any(isinstance(d, ast.Call) or getattr(d, 'id', '') == 'patch' for d in n.decorator_list): at[n.name].add(p.stem)
    graph = module_graph()
    return {
        'exported cells': len(exported),
        'lines of an exported cell: median': float(np.median(sizes)),
        'lines of an exported cell: p90': float(np.percentile(sizes, 90)),
        'lines of an exported cell: max': max(sizes),
        'exported cells over 40 lines': sum(n > 40 for n in sizes),
        'definitions per exported cell': round(float(np.mean([len(c.definitions) for c in exported])), 2),
        'exported cells with more than one public definition, %': round(100*float(np.mean([len(c.public) > 1 for c in exported])), 1),
        'lines over 120 characters': sum(len(l) > 120 for l in code),
        'parallel assignments per 100 lines': round(100*sum(parallel(c.tree) for c in package)/sum(len(c.lines) for c in package), 2),
        'private names imported across rooms': sum(1 for p,cells in rooms.items() for _ in private_imports(c for c in cells if c.exported)),
        'longest run of exported cells without a lesson': max(longest_run([c for c in cells if not c.imports_only]) for cells in rooms.values()),
        'pages without a figure': sum(not has_figure(p) for p in rooms),
        'names defined in more than one room': sum(len(v) > 1 for v in at.values()),
        'modules in an import circle': len(circles(graph)),
        'imports of data by models': sum(m.startswith('astromask.models') and o.startswith('astromask.data') for m,os in graph.items() for o in os),
        'lines of the package': sum(bool(l.strip()) and not l.startswith('# %%') for p in (root/'astromask').rglob('*.py') if p.name != '_modidx.py' and 'experiments' not in p.parts for l in p.read_text().splitlines()),
    }

def table(numbers, ceilings):
    "The numbers beside what they may be at most"
    width = max(map(len, numbers))
    return '\n'.join(f'{k:{width}} {v:>8} {"" if k not in ceilings else "<= " + str(ceilings[k])}' for k,v in numbers.items())

def ceilings(): return json.loads((root/'tests/house.json').read_text())

if __name__ == '__main__':
    if '--lower' in sys.argv:
        now = measure()
        (root/'tests/house.json').write_text(json.dumps({k: min(v, now[k]) for k,v in ceilings().items()}, indent=1) + '\n')
    print(table(measure(), ceilings()))
