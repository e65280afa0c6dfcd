"""What a search in tiles finds of a class: on its grid alone, about the light, and in a catalogue

`python tools/found_in_tiles.py MODEL EMBEDDINGS CUTOUTS`"""
import logging, sys, tempfile, torch, numpy as np
from pathlib import Path
from astropy.io import fits
from astropy.table import vstack
from astromask.data.cutouts import Cutouts
from astromask.discover.search import SimilarityIndex
from astromask.discover.tiles import BestSquares, TileSquares, model_field, moved_squares, promising, scored_squares
from astromask.models.weights import load_model
from astromask.tasks.predict import embedding
logging.disable(30)
m,ix,c = load_model(sys.argv[1]),SimilarityIndex.open(sys.argv[2]),Cutouts.open(sys.argv[3])
job,known = embedding(m.eval(), 1),{}

def directions(x):
    "Of images, each embedded once"
    keys = [o.tobytes() for o in x]
    new = [i for i,k in enumerate(keys) if k not in known]
    if new:
        found, = job.of([dict(x=x[new], mags=None, coords=None)])
        known.update(zip([keys[i] for i in new], ix.space.direction(found['embedding'])))
    return np.stack([known[k] for k in keys])

def field_of(draw, side=1280, step=80):
    "A tile on which 256 objects of a survey lie 64 to 96 pixels apart; where, and of which class"
    r = np.random.default_rng(draw)
    rows = np.sort(r.choice(len(c), (side//step)**2, replace=False))
    x = c[rows]
    noise = np.nanmedian(abs(x[:,:,:4]-np.nanmedian(x[:,:,:4], (0,2,3), keepdims=True)), (0,2,3))*1.4826
    sky = r.normal(size=(len(noise),side,side))*noise[:,None,None]
    at = np.array([(i,j) for j in range(0, side, step) for i in range(0, side, step)]) + r.integers(0, 17, (len(x),2))
    for o,(i,j) in zip(x, at): sky[:,j:j+64,i:i+64] = o
    folder = tempfile.mkdtemp()
    files = {b: f'{folder}/{b}.fits' for b in c.bands}
    for b,o in zip(c.bands, sky): fits.writeto(files[b], o.astype(np.float32))
    return model_field(files, m, 'sdss'),at+31.5,np.asarray(c.catalog['class'])[rows],x

def of_class(t, at, names, name, n=20):
    "How many of the best places are of a class"
    best = BestSquares(n, 64)
    best.add(t)
    d = np.hypot(*(np.stack([best.best['x'],best.best['y']])[:,:,None]-at.T[:,None]))
    return ((names[d.argmin(1)] == name) & (d.min(1) < 16)).sum()

names = np.unique(c.catalog['class'])
found = {name: [] for name in names}
for draw in range(3):
    field,at,of,x = field_of(draw)
    own,cat = field.own[0],directions(x)
    tile = TileSquares(next(field.squares(.5)), field.how)
    for name in names:
        rows = np.random.default_rng(draw).choice(np.flatnonzero(ix.objects['class'] == name), 5, replace=False)
        q = ix.query(ix.at_rows(rows)).T
        scores = lambda x, sky: (directions(x) @ q).max(1)
        grid = scored_squares(tile, scores, 1)
        again = scored_squares(moved_squares(field, own, tile, grid[promising(grid['score'], 20)], 16), scores, 1)
        best = np.argsort(-(cat @ q).max(1))[:20]
        found[name].append((of_class(grid, at, of, name), of_class(vstack([grid,again]), at, of, name),
                            (of[best] == name).sum(), len(again)/len(grid)))
    known.clear()
print('class        grid  moved  catalogue')
for k,v in found.items(): print(f'{k:12}', '  '.join(f'{o:5.1f}' for o in np.mean(v, 0)[:3]))
print(f'all          {"  ".join(f"{o:5.1f}" for o in np.mean(list(found.values()), (0,1))[:3])}')
print(f'{np.mean(list(found.values()), (0,1))[3]:.0%} of the squares were looked at again')
