"""When a run over so many objects has its split, its first row of history, its figures and its end: `python tools/first_figure.py [ROWS [STEPS]]`

Objects are 5 x 16 x 16 pixels of noise, packed, and eight of them fill a block of 1,024; ids and positions are their own. So the file is
small, and what takes time is the catalogue, not the model (`tiny`, of which so many steps are taken, and 4,096 objects validate)."""
import subprocess, sys, tempfile, time, zlib
from pathlib import Path
import h5py, numpy as np, psutil
from growth import virtual

SIDE,BLOCK,KINDS = 16,1024,20

def survey(folder, n):
    "A file of n objects"
    path = virtual(Path(folder)/'survey.h5', n, side=SIDE)
    rng = np.random.default_rng(0)
    blocks = [zlib.compress(np.tile(rng.standard_normal((8, 5, SIDE, SIDE), np.float32).astype('f2'), (BLOCK//8, 1, 1, 1)).tobytes()) for _ in range(KINDS)]
    with h5py.File(path, 'a') as f:
        del f['cutouts']
        x = f.create_dataset('cutouts', (n, 5, SIDE, SIDE), 'f2', chunks=(BLOCK, 5, SIDE, SIDE), compression='gzip')
        for k,a in enumerate(range(0, n, BLOCK)): x.id.write_direct_chunk((a, 0, 0, 0), blocks[k % KINDS])
    return path

def main(n=1_000_000, steps=200):
    with tempfile.TemporaryDirectory(prefix='astromask-') as folder:
        path,run = survey(folder, n),Path(folder)/'run'
        command = [Path(sys.executable).with_name('astromask'), 'run', 'pretrain', '-p', 'data', path, '-p', 'preset', 'tiny', '-p', 'img_size', SIDE,
                   '-p', 'patch_size', 4, '-p', 'bs', 256, '-p', 'steps', steps, '-p', 'valid_objects', 4096, '--out', run]
        began = time.monotonic()
        with open(Path(folder)/'said.txt', 'w') as said: child = psutil.Popen(list(map(str, command)), stdout=said, stderr=subprocess.STDOUT)
        wanted = {k: Path(run)/k for k in ('split.json', 'history.csv', 'figures/history.png', 'figures/reconstruction.png', 'model/model.safetensors')}
        most = 0
        while child.poll() is None:
            try: most = max([most, *(p.memory_info().rss for p in child.children(recursive=True))])
            except psutil.NoSuchProcess: pass
            for k in [k for k,p in wanted.items() if p.exists()]:
                print(f'{(time.monotonic()-began)/60:6.1f} min  {k}', flush=True)
                del wanted[k]
            time.sleep(.2)
        print(f'{(time.monotonic()-began)/60:6.1f} min  the end ({child.returncode}); at most {most/2**30:.1f} GiB, {most/n:.0f} bytes a row', flush=True)
        if child.returncode: print((Path(folder)/'said.txt').read_text()[-3000:])

if __name__ == '__main__': main(*(int(float(o)) for o in sys.argv[1:]))
