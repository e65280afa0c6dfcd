"How what is done once a run grows with the rows of a set: `python tools/growth.py OUT.json [MOST [NAMES]]`"
import json, multiprocessing, os, resource, sys, tempfile
from pathlib import Path
import h5py, numpy as np, psutil
import astromask.data.loaders, astromask.data.splits, astromask.tasks.predict  # once, before the processes that measure are forked
from astromask.core import log
from astromask.models.mae import MAE

SHARDS,BATCH,SIDE,WIDTH = 64,4096,64,16

def virtual(path, n, step=1_000_000, side=SIDE):
    "A file of n rows of 5 x side x side pixels that take no room, with ids in no order and positions all over the sky"
    rng = np.random.default_rng(0)
    with h5py.File(path, 'w') as f:
        f.attrs.update(format='astromask-1', bands=list('grizy'), unit='nJy', pixel_scale=.2, origin='lower')
        f.create_dataset('cutouts', (n,5,side,side), 'f2', chunks=(25,5,side,side), fillvalue=1)
        new = dict(id=f.create_dataset('id', (n,), 'S10'), ra=f.create_dataset('ra', (n,), 'f8'), dec=f.create_dataset('dec', (n,), 'f8'))
        for a in range(0, n, step):
            rows = np.arange(a, min(n, a+step))
            names = rows*7_654_321_987 % 10**10                # each another, in no order
            digits = (names[:,None]//10**np.arange(9, -1, -1) % 10 + 48).astype(np.uint8)
            new['id'][a:a+step] = np.ascontiguousarray(digits).view('S10')[:,0]
            new['ra'][a:a+step] = rng.uniform(0, 360, len(rows))
            new['dec'][a:a+step] = np.degrees(np.arcsin(rng.uniform(-1, 1, len(rows))))
    return path

def opened(path):
    from astromask.data.cutouts import Cutouts
    return Cutouts.open(path)

def loader(path, rank=0, ranks=1):
    from astromask.data.loaders import CutoutLoader, Pixels
    return CutoutLoader(Pixels(opened(path), memory=0), BATCH//ranks, shuffle=True, drop_last=True, rank=rank, world=ranks, shards=ranks)

def epoch_begins(path, n):
    (windows,_), = loader(path).get_idxs()
    return next(windows, None)

def epoch_order(path, n, **kw):
    (windows,_), = loader(path, **kw).get_idxs()
    return sum(map(len, windows))

def loaders(path, n):
    from astromask.data.loaders import cutout_dls
    return cutout_dls(opened(path), bs=BATCH, split=(slice(n//20, n), slice(0, n//20)), memory=0, device='cpu')

def catalog(path, n): return opened(path).catalog

def twins(path, n):
    from astromask.data.duplicates import sky_twins
    with h5py.File(path) as f: return sky_twins(f['ra'][:], f['dec'][:])

def split(path, n):
    from astromask.data.splits import split_rows
    return split_rows(opened(path), labels=False, pixels_up_to=0)

def names(path, n): return opened(path).catalog['id']

def ids_hashed(path, n, ids):
    from astromask.data.duplicates import hash_ids
    return hash_ids(ids)

def fingerprint_of(path, n):
    from astromask.train.learner import fingerprint
    return fingerprint(opened(path))

def sides(path, n):
    "A file's cutouts, and rows that train, validate and test, of all places in it"
    c = opened(path)
    c.catalog
    rows = np.arange(n)
    return c,[rows[rows % 20 > 1], rows[::20], rows[1::20]]

def hashed(path, n, given):
    from astromask.data.splits import split_hash
    return split_hash(*given)

def saved(path, n, given):
    from astromask.data.splits import save_split
    save_split(f'{path}.json', *given)
    return given[0]

def loaded(path, n, c):
    from astromask.data.splits import load_split
    try: return load_split(f'{path}.json', c)
    finally: [p.unlink() for p in Path(path).parent.iterdir() if p.suffix in ('.json','.npz')]

def places(path, n, given):
    from astromask.seen import seen_of
    c,(train,*_) = given
    return seen_of(c, train, most=0)

class Blank(MAE):
    "A model that takes no time"
    def embed(self, x, **kw): return x.new_zeros(len(x), WIDTH)

def small_images(path, n): return virtual(f'{path}.images', n, side=8),Blank.preset('tiny', bands='grizy', img_size=8, patch_size=4)

def embed(path, n, files_and_model):
    from astromask.tasks.predict import embedding, table_of
    images,m = files_and_model
    try: return table_of(embedding(m), [images], f'{images}.parquet', device='cpu', progress=False)
    finally: [p.unlink() for p in Path(images).parent.glob(f'{Path(images).name}*')]

def directions(path, n, step=1_000_000):
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(1000,WIDTH)).astype(np.float32)
    x = np.empty((n,WIDTH), np.float32)
    for a in range(0, n, step):
        o = x[a:a+step]
        o[:] = middles[rng.integers(1000, size=len(o))]+.3*rng.standard_normal(o.shape, np.float32)
        o /= np.linalg.norm(o, axis=1, keepdims=True)
    return x

def index(path, n, x):
    from astromask.discover.neighbours import Neighbours
    return Neighbours.build(x)

def search(path, n, neighbours): return [neighbours.search(neighbours.read(np.array([n*k//20])), 25) for k in range(20)]

STEPS = {'open': lambda path, n: opened(path), 'loaders': loaders, 'epoch begins': epoch_begins, 'epoch order': epoch_order,
         'epoch of a rank of 64': lambda path, n: epoch_order(path, n, rank=5, ranks=SHARDS),
         'catalogue': catalog, 'twins on the sky': twins, 'hash ids': ids_hashed, 'split': split,
         'fingerprint': fingerprint_of, 'split hash': hashed, 'save split': saved, 'load split': loaded, 'places seen': places,
         'embed (own cost)': embed, 'index': index, '20 searches': search}
THEN = {'index': '20 searches', 'save split': 'load split'}        # what is measured on what a step made
OTHERWISE = 'index','20 searches'                                  # beyond a million rows, by cells
BEFORE = {'hash ids': names, 'split hash': sides, 'save split': sides, 'places seen': sides,
          'embed (own cost)': small_images, 'index': directions}   # what a step begins with

def measure(name, path, n, result):
    "Processor seconds, of the program and of the kernel that gives it memory, and bytes beyond what a small set takes"
    log.setLevel('WARNING')
    def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024
    def begun(path, n): return [BEFORE[name](path, n)] if name in BEFORE else []
    STEPS[name](small := virtual(f'{path}.small', 1000), 1000, *begun(small, 1000))
    os.unlink(small)
    given = begun(path, n)
    def seconds(): return np.array(resource.getrusage(resource.RUSAGE_SELF)[:2])          # of the program, of the kernel
    while name:
        before,start = peak(),seconds()
        made = STEPS[name](path, n, *given)
        result.put((name, *(seconds()-start).tolist(), peak()-before))
        name,given = THEN.get(name),[made]
    result.put(None)

def too_much(found, name, n):
    "GiB that a step would take, as ten times as many bytes as a tenth of the rows; 0 where it fits into four fifths of what is free"
    nbytes = max([10*o.get('bytes_a_row', 0)*o['rows'] for o in found if (o['step'],o['rows']) == (name,n//10)], default=0)
    return nbytes/2**30 if nbytes > .8*psutil.virtual_memory().available else 0

def growth_table(found):
    """A line for each step: seconds by rows, what the largest takes, the exponent of the program's own in the last two decades,
    where it is done alike in both"""
    rows = sorted({o['rows'] for o in found})
    head = ''.join(f'{f"10^{np.log10(n):.0f}":>9}' for n in rows)
    lines = [f'{"":24}{head}{"of the kernel":>14}{"bytes a row":>13}{"exponent":>10}']
    for step in STEPS:
        of = {o['rows']: o for o in found if o['step'] == step}
        done = sorted(n for n,o in of.items() if 'seconds' in o)
        told = [f'{of[n]["seconds"]:9.3f}' if n in done else f'{of[n]["gib"]:5.0f} GiB' if n in of else ' '*9 for n in rows]
        if len(done) < 2: continue
        most = done[-1]
        alike = [n for n in done if step not in OTHERWISE or (n > 1_000_000) == (most > 1_000_000)]
        before = alike[-3:][0]
        own = {n: of[n]['seconds']-of[n].get('kernel', 0) for n in (before,most)}
        exponent = f'{np.log(own[most]/own[before])/np.log(most/before):.2f}' if most > before else ''
        kernel = f'{of[most]["kernel"]:14.3f}' if 'kernel' in of[most] else ' '*14
        lines.append(f'{step:24}'+''.join(told)+kernel+f'{of[most]["bytes_a_row"]:13.0f}{exponent:>10}')
    return '\n'.join(lines)

def main(out, most=1_000_000, names=None):
    context = multiprocessing.get_context('fork')
    found = json.loads(Path(out).read_text()) if Path(out).exists() else []
    n = 10_000
    with tempfile.TemporaryDirectory() as folder:
        while n <= most:
            path = virtual(f'{folder}/{n}.h5', n)
            for name in names or [k for k in STEPS if k not in THEN.values()]:
                if any(o['rows'] == n and o['step'] == name for o in found): continue
                if gib := too_much(found, name, n):
                    print(f'{name} of {n} rows would take {gib:.0f} GiB: it is left out', flush=True)
                    found.append(dict(step=name, rows=n, gib=round(gib, 1)))
                    Path(out).write_text(json.dumps(found, indent=1)+'\n')
                    continue
                result = context.Queue()
                p = context.Process(target=measure, args=(name, path, n, result))
                p.start()
                p.join()
                if p.exitcode: continue                                 # out of memory: there is no number
                for step,own,kernel,nbytes in iter(result.get, None):
                    found.append(dict(step=step, rows=n, seconds=round(own+kernel, 4), kernel=round(kernel, 4),
                                      bytes_a_row=round(nbytes/n, 1)))
                    print(found[-1], flush=True)
                Path(out).write_text(json.dumps(found, indent=1)+'\n')
            os.unlink(path)
            n *= 10

if __name__ == '__main__': main(sys.argv[1], int(float(sys.argv[2])) if len(sys.argv) > 2 else 1_000_000, sys.argv[3:])
