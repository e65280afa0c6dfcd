"""A survey, a pretrained encoder, and what it is worth, in one go. `make demo` calls this.

Everything goes to runs/demo/TIME: pretrain/ and evaluate/ are run directories as `astromask run` makes them. Interrupted, it
prints the command that continues it.
"""
import argparse, itertools, os, shlex, signal, subprocess, sys, time
from pathlib import Path
from astromask.core import new_run_dir
from astromask.files import read_json

def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', default='', help='a file of cutouts; empty simulates a survey')
    parser.add_argument('--minutes', type=float, default=5, help='how long to pretrain')
    parser.add_argument('--out', default='', help='a demo to continue, or a new folder; empty makes runs/demo/TIME')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()

def again(o, out):
    "The command that continues this demo"
    given = dict(OUT=out, DATA=o.data, MINUTES=f'{o.minutes:g}', SEED=o.seed)
    return ' '.join(['make demo', *(f'{k}={shlex.quote(str(v))}' for k,v in given.items() if v not in ('', None))])

def run(name, out, **params):
    "`astromask run` in a process group of its own: it gets each request to stop once, however many processes were sent it"
    command = [Path(sys.executable).with_name('astromask'), 'run', name, '--out', out]
    for k,v in params.items(): command += ['-p', k, str(v)]
    print('\n$', shlex.join(['astromask', *map(str, command[1:])]), flush=True)
    child,passed_on = subprocess.Popen(command, process_group=0, env={'PYTHONWARNINGS': 'ignore'} | os.environ),0
    def pass_on(number, frame):
        nonlocal passed_on
        if time.monotonic()-passed_on > 1: child.send_signal(number)
        passed_on = time.monotonic()
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, pass_on)
    return child.wait()

def table(numbers):
    "metrics.json of an evaluation: a line per method, a column per metric"
    metrics = {k: v for k,v in numbers.items() if isinstance(v, dict)}
    gains = {k: f'{v["gain"]:+.4f} ± {v["gain_error"]:.4f}' for k,v in metrics.items() if 'gain' in v}
    methods = list(dict.fromkeys(m for v in metrics.values() for m in v if not m.startswith('gain')))
    yield f'{"":26}', *(f'{k.replace("_"," "):>26}' for k in metrics)
    for m in methods: yield f'{m:26}', *(f'{v[m]:26.4f}' if v.get(m) is not None else ' '*26 for v in metrics.values())
    yield f'{"pretrained - random probe":26}', *(f'{gains.get(k, ""):>26}' for k in metrics)

def main():
    o = options()
    try: data = o.data or simulated()
    except KeyboardInterrupt: sys.exit('\nStopped while simulating; nothing is kept: run make demo again')
    out = Path(o.out).absolute() if o.out else new_run_dir('demo')
    def step(name, folder, **params):
        code = run(name, folder, data=data, seed=o.seed, **params)
        if code == 1 or code == 75: print(f'\n{name} stopped (exit code {code}). To continue:\n  {again(o, out)}')
        if code: sys.exit(code)
    step('pretrain', out/'pretrain', max_minutes=o.minutes)
    evaluated = evaluation(out)
    step('evaluate', evaluated, model=out/'pretrain/model')
    report(out, evaluated)

def evaluation(out):
    "Where to evaluate: a new folder if the model has been trained on since the last time"
    model = out/'pretrain/model/model.safetensors'
    for i in itertools.count(1):
        folder = out/('evaluate' if i == 1 else f'evaluate-{i}')
        done = folder/'metrics.json'
        if not done.exists() or done.stat().st_mtime > model.stat().st_mtime: return folder

def simulated():
    "The embedded survey, from the cache if it has been there before"
    from astromask.data.simulate import simulated_survey
    return simulated_survey()

def report(out, evaluated):
    "The numbers, and where everything is"
    print()
    for line in table(read_json(evaluated/'metrics.json')): print(''.join(line))
    here = out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out
    print(f"""
Notebooks   {here}/pretrain/notebook.ipynb, {here}/{evaluated.name}/notebook.ipynb
Figures     {here}/pretrain/figures/, {here}/{evaluated.name}/figures/
Numbers     {here}/pretrain/metrics.json, {here}/{evaluated.name}/metrics.json
Encoder     {here}/pretrain/model/""")

if __name__ == '__main__': main()
