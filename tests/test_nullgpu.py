"What a step asks of a CUDA device, on one that computes nothing: nullgpu/ceilings.json has the ceilings, which may only fall (`python tests/test_nullgpu.py` lowers them)"
import json, subprocess, sys, tempfile
from pathlib import Path
import pytest

HERE = Path(__file__).parent/'nullgpu'
CEILINGS = HERE/'ceilings.json'
sys.path.insert(0, str(HERE))
import standin

def ceilings(): return json.loads(CEILINGS.read_text())
def limited(steps): return {k: {o: v for o,v in s.items() if o in ('launches','syncs','elsewhere','pageable','fetched')} for k,s in steps.items()}

def walked(library, kind, *names):
    "What walk.py counted, by name"
    ran = subprocess.run([sys.executable, HERE/'walk.py', kind, *names], env=standin.environment(library), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return {o[kind]: o for o in map(json.loads, ran.stdout.splitlines())}

@pytest.fixture(scope='module')
def library(tmp_path_factory):
    if why := standin.why_not(): pytest.skip(f'no stand-in for a CUDA device: {why}')
    return standin.built(tmp_path_factory.mktemp('nullgpu'))

def check(found, name):
    for k,most in ceilings()[name].items(): assert found[k] <= most, f'{name}: {k} a step was at most {most}, and is {found[k]}; who waits: {found["waits"]}'

def test_small(library):
    "The stand-in counts what is known, and a step of the smallest model asks for no more than it did"
    found = walked(library, 'step', 'itself', 'small')
    known = found['itself']
    assert (known['asked'],known['refused'],known['captured'],known['replayed']) == ([1,1,1],True,[2],[0,3])
    check(found['small'], 'small')

@pytest.fixture(scope='module')
def steps(library): return walked(library, 'step', *(k for k in ceilings() if k != 'small'))

@pytest.mark.slow
@pytest.mark.parametrize('name', [k for k in ceilings() if k != 'small'])
def test_step(steps, name): check(steps[name], name)

if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder: found = limited(walked(standin.built(folder), 'step', *ceilings()))
    lowered = {k: {o: min(v, found[k][o]) for o,v in limits.items()} for k,limits in ceilings().items()}
    CEILINGS.write_text(json.dumps(lowered, indent=1) + '\n')
