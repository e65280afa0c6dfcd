"Duplicates found in a file built like Galaxy10 DECaLS, and splits that keep them together whatever the order of rows"
import io, multiprocessing, os, signal, time
from functools import partial
from hashlib import blake2b
from pathlib import Path
import h5py, numpy as np, pytest
from astropy.table import Table, vstack
from PIL import Image
from scipy.ndimage import zoom
from astromask import sky
from astromask.core import DataError, InputError, log
from astromask.files import digest, read_json
from astromask.data import splits
from astromask.data.cutouts import Cutouts
from astromask.data.duplicates import _all_candidates, _neighbourhoods, fingerprints, group_rows, hash_ids, near_pairs, pixel_twins, pixels_compared, positions, sky_twins, thumbnails, twin_groups
from astromask.data.splits import load_split, run_split, save_split, sky_cells, split_hash, split_rows

real = Path(__file__).parents[1].parent/'shared'/'data'
needs_real = pytest.mark.skipif(not (real/'gz2_train.h5').exists(), reason=f'the real data of {real} are not here')
y,x = np.mgrid[:256,:256].astype(np.float32)-127.5

def galaxy(seed, exposure=0):
    "A disk or spheroid with neighbours and noise, 256 x 256 in 8-bit colour as DECaLS viewers make them"
    rng = np.random.default_rng(seed)
    angle,q,size = rng.uniform(0, np.pi),rng.uniform(.3, 1),rng.uniform(8, 30)
    u,v = x*np.cos(angle)+y*np.sin(angle),(y*np.cos(angle)-x*np.sin(angle))/q
    r = np.hypot(u, v)/size
    arms = .3*np.cos(2*np.arctan2(v, u)+rng.uniform(1.5, 5)*r+rng.uniform(0, 2*np.pi))
    light = 150*np.exp(-r**rng.choice([.7,1.]))*(1+arms+.15*zoom(rng.normal(size=(32,32)), 8, order=1))    # no two spirals are alike
    for _ in range(rng.poisson(5)):
        px,py = rng.uniform(-120, 120, 2)
        light += rng.exponential(60)*np.exp(-((x-px)**2+(y-py)**2)/18)
    noise = np.random.default_rng([seed,exposure]).normal(size=(128,128,3)).repeat(2, 0).repeat(2, 1)*6
    return np.clip(light[...,None]*rng.uniform(.6, 1, 3)+noise+20, 0, 255).astype(np.uint8)

def jpeg(image, quality=75):
    f = io.BytesIO()
    Image.fromarray(image).save(f, 'JPEG', quality=quality)
    return np.asarray(Image.open(f))

def shift(image):
    out = np.full_like(image, 20)
    out[3:,:-2] = image[:-3,2:]
    return out

CHANGES = dict(same=lambda o: o, flipped=lambda o: o[:,::-1], turned=lambda o: np.rot90(o), recompressed=jpeg, shifted=shift,
               dimmed=lambda o: (.7*o).astype(np.uint8), all=lambda o: jpeg(shift(o[::-1]), 85))

@pytest.fixture(scope='module')
def decals(tmp_path_factory):
    "A file in Galaxy10 DECaLS' structure: 160 galaxies and 37 copies; gives its path and what belongs together"
    rng,n = np.random.default_rng(0),160
    images,group,ans = [galaxy(i) for i in range(n)],list(range(n)),list(rng.integers(0, 10, n))
    ra,dec = list(rng.uniform(0, 360, n)),list(np.degrees(np.arcsin(rng.uniform(-.3, .99, n))))
    def add(i, image, label, same_place):
        images.append(image)
        group.append(i)
        ans.append(label)
        ra.append(ra[i]+.4/3600 if same_place else np.nan)
        dec.append(dec[i] if same_place else np.nan)
    for i in range(9): add(i, images[i], (ans[i]+i%2)%10, True)            # every second one with another label
    add(0, images[0], ans[0], True)                                        # a group of three
    for k,change in enumerate(CHANGES.values()):
        for i in range(20+4*k, 23+4*k): add(i, change(images[i]), ans[i], False)
    for i in range(60, 66): add(i, galaxy(i, exposure=1), ans[i], True)    # taken twice: another noise, the same place
    order = rng.permutation(len(images))
    path = tmp_path_factory.mktemp('galaxy10')/'Galaxy10_DECals.h5'
    with h5py.File(path, 'w') as f:
        f['images'] = np.stack(images)[order]
        f['ans'],f['ra'],f['dec'] = np.array(ans)[order],np.array(ra)[order],np.array(dec)[order]
        f['redshift'],f['pxscale'] = np.where(rng.random(len(order)) < .1, np.nan, rng.uniform(0, .2, len(order))),np.full(len(order), .262)
    return path,np.array(group)[order]

