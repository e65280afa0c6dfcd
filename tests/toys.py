"A small experiment for tests: it counts epochs, keeps them in metrics.json, stops when asked, and fails when told to."
import json, os, subprocess, sys
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name('astromask'))
STARTED = []   # processes that were not waited for

PARAMETERS = """# What a test may set
epochs: int = 2         # Passes
max_minutes: float = 0  # Unused here
seconds: float = 0.05   # Each epoch's time
data: 'path' = ''       # Unused here
fail: str = ''          # An error's name, or 'exit'
chatter: int = 0        # Characters to print
run_dir: 'path' = ''"""

LOOP = """import os, time
from astromask import core
run = core.RunDir(run_dir)
first = run.metrics().get('epochs', 0)
run.metrics(kernels=run.metrics().get('kernels', []) + [os.getpid()])
print('x'*chatter)
if fail == 'exit': os._exit(9)
if fail: raise getattr(core, fail, ValueError)('told to fail')
for epoch in range(first, epochs):
    if run.stop_requested(): raise core.Unfinished(f'Stopped after {epoch} of {epochs} epochs')
    time.sleep(seconds)
    run.metrics(epochs=epoch+1)
    print('epoch', epoch+1)"""

def toy(folder):
    "Write the experiment into a folder; gives its path"
    def cell(source, *tags):
        made = dict(cell_type='code', id=f'c{len(tags)}', outputs=[], execution_count=None)
        return made | dict(source=source, metadata=dict(tags=tags))
    cells = [cell(PARAMETERS, 'parameters'), cell(LOOP)]
    path = Path(folder)/'90_toy.ipynb'
    path.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    return path

def astromask(*args, wait=True, **kw):
    "The command in a process of its own: its CompletedProcess, or the process if it is not waited for"
    command = [COMMAND, *map(str, args)]
    env = os.environ | dict(PYTHONUNBUFFERED='1')
    kw = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) | kw
    if wait: return subprocess.run(command, **dict(timeout=240) | kw)
    STARTED.append(subprocess.Popen(command, **kw))
    return STARTED[-1]
