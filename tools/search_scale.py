"What N rows of 384 numbers on disk cost to search, here, with USearch and by a loop in torch: python tools/search_scale.py 10000000 FOLDER"
import resource, shutil, sys, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
import numpy as np
from astromask.discover.neighbours import Neighbours, blocks_of, save_rows

D,CLUSTERS,QUERIES,K = 384,5000,200,10

def drawn(seed, n, centres):
    "Rows about centres drawn at random, of length 1"
    r = np.random.default_rng([1,seed])
    x = centres[r.integers(len(centres), size=n)]+.7*r.standard_normal((n,D), dtype=np.float32)
    return x/np.linalg.norm(x, axis=1, keepdims=True)

def vectors(n, path, block=1<<16):
    "Write the rows, as float16, and give the queries, which are not among them"
    centres = np.random.default_rng(0).standard_normal((CLUSTERS,D), dtype=np.float32)
    parts = (drawn(i, min(block, n-i), centres) for i in range(0, n, block))
    save_rows(path, parts, (n,D), np.float16)
    return drawn(n, QUERIES, centres)

def cpu():
    "CPU seconds of this process"
    o = resource.getrusage(resource.RUSAGE_SELF)
    return o.ru_utime+o.ru_stime

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20    # GiB, pages of the mapped rows among them

def asked(ask, queries):
    "Each query by itself: what it finds, and CPU milliseconds at the median"
    found,took = [],[]
    for q in queries:
        at = cpu()
        found.append(ask(q))
        took.append(1e3*(cpu()-at))
    return np.array(found),np.median(took)

def loop(path, queries):
    "Rows nearest to queries, by a loop over batches in torch"
    import torch
    torch.set_num_threads(1)
    best,rows = torch.full((len(queries),K), -2.),torch.zeros(len(queries), K, dtype=torch.long)
    start,q = 0,torch.from_numpy(queries)
    for block in blocks_of(np.load(path, mmap_mode='r'), 1<<16):
        s = q @ torch.from_numpy(np.asarray(block, np.float32)).T
        both = torch.cat([best, s], 1)
        best,at = both.topk(K, 1)
        rows = torch.cat([rows, torch.arange(start, start+len(block)).expand(len(queries), -1)], 1).gather(1, at)
        start += len(block)
    return rows.numpy()

def ours(path, queries):
    "As `astromask index` builds it"
    at = cpu()
    nb = Neighbours.build(np.load(path, mmap_mode='r'), kind='ivf')
    return [(f'here, {nb.facts["probe"]} of {nb.cells.nlist} cells', cpu()-at, peak(), *asked(lambda q: nb.search(q, K)[1][0], queries))]

def usearch(path, queries, connectivity=16, expansion=40):
    "HNSW over bytes"
    from usearch.index import Index
    at,start = cpu(),0
    ix = Index(ndim=D, metric='ip', dtype='i8', connectivity=connectivity, expansion_add=expansion)
    for block in blocks_of(np.load(path, mmap_mode='r'), 1<<17):
        ix.add(np.arange(start, start+len(block)), np.asarray(block, np.float32), threads=1)
        start += len(block)
        print(f'USearch has {start} rows: {cpu()-at:.0f} CPU seconds', flush=True)
    took,most = cpu()-at,peak()
    def answers(width):
        ix.expansion_search = width
        return (f'USearch, HNSW {connectivity}/{expansion}, bytes, {width} looked at', took, most,
                *asked(lambda q: ix.search(q, K, threads=1).keys.astype(int), queries))
    return [answers(width) for width in (64, 256, 1024)]

def main(n, folder):
    room = Path(folder)/'search-scale'
    room.mkdir()
    try:
        path = room/'rows.npy'
        queries = vectors(n, path)
        true = loop(path, queries)
        _,ms = asked(lambda q: loop(path, q[None])[0], queries[:3])
        print(f'| {n:,} rows | built | memory | share of the ten nearest | a query |\n|---|---|---|---|---|')
        print(f'| a loop over batches in torch | | {peak():.1f} GiB | 1 | {ms:.0f} ms |', flush=True)
        with ProcessPoolExecutor(2) as pool:
            for made in [pool.submit(f, path, queries) for f in (ours, usearch)]:
                for name,took,most,found,ms in made.result():
                    share = np.mean([len(set(a) & set(b)) for a,b in zip(found.tolist(), true.tolist())])/K
                    print(f'| {name} | {took:.0f} s | {most:.1f} GiB | {share:.3f} | {ms:.2f} ms |', flush=True)
    finally: shutil.rmtree(room)

if __name__ == '__main__': main(int(sys.argv[1]), sys.argv[2])