def same_partition(a, b):
    return len(set(zip(a.tolist(), b.tolist()))) == len(set(a.tolist())) == len(set(b.tolist()))

def test_the_known_groups_are_found(decals):
    path,known = decals
    c = Cutouts.open(path)
    assert c.parts[0].layout.name == 'Galaxy10 DECaLS' and len(c) == len(known)
    groups = twin_groups(c)
    missed = [i for i in range(len(c)) if len(set(groups[known == known[i]])) > 1]
    merged = [i for i in range(len(c)) if len(set(known[groups == groups[i]])) > 1]
    assert not missed and not merged and same_partition(groups, known)

def test_no_group_is_on_two_sides(decals):
    path,known = decals
    c = Cutouts.open(path)
    parts = split_rows(c, valid=.15, test=.2, seed=3)
    assert sorted(np.concatenate(parts)) == list(range(len(c)))
    for i,a in enumerate(parts):
        for b in parts[i+1:]: assert not set(known[a]) & set(known[b])
    assert abs(len(parts[2])/len(c)-.2) < .03 and abs(len(parts[1])/len(c)-.15) < .03

def test_equal_pixels_are_told_from_near_ones(decals):
    path,known = decals
    t = pixel_twins(Cutouts.open(path))
    assert (known[t['row']] == known[t['other']]).all()
    assert (t['agreement'] == 1).sum() == 13 and (t['agreement'] < 1).sum() >= 18       # 10 copies and 3 of `same`; the rest

def test_larger_sets_go_by_id_place_and_equal_pixels_and_say_so(decals, monkeypatch):
    path,known = decals
    said = []
    monkeypatch.setattr(log, 'info', said.append)
    c = Cutouts.open(path)
    groups = twin_groups(c, pixels_up_to=100)
    assert len(said) == 1 and 'near copies are in sets up to 100' in said[0] and pixels_compared(c, 100) == 'equal pixels'
    pairs = sky_twins(c.catalog['ra'], c.catalog['dec'])
    assert len(pairs) > 15 and (groups[pairs[:,0]] == groups[pairs[:,1]]).all()
    assert len(np.unique(groups)) == len(c)-19                        # ten copies, six second exposures, three of `same`
    c.catalog['ra'],c.catalog['dec'] = np.arange(len(c)),0.             # all positions are known
    assert len(np.unique(twin_groups(c, pixels_up_to=100))) == len(c) and 'by its id and place' in said[1]

def test_a_crowd_at_one_place_is_joined_and_no_place_is_none():
    n = 50_000
    assert len(sky_twins(np.zeros(n), np.zeros(n))) == 0
    assert sky_twins(np.full(n, 3.), np.zeros(n)).tolist() == [[0,i] for i in range(1, n)]
    rng = np.random.default_rng(0)
    pairs = sky_twins(3+rng.uniform(0, .5/3600, 3000), rng.uniform(0, .5/3600, 3000))     # 4.5 million pairs
    assert len(pairs) < 3_000_000 and len(np.unique(group_rows(np.full(3000, -1), pairs=[pairs]))) == 1

