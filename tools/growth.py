"How what is done once a run grows with the rows of a set: `python tools/growth.py OUT.json [MOST [NAMES]]`"
import json, multiprocessing, os, resource, sys, tempfile, time
from pathlib import Path
import h5py, numpy as np
import astromask.data.loaders, astromask.data.splits          # once, before the processes that measure are forked

SHARDS,BATCH = 64,4096

def virtual(path, n, step=1_000_000):
    "A file of n rows of 5 x 64 x 64 pixels that were never written, with ids and positions all over the sky"
    rng = np.random.default_rng(0)
    with h5py.File(path, 'w') as f:
        f.attrs.update(format='astromask-1', bands=list('grizy'), unit='nJy', pixel_scale=.2, origin='lower')
        f.create_dataset('cutouts', (n,5,64,64), 'f2', chunks=(25,5,64,64))
        new = dict(id=f.create_dataset('id', (n,), 'S10'), ra=f.create_dataset('ra', (n,), 'f8'), dec=f.create_dataset('dec', (n,), 'f8'))
        for a in range(0, n, step):
            rows = np.arange(a, min(n, a+step))
            digits = (rows[:,None]//10**np.arange(9, -1, -1) % 10 + 48).astype(np.uint8)
            new['id'][a:a+step] = np.ascontiguousarray(digits).view('S10')[:,0]
            new['ra'][a:a+step] = rng.uniform(0, 360, len(rows))
            new['dec'][a:a+step] = np.degrees(np.arcsin(rng.uniform(-1, 1, len(rows))))
    return path

def opened(path):
    from astromask.data.cutouts import Cutouts
    return Cutouts.open(path)

def windows(path, n, shard=False):
    from astromask.data.loaders import Windows, block_edges
    c = opened(path)
    rows = np.arange(n)[:n//SHARDS if shard else n]
    return Windows(rows, block_edges(c), max(1, (1<<28)//40960//(SHARDS if shard else 1)), 0, 0)

def epoch_begins(path, n): return windows(path, n)[0]
def epoch_order(path, n): return sum(map(len, windows(path, n)))
def epoch_of_a_rank(path, n): return sum(map(len, windows(path, n, shard=True)))

def catalog(path, n): return opened(path).catalog

def twins(path, n):
    from astromask.data.duplicates import sky_twins
    with h5py.File(path) as f: return sky_twins(f['ra'][:], f['dec'][:])

def split(path, n):
    from astromask.data.splits import split_rows
    return split_rows(opened(path), labels=False, pixels_up_to=0)

def ids_hashed(path, n):
    from astromask.data.duplicates import hash_ids
    with h5py.File(path) as f: return hash_ids(f['id'][:])

STEPS = {'open': lambda path, n: opened(path), 'epoch begins': epoch_begins, 'epoch order': epoch_order, 'epoch of a rank of 64': epoch_of_a_rank,
         'catalogue': catalog, 'twins on the sky': twins, 'hash ids': ids_hashed, 'split': split}

def measure(name, path, n, result):
    "Processor seconds, and bytes beyond what a small set takes"
    def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024
    STEPS[name](small := virtual(f'{path}.small', 1000), 1000)
    os.unlink(small)
    before,start = peak(),time.process_time()
    STEPS[name](path, n)
    result.put((time.process_time()-start, peak()-before))

def main(out, most=1_000_000, names=None):
    context = multiprocessing.get_context('fork')
    found = json.loads(Path(out).read_text()) if Path(out).exists() else []
    n = 10_000
    with tempfile.TemporaryDirectory() as folder:
        while n <= most:
            path = virtual(f'{folder}/{n}.h5', n)
            for name in names or STEPS:
                if any(o['rows'] == n and o['step'] == name for o in found): continue
                result = context.Queue()
                p = context.Process(target=measure, args=(name, path, n, result))
                p.start()
                p.join()
                if p.exitcode: continue                         # out of memory: there is no number
                seconds,nbytes = result.get()
                found.append(dict(step=name, rows=n, seconds=round(seconds, 4), bytes_a_row=round(nbytes/n, 1)))
                print(found[-1], flush=True)
                Path(out).write_text(json.dumps(found, indent=1)+'\n')
            os.unlink(path)
            n *= 10

if __name__ == '__main__': main(sys.argv[1], int(float(sys.argv[2])) if len(sys.argv) > 2 else 1_000_000, sys.argv[3:])
