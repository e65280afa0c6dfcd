"What a catalogue of N rows costs to write as HATS and to cross-match by two workers of Dask: python tools/hats_scale.py 10000000 FOLDER"
import json, resource, shutil, sys, time
from pathlib import Path
import numpy as np
from astromask.catalogs.hats import hats_text, write_hats
from astromask.tasks.tables import arrow_table, write_table

D = 64    # numbers in an embedding, float32

def blocks(n, seed, embedded, block=1<<17):
    "Objects all over the sky; of another seed the same places, moved by 0.2 arcsec"
    for i in range(0, n, block):
        r = np.random.default_rng([0,i])
        k = min(block, n-i)
        ra,dec = 360*r.random(k),np.degrees(np.arcsin(2*r.random(k)-1))
        columns = dict(id=np.array([f'o{j}' for j in range(i, i+k)]), ra=ra, dec=np.clip(dec+seed*.2/3600, -90, 90), mag_r=18+6*r.random(k))
        yield columns | (dict(embedding=r.standard_normal((k,D), dtype=np.float32)) if embedded else {})

def cpu():
    "CPU seconds of this process and of children that ended"
    a,b = (resource.getrusage(o) for o in (resource.RUSAGE_SELF,resource.RUSAGE_CHILDREN))
    return a.ru_utime+a.ru_stime+b.ru_utime+b.ru_stime

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20    # GiB

class Step:
    "Says what a step took"
    def __init__(self, what): self.what = what
    def __enter__(self): self.at,self.cpu = time.monotonic(),cpu()
    def __exit__(self, *a):
        print(f'{self.what}: {time.monotonic()-self.at:.0f} s, {cpu()-self.cpu:.0f} CPU seconds here, {peak():.2f} GiB at most so far', flush=True)

def same(frame):
    "Pairs of a part, and those that are of one object"
    import pandas as pd
    return pd.DataFrame(dict(pairs=[len(frame)], same=[int((frame['id'] == frame['id_other']).sum())]))

def match(room):
    "Filter and cross-match on two workers"
    import lsdb
    from dask.distributed import Client
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit='6GB', local_directory=str(room)) as client:
        a,b = lsdb.open_catalog(room/'a.hats'),lsdb.open_catalog(room/'b.hats', columns=['id','ra','dec'])
        at = time.monotonic()
        bright = len(a.query('mag_r < 18.1').compute(progress_bar=False))
        print(f'{bright} rows filtered, with their embeddings: {time.monotonic()-at:.0f} s', flush=True)
        at = time.monotonic()
        pairs = a.crossmatch(b, radius_arcsec=1, suffixes=('','_other'), suffix_method='all_columns')
        found = pairs.map_partitions(same, meta=dict(pairs='int64', same='int64')).compute(progress_bar=False)
        print(f'{found["pairs"].sum()} pairs, {found["same"].sum()} of one object: {time.monotonic()-at:.0f} s', flush=True)
        workers = client.run(lambda: (lambda o: (o.ru_utime+o.ru_stime, o.ru_maxrss/2**20))(__import__('resource').getrusage(0)))
        print('workers:', ', '.join(f'{c:.0f} CPU seconds, {m:.2f} GiB' for c,m in workers.values()), flush=True)

def main(n, folder):
    room = Path(folder)/'hats-scale'
    room.mkdir()
    try:
        for name,seed in (('a',0), ('b',1)):
            first = next(blocks(1, seed, name == 'a'))
            with Step(f'{name}.parquet made'): write_table(room/f'{name}.parquet', arrow_table(first).schema, blocks(n, seed, name == 'a'), dict(verb='embed'))
            with Step(f'{name}.hats written'): print(hats_text(write_hats([room/f'{name}.parquet'], room/f'{name}.hats', margin=10.*seed)), flush=True)
            (room/f'{name}.parquet').unlink()
        match(room)
    finally: shutil.rmtree(room)

if __name__ == '__main__': main(int(sys.argv[1]), sys.argv[2])