def test_positions_in_other_units():
    t = Table(dict(RA=[1.,2,0,0], dec=[.1,.2,0,0]), units=dict(RA='rad', dec='rad'))
    assert np.allclose(positions(t), np.degrees([[1,2,np.nan,np.nan],[.1,.2,np.nan,np.nan]]), equal_nan=True)
    assert np.allclose(positions(Table(dict(ra=['10:20:30'], dec=['1:2:3']))), [[155.125],[1+2/60+3/3600]], rtol=1e-12)      # hours and degrees
    with pytest.raises(InputError, match='no angle'): positions(Table(dict(ra=[1.], dec=[1.]), units=dict(ra='mag')))
    with pytest.raises(InputError, match='no columns ra and dec'): split_rows(Table(dict(id=['a','b'], ra=[1.,2.])))
    with pytest.raises(InputError, match='no column id'): split_rows(Table(dict(ra=[1.,2.], dec=[1.,2.])))

def test_neighbourhoods_find_what_all_pairs_find():
    rng = np.random.default_rng(0)
    thumbs = rng.normal(size=(3000,32,32)).astype(np.float32)
    thumbs[2500:] = np.roll(thumbs[:500,:,::-1], (1,-1), (1,2))+.3*rng.normal(size=(500,32,32))
    z = fingerprints(thumbs)
    every,some = ({tuple(p) for p in _all_candidates(z, _neighbourhoods(z, n))[0]} for n in (5000,100))
    copies = {(i,2500+i) for i in range(500)}
    assert copies <= every and len(copies & some) > 495
    thumbs[:2000] = 0                                                       # nothing to see is nobody's neighbour
    assert max(map(len, _neighbourhoods(fingerprints(thumbs), all_up_to=100))) <= 1000

def test_however_many_copies_are_one_group():
    rng = np.random.default_rng(0)
    field,other = rng.normal(size=(2,1,32,32)).cumsum(2).cumsum(3)
    thumbs = np.concatenate([field+1e-3*rng.normal(size=(600,32,32)),other+1e-3*rng.normal(size=(30,32,32)),rng.normal(size=(300,32,32))])
    for all_up_to in (50_000, 100):
        pairs,_ = near_pairs(thumbs.astype(np.float32), all_up_to=all_up_to)
        groups = group_rows(np.full(930, -1), pairs=[pairs])
        assert [len(np.unique(groups[i:j])) for i,j in ((0,600),(600,630),(630,930))] == [1,1,300] and len(pairs) < 4*930

def test_eight_exposures_of_an_object_are_on_one_side(tmp_path):
    rng = np.random.default_rng(0)
    sky = rng.normal(size=(60,1,32,32))*4
    images = np.concatenate([o*rng.uniform(.8, 1.2)+rng.normal(size=o.shape) for o in [sky]*20]).astype(np.float32)
    train,valid,test = split_rows(Cutouts.open(Cutouts.write(tmp_path/'a.h5', images, bands='r')), .1, .1)
    assert not set(train%60) & set(valid%60) and not set(valid%60) & set(test%60) and not set(train%60) & set(test%60)

def grid(tmp_path, n=40, step=16, dx=0.):
    "n x n cutouts of 24 x 24 pixels, every `step` pixels of 0.262 arcsec; gives their columns and rows in pixels too"
    gy,gx = (o*step for o in np.divmod(np.arange(n*n), n))
    ra,dec = 150+(gx*.262/3600+dx)/np.cos(np.radians(40)),40+gy*.262/3600
    images = np.random.default_rng(0).normal(size=(n*n,1,24,24)).astype(np.float32)
    return Cutouts.open(Cutouts.write(tmp_path/'grid.h5', images, bands='r', catalog=dict(ra=ra, dec=dec), survey='legacy', overwrite=True)),gx,gy

