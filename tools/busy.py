"""Training beside busy processes, by how threads wait for each other: `python tools/busy.py [ROUNDS [SPINS ...]]`

A step of `small` (MAE, gradient and AdamW on 64 images of 3 x 64 x 64) on as many threads as there are cores, alone and beside two
and five processes that never rest. Each way of waiting (as training with astromask has it, libgomp's own, without spinning, and
SPINS) takes turns in a process of its own. Images a second by the clock: the median of the rounds, and their range."""
import json, os, subprocess, sys, time
from contextlib import nullcontext
import numpy as np

WAYS = {'astromask': {}, "libgomp's own": dict(GOMP_SPINCOUNT='300000'), 'no spinning': dict(OMP_WAIT_POLICY='passive')}

def measured(plain, seconds=4., before=2.):
    "Images a second, after some seconds before"
    from original_mae import ours
    m,loss,fused = ours()
    import torch
    from astromask.cores import sharing_cores
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    x = .3*torch.randn(64, 3, 64, 64)
    opt = torch.optim.AdamW(m.parameters(), lr=1e-3, **fused)
    def rate(seconds):
        n,began = 0,time.perf_counter()
        while n < 3 or time.perf_counter()-began < seconds:
            loss(x).backward()
            opt.step()
            opt.zero_grad()
            n += 1
        return 64*n/(time.perf_counter()-began)
    with nullcontext() if plain else sharing_cores():
        rate(before)
        return rate(seconds)

def beside(busy, env):
    "Images a second of one process beside `busy` others"
    bare = {k: v for k,v in os.environ.items() if k not in ('GOMP_SPINCOUNT','OMP_WAIT_POLICY','OMP_NUM_THREADS')}
    others = [subprocess.Popen([sys.executable,'-c','while True: pass']) for _ in range(busy)]
    try:
        command = [sys.executable,__file__,'one','plain' if env else '']
        done = subprocess.run(command, env=bare|env, check=True, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        for o in others: o.kill()
        for o in others: o.wait()

def main(rounds=5, *spins):
    ways = WAYS | {f'{n:,} spins': dict(GOMP_SPINCOUNT=str(n)) for n in spins}
    found = {(busy,way): [] for busy in (0,2,5) for way in ways}
    for _ in range(rounds):
        for (busy,way),runs in found.items(): runs.append(beside(busy, ways[way]))
    print(f'images/s, {os.cpu_count()} threads on {os.cpu_count()} cores, {rounds} rounds')
    print(f'{"":16}'+''.join(f'{f"beside {busy}" if busy else "alone":>22}' for busy in (0,2,5)))
    for way in ways:
        print(f'{way:16}'+''.join(f'{f"{np.median(r):.0f} ({min(r):.0f} to {max(r):.0f})":>22}' for r in (found[busy,way] for busy in (0,2,5))))

if __name__ == '__main__':
    if sys.argv[1:2] == ['one']: print(json.dumps(measured(sys.argv[2])))
    else: main(*map(int, sys.argv[1:]))
