# deep object catalogue with crowded objects: how much is left out at 5%?
import numpy as np
from astropy.table import Table
from astromask.data.splits import *
from astromask.data.splits import _guarded,_cells_that_split,_overlapping,_width
class C:
    def __init__(s,t,shape,ps): s.catalog,s.shape,s.pixel_scale,s.survey=t,shape,ps,None
    def __len__(s): return len(s.catalog)
r=np.random.default_rng(0)
for N,deg in ((20000,1),(100000,1),(100000,3),(3000,.05)):
    t=Table(dict(id=np.arange(N),ra=r.uniform(150,150+deg,N),dec=r.uniform(0,deg,N)))
    c=C(t,(5,64,64),.168)
    try: p=split_rows(c,.05,.05); print(N,deg,_overlapping(c,np.arange(N),np.asarray(t['ra']),np.asarray(t['dec'])),list(map(len,p)))
    except Exception as e: print(N,deg,e)