def test_cutouts_that_overlap_are_not_on_two_sides(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(log, 'info', said.append)
    c,gx,gy = grid(tmp_path)
    parts = train,valid,test = split_rows(c, .1, .1, pixels_up_to=2000)
    assert 'overlap' in said[-1] and 800 < len(train) < 1300 and min(len(valid),len(test)) > 60
    for a,b in ((train,valid),(train,test),(valid,test)):
        assert (np.maximum(abs(gx[a][:,None]-gx[b]), abs(gy[a][:,None]-gy[b])) >= 24).all()
    h = save_split(tmp_path/'s.json', c, parts)
    for a,b in zip(parts, load_split(tmp_path/'s.json', c)): assert (a == b).all()
    assert len(read_json(tmp_path/'s.json')['left']) == len(c)-sum(map(len, parts)) > 0 and h == split_hash(c, parts)
    assert all((a == b).all() for a,b in zip(parts, run_split(tmp_path/'run', c, .1, .1))) and len(run_split(tmp_path/'run', c, .1, .1)) == 3
    assert read_json(tmp_path/'run'/'split.json')['about']['compared'] == 'near copies'

def test_a_field_too_small_to_keep_overlapping_cutouts_apart(tmp_path):
    with pytest.raises(DataError, match='overlap so much'): split_rows(grid(tmp_path, n=4, step=4)[0], .1)

def test_cutouts_side_by_side_lose_none(tmp_path):
    assert sum(map(len, split_rows(grid(tmp_path, n=20, step=24)[0], .1))) == 400

def test_a_run_finds_its_split_again(tmp_path):
    t = Table(dict(id=[f'o{i}' for i in range(50)], ra=np.full(50, np.nan), dec=np.full(50, np.nan)))
    parts = run_split(tmp_path, t, .2, seed=3)
    again = run_split(tmp_path, t[::-1], .2, seed=3)
    with pytest.raises(InputError, match='seed=3 and not 4'): run_split(tmp_path, t, .2, seed=4)
    assert [set(t['id'][p]) for p in parts] == [set(t[::-1]['id'][p]) for p in again]
    with pytest.raises(DataError, match='the split of other data'): run_split(tmp_path, Table(dict(id=['x'], ra=[0.], dec=[0.])), .2, seed=3)

@needs_real
def test_real_galaxies_are_not_merged():
    c = Cutouts.open(real/'gz2_train.h5')
    assert len(pixel_twins(c, np.arange(0, 5000, 5))) == 0
    for size in (16,24,32):                                             # nor are their middles, where all galaxies look alike
        middle = c.read(np.arange(500))[...,34-size//2:34+size//2,34-size//2:34+size//2]
        pairs,_ = near_pairs(thumbnails(np.concatenate([middle,middle[:50,...,::-1]]), size))
        assert {(i,500+i) for i in range(50)} == {tuple(p) for p in pairs}

def test_missing_pixels_and_bands():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(60,3,40,40)).astype(np.float32)
    images[:,:,17:23,17:23] += 30
    copies = images[:20].copy()
    copies[:10,1] = np.nan                   # without a band
    copies[10:,:,:,:6] = np.nan              # without an edge
    pairs,_ = near_pairs(thumbnails(np.concatenate([images,copies])))
    assert pairs[:,0].tolist() == list(range(20)) and (pairs[:,1]-60).tolist() == list(range(20))

def test_nothing_is_no_twin(tmp_path):
    images = np.zeros((40,2,32,32), np.float32)
    images[10:20] = np.nan
    images[20:30] += np.arange(10)[:,None,None,None]
    images[30:] = np.random.default_rng(0).normal(size=(10,2,32,32))
    c = Cutouts.open(Cutouts.write(tmp_path/'a.h5', images, bands='gr'))
    assert len(pixel_twins(c)) == 0 and len(np.unique(twin_groups(c))) == 40

def test_small_images_only_by_equal_pixels(tmp_path):
    images = np.random.default_rng(0).normal(size=(500,1,8,8)).astype(np.float32)
    images[400:] = images[:100]
    t = pixel_twins(Cutouts.open(Cutouts.write(tmp_path/'a.h5', images, bands='r')))
    assert len(t) == 100 and (t['agreement'] == 1).all()

def test_order_of_rows_does_not_matter(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(150,1,24,24)).astype(np.float32)
    images[100:] = images[:50,:,::-1]
    t = Table(dict(id=[f'o{i}' for i in range(150)], ra=rng.uniform(0, 40, 150), dec=rng.uniform(-20, 20, 150), label=rng.integers(0, 3, 150)))
    def sides(order):
        c = Cutouts.open(Cutouts.write(tmp_path/'a.h5', images[order], bands='r', catalog=t[order], overwrite=True))
        parts = split_rows(c, .1, .2, seed=7)
        return split_hash(c, parts),[set(c.catalog['id'][p]) for p in parts]
    assert sides(np.arange(150)) == sides(rng.permutation(150))
    a,b = (split_rows(t, .1, .2, seed=s) for s in (0, 1))
    assert split_hash(t, a) != split_hash(t, b)

def test_classes_have_their_shares():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 3000, p=[.8,.15,.04,.01])
    t = Table(dict(id=np.arange(3000), ra=np.full(3000, np.nan), dec=np.full(3000, np.nan), label=labels))
    for part,share in zip(split_rows(t, .1, .2), (.7,.1,.2)):
        assert (abs(np.bincount(labels[part], minlength=4)-share*np.bincount(labels)) <= 2).all()
    unique = Table(dict(id=np.arange(300), ra=np.full(300, np.nan), dec=np.full(300, np.nan), label=[f'name {i}' for i in range(300)]))
    assert [len(p) for p in split_rows(unique, .1, .2)] == [210,30,60]         # labels that are names are no classes
    assert [len(p) for p in split_rows(t, .1, .2, labels=False)] == [2100,300,600]

