"tools/gpu_check.py runs to its end where there is no GPU, and says what it could not check"
import json, os, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
import pytest, torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT/'tests'/'nullgpu'), str(ROOT/'tools')]
import standin

def checks(tmp_path, *options, **how):
    "What it found, by check"
    ran = subprocess.run([sys.executable, ROOT/'tools'/'gpu_check.py', '--out', tmp_path/'found.json', *options], capture_output=True, text=True, **how)
    assert (tmp_path/'found.json').exists(), ran.stderr[-3000:]
    found = {o['check']: o for o in json.loads((tmp_path/'found.json').read_text())['checks']}
    assert ran.returncode == any(o['result'] == 'BAD' for o in found.values()), ran.stdout
    assert all(o['numbers'] if o['result'] == 'good' else o['why'] for o in found.values()), ran.stdout
    return found, ran.stdout

def unchecked(found): return {k for k,o in found.items() if o['result'] == 'not checked'}

@pytest.mark.slow
def test_on_the_cpu(tmp_path):
    found,said = checks(tmp_path, '--device', 'cpu')
    assert unchecked(found) == {'halves_learn','no_waits','idle','speeds','recorded','compiled','loaders','memory','too_large','two_ranks'}, said
    assert all(o['result'] != 'BAD' for o in found.values()), said

@pytest.mark.slow
def test_on_a_device_that_computes_nothing(tmp_path, tmp_path_factory):
    if why := standin.why_not(): pytest.skip(f'no stand-in for a CUDA device: {why}')
    library = standin.built(tmp_path_factory.mktemp('nullgpu'))
    found,said = checks(tmp_path, env=standin.environment(library))
    assert {k for k,o in found.items() if o['result'] == 'good'} == {'no_waits','saved','too_large'}, said
    assert len(unchecked(found)) == len(found)-3, said

@pytest.mark.slow
def test_what_is_bad_is_said(tmp_path):
    "A check that finds something else, one that breaks, and one that comes too late"
    import gpu_check
    def apart(p): return False, dict(apart=2.)
    def broken(p): raise ValueError('no such kernel')
    assert [gpu_check.checked(o, None)['result'] for o in (apart,broken)] == ['BAD']*2
    assert 'no such kernel' in gpu_check.line(gpu_check.checked(broken, None))
    found,said = checks(tmp_path, '--device', 'cpu', '--minutes', '0')
    assert len(unchecked(found)) == len(gpu_check.CHECKS) and 'minutes were over' in said

def test_what_a_profiler_sees():
    "Only what the device does between the marks counts, and copies are no kernels"
    import gpu_check
    cuda,cpu = torch.autograd.DeviceType.CUDA,torch.autograd.DeviceType.CPU
    mark = 'at::cuda::spin_kernel(long)'
    seen = [('flash_fwd',20,25,cuda), (mark,10,11,cuda), ('before',1,9,cuda), ('host',12,30,cpu), ('gemm',12,16,cuda), ('Memcpy HtoD',30,32,cuda), (mark,40,41,cuda), ('after',50,60,cuda)]
    events = [SimpleNamespace(name=name, device_type=where, time_range=SimpleNamespace(start=a, end=b)) for name,a,b,where in seen]
    assert gpu_check.step_profile(gpu_check.between_marks(events), 2) == dict(kernels=1., idle=.45, flash=True)
    assert gpu_check.kernels_known('small') > 100