def test_sky_blocks_and_borders():
    rng = np.random.default_rng(0)
    low,high = 10.,12.                                                # where does a cell end on this parallel?
    while high-low > 1e-8:
        mid = (low+high)/2
        low,high = (mid,high) if sky_cells([mid], [3.]) == sky_cells([10.], [3.]) else (low,mid)
    ra,dec = rng.uniform(0, 30, 3000),rng.uniform(-10, 10, 3000)
    ra[:2],dec[:2] = [low-.2/3600,high+.2/3600],3.
    cells = sky_cells(ra, dec)
    assert cells[0] != cells[1]
    for seed in range(4):
        side = np.zeros(3000, int)
        for k,p in enumerate(split_rows(Table(dict(id=np.arange(3000), ra=ra, dec=dec)), .1, .2, seed=seed)): side[p] = k
        assert side[0] == side[1] and all(len(set(side[cells == k])) == 1 for k in np.unique(cells))

def test_sky_twins_against_all_pairs():
    rng = np.random.default_rng(0)
    ra,dec = rng.uniform(0, 20/3600, 300)%360,89.99+rng.uniform(0, 10/3600, 300)
    v = np.stack([np.cos(np.radians(dec))*np.cos(np.radians(ra)),np.cos(np.radians(dec))*np.sin(np.radians(ra)),np.sin(np.radians(dec))], 1)
    d = np.degrees(2*np.arcsin(np.linalg.norm(v[:,None]-v, axis=2)/2))*3600
    expected = set(zip(*np.nonzero(np.triu(d <= 1., 1))))
    assert {tuple(p) for p in sky_twins(ra, dec)} == expected and expected

def test_saved_splits(tmp_path):
    t = Table(dict(id=[f'größe {i}' for i in range(50)], ra=np.full(50, np.nan), dec=np.full(50, np.nan)))
    parts = split_rows(t, .2, .2)
    h = save_split(tmp_path/'s.json', t, parts, seed=0)
    assert h == split_hash(t, parts) == split_hash(t[::-1], [49-p for p in parts])
    again = load_split(tmp_path/'s.json', t[::-1])
    assert [set(t[::-1]['id'][p]) for p in again] == [set(t['id'][p]) for p in parts]
    (tmp_path/'s.json').write_text((tmp_path/'s.json').read_text().replace('e 7"', 'e 8"'))
    with pytest.raises(DataError, match='was changed'): load_split(tmp_path/'s.json', t)
    with pytest.raises(InputError, match='No such file'): load_split(tmp_path/'none.json', t)
    assert split_hash(t, [(parts[0],parts[1]),(parts[1],parts[0])]) != split_hash(t, [(parts[1],parts[0]),(parts[0],parts[1])])

def test_cutouts_that_meet_at_a_corner_overlap():
    "Squares overlap up to the square root of two widths apart"
    from astromask.data.splits import _apart
    width = 20.
    for far,left in ((.7, 0), (1.2, 0), (1.39, 0), (1.45, 1)):
        step = far*width/2**.5/3600                                            # along the diagonal
        train,valid = _apart(np.array([10., 10.+step]), np.array([0., step]), (np.array([0]), np.array([1])), width)
        assert len(train) == left and len(valid) == 1

def test_strips_lose_no_pair(monkeypatch):
    "Many small strips find what all distances say: at the poles, across the meridian, in crowds, and where the reach is wider than a strip"
    rng = np.random.default_rng(0)
    ra,dec = rng.uniform(0, 360, 600),np.degrees(np.arcsin(rng.uniform(-1, 1, 600)))
    ra = np.concatenate([ra, ra[:200]+rng.normal(0, .02, 200), rng.normal(0, .05, 100), rng.uniform(0, 360, 100), [7.]*50])
    dec = np.concatenate([dec, dec[:200]+rng.normal(0, .02, 200), rng.normal(0, .05, 100), 90-np.abs(rng.normal(0, .05, 100)), [5.]*50])
    x = sky.on_sphere(ra, np.clip(dec, -90, 90))
    apart = np.linalg.norm(x[:,None]-x, axis=-1)
    monkeypatch.setattr(sky, 'strips', partial(sky.strips, size=23))
    for arcsec in (60, 7200):
        far = sky.chord(arcsec)
        want = np.argwhere(np.triu(apart <= far, 1))
        found = sky.close_pairs(x, far)
        assert len(found) and np.array_equal(found[np.lexsort(found.T[::-1])], want)
        assert np.array_equal(sky.connected(sky.close_pairs(x, far, most=100), len(x)), sky.connected(want, len(x)))
        assert np.array_equal(sky.near_another(x, far), (apart+8*np.eye(len(x))).min(1) < far)
        assert np.array_equal(sky.near_any(x[:500], x[500:], arcsec), apart[:500,500:].min(1) < far)
        assert not sky.near_any(x[:5], x[:0], arcsec).any() and not len(sky.near_any(x[:0], x, arcsec)) and not len(sky.close_pairs(x[:0], far))

# ---- of a hundred million

IDS = ['b','a','ngc 7331','Ångström','天','z','10','9','a','']           # 'a' is there twice

def old_hash(ids, parts):
    "As it was worked out of Python's strings"
    told = lambda some: '\x1f'.join(sorted(some))+'\x1e'
    return digest(*(old_hash(ids, p) if isinstance(p, tuple) else told(ids[p]) for p in parts))[:16]

@pytest.mark.parametrize('ids', [np.array(IDS), np.array(IDS, object), np.arange(-5, 5), np.array([o.encode('ascii', 'replace') for o in IDS])], ids=['text','objects','numbers','bytes'])
def test_hashes_are_what_they_were(ids):
    "Of text, numbers and bytes, of parts and of folds"
    t = Table(dict(id=ids))
    text = np.asarray(t['id']).astype(str)
    parts = np.arange(5),np.arange(5, 8),np.arange(0)
    assert split_hash(t, parts) == old_hash(text, parts)
    folds = [(np.arange(4), np.arange(4, 10)), (np.arange(6, 10), np.arange(6))]
    assert split_hash(t, folds) == old_hash(text, folds)
    assert hash_ids(t['id']).tolist() == [int.from_bytes(blake2b(str(o).encode(), digest_size=8).digest(), 'little', signed=True) for o in t['id']]

def test_more_than_a_million_ids_are_arrays(tmp_path, monkeypatch):
    "With the same rows as a list has, in whatever order the data are; what is not whole is refused"
    t = Table(dict(id=IDS))
    parts = np.array([1,2,8]),np.array([0,3,5]),np.array([4,6])
    listed = save_split(tmp_path/'listed.json', t, parts)
    monkeypatch.setattr(splits, '_listed_up_to', 5)
    path = tmp_path/'split.json'
    assert save_split(path, t, parts, seed=3) == listed
    arrays = tmp_path/f'split-{listed}.npz'
    assert read_json(path) == dict(format='astromask-split-1', hash=listed, sizes=dict(train=3, valid=3, test=2, left=2), about=dict(seed=3), ids=arrays.name)
    for order in (np.arange(10), np.random.default_rng(0).permutation(10)):
        for a,b,c in zip(load_split(path, t[order]), load_split(tmp_path/'listed.json', t[order]), parts): assert np.array_equal(a, b) and set(order[a]) == set(c)
    with pytest.raises(DataError, match="does not know 1 of 11 objects, such as 天天"): load_split(path, vstack([t, Table(dict(id=['天天']))]))
    with pytest.raises(DataError, match='names 2 objects that are not in the data'): load_split(path, t[[0,1,2,3,5,7,8,9]])
    whole = arrays.read_bytes()
    def refused(match):
        with pytest.raises(DataError, match=match) as e: load_split(path, t)
        assert '\n' not in str(e.value)
    for n in (0, 40, len(whole)//2, len(whole)-1):
        arrays.write_bytes(whole[:n])
        refused('is damaged')
    at = whole.index('Ångström'.encode())
    arrays.write_bytes(whole[:at]+b'X'+whole[at+1:])
    refused('is damaged|was changed')
    with open(arrays, 'wb') as f: np.savez(f, train=np.array(['a', None], object))
    refused('is damaged')
    with open(arrays, 'wb') as f: np.savez(f, train=np.arange(3))
    refused('is damaged')
    arrays.unlink()
    refused('copy it with the split')
    text = path.read_text()
    for other in ('../'+arrays.name, '', '..', '/etc/passwd'):
        path.write_text(text.replace(arrays.name, other))
        refused('is no split')

def counted(folder, t, n, slow):
    "Processes that want the split of a run at the same time: what each has, and how often it was made"
    def work(made, found, ready):
        def making(*args, **kw):
            with made.get_lock(): made.value += 1
            time.sleep(slow)
            return split_rows(*args, **kw)
        splits.split_rows = making
        ready.wait()
        found.put([p.tolist() for p in run_split(folder, t, valid=.2)])
    context = multiprocessing.get_context('fork')
    made,found,ready = context.Value('i', 0),context.Queue(),context.Barrier(n)
    started = [context.Process(target=work, args=(made, found, ready)) for _ in range(n)]
    for p in started: p.start()
    return started,found,made

def test_one_process_makes_a_split_and_all_have_it(tmp_path):
    "Rows that have an id together are on one side for who made it, too"
    ids = np.arange(200)
    ids[:40] = ids[40:80]
    t = Table(dict(id=ids, ra=np.linspace(0, 300, 200), dec=np.zeros(200)))
    started,found,made = counted(tmp_path/'run', t, 3, .5)
    rows = [found.get(timeout=60) for _ in started]
    for p in started: p.join()
    assert made.value == 1 and rows[0] == rows[1] == rows[2]
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == ['split.json']
    assert [p.tolist() for p in run_split(tmp_path/'run', t, valid=.2)] == rows[0]

def test_the_next_makes_what_a_killed_process_did_not(tmp_path):
    t = Table(dict(id=np.arange(200), ra=np.linspace(0, 300, 200), dec=np.zeros(200)))
    (victim,),_,made = counted(tmp_path/'run', t, 1, 60)
    while not made.value: time.sleep(.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    assert not (tmp_path/'run'/'split.json').exists()
    assert len(run_split(tmp_path/'run', t, valid=.2)[1]) == 40 and (tmp_path/'run'/'split.json').exists()

def test_a_split_in_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    "It is read without asking for a lock"
    t = Table(dict(id=np.arange(50), ra=np.full(50, np.nan), dec=np.full(50, np.nan)))
    first = run_split(tmp_path, t)
    monkeypatch.setattr(splits, 'making', None)
    for a,b in zip(first, run_split(tmp_path, t)): assert np.array_equal(a, b)
