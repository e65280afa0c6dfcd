"Survey tiles: real ones, every way that pixels are stored, damage, full disks, kills, and headers made by chance"
import os, resource, subprocess, sys, tempfile, time
from pathlib import Path
import h5py, numpy as np, pytest
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from astropy.wcs import WCS
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from astromask.core import AstroMaskError, DataError, InputError
from astromask.cli import main
from astromask.data import ingest as room
from astromask.data.cutouts import Cutouts
from astromask.data.writing import write_column
from astromask.data.ingest import ingest, read_catalog
from astromask.data.cutting import Cut
from astromask.data.tiles import TileLayout, open_plane
from astromask.units import unit_zero_point

real = Path(__file__).parents[1].parent/'shared'/'data'/'fits'
needs_real = pytest.mark.skipif(not (real/'hsc_g.fits').exists(), reason=f'the real field of {real} is not here')

def header(shape=(90,110), ra=150., dec=2., scale=0.2):
    w = WCS(naxis=2)
    w.wcs.ctype,w.wcs.crval,w.wcs.crpix = ('RA---TAN','DEC--TAN'),(ra,dec),((shape[1]+1)/2,(shape[0]+1)/2)
    w.wcs.cdelt = -scale/3600,scale/3600
    return w.to_header()

def noise(shape=(90,110), seed=0): return np.random.default_rng(seed).normal(5, 2, shape).astype(np.float32)

def positions(h, x, y):
    ra,dec = WCS(h).all_pix2world(x, y, 0)
    return Table(dict(id=[f'o{i}' for i in range(len(ra))], ra=ra, dec=dec))

def field(folder, n=2, objects=12, bands='gr', size=(90,110)):
    "Neighbouring tiles in two bands and a catalogue over them; gives what `ingest` is called with"
    tables = []
    for i in range(n):
        h = header(size, ra=150-i*0.9*size[1]*0.2/3600)
        for k,b in enumerate(bands): fits.writeto(folder/f'{b}-{i}.fits', noise(size, 10*i+k), h)
        r = np.random.default_rng(i)
        tables.append(positions(h, r.uniform(0, size[1]-1, objects), r.uniform(0, size[0]-1, objects)))
    t = Table({k: np.concatenate([o[k] for o in tables]) for k in ('ra','dec')})
    t.write(folder/'objects.fits')
    return dict(tiles=f'{folder}/{{band}}-*.fits', catalog=folder/'objects.fits', bands=tuple(bands), size=16, processes=1)

def line(out, call):
    "The command line that does what `ingest(out, **call)` does"
    return ['ingest', str(out), '--tiles', call['tiles'], '--catalog', str(call['catalog']), '--bands', ','.join(call['bands']), '--size', str(call['size']), '--processes', '1']

def command(out, call, before=''):
    "The same in a process of its own"
    return [sys.executable, '-c', before + 'from astromask.cli import main; main()', *line(out, call)]

# Real pixels

@needs_real
def test_real_hsc_field(tmp_path):
    "Known sources put through the WCS into a copy of the field are found where the catalogue says, with their flux"
    rng,sigma,flux = np.random.default_rng(0),2.,5e4
    x,y = (o.ravel() + rng.uniform(-3, 3, 25) for o in np.meshgrid(np.linspace(40, 425, 5), np.linspace(40, 425, 5)))
    columns,rows = np.meshgrid(np.arange(466), np.arange(466))
    sources = sum(flux/(2*np.pi*sigma**2)*np.exp(-0.5*((columns-a)**2+(rows-b)**2)/sigma**2) for a,b in zip(x, y))
    for b in 'gri':
        with fits.open(real/f'hsc_{b}.fits') as f:
            fits.writeto(tmp_path/f'hsc_{b}.fits', f[0].data+sources, f[0].header)
            h = f[0].header
    catalog = positions(h, x, y)
    call = dict(survey='hsc', bands='gri', size=48, processes=1)
    before = Cutouts.open(ingest(tmp_path/'a.h5', f'{real}/hsc_{{band}}.fits', catalog, **call))
    after = Cutouts.open(ingest(tmp_path/'b.h5', f'{tmp_path}/hsc_{{band}}.fits', catalog, **call))
    t = after.catalog
    assert list(t['id']) == list(catalog['id']) and before.bands == ('g','r','i')
    np.testing.assert_allclose(t['x'], x, atol=1e-6)
    np.testing.assert_allclose(t['y'], y, atol=1e-6)
    rows,columns = np.mgrid[:48,:48]
    added = after[:].astype(np.float64) - before[:]
    for b in range(3):
        total = added[:,b].sum((1,2))
        np.testing.assert_allclose((added[:,b]*columns).sum((1,2))/total, t['cutout_x'], atol=0.01)
        np.testing.assert_allclose((added[:,b]*rows).sum((1,2))/total, t['cutout_y'], atol=0.01)
        np.testing.assert_allclose(total, flux, rtol=1e-5)
    assert max(np.abs(t[f'cutout_{k}']-23.5).max() for k in 'xy') <= 0.5+1e-4
    with fits.open(real/'hsc_g.fits') as f:
        x0,y0 = (int(round(t[k][7]-t['cutout_'+k][7])) for k in 'xy')
        np.testing.assert_array_equal(before[7][0], f[0].data[y0:y0+48,x0:x0+48])

@needs_real
def test_real_coadd_with_mask_and_variance(tmp_path):
    path = real/'hsc_coadd_r_9071.fits'
    call = dict(image_hdu=1, mask_hdu=2, variance_hdu=3, size=64, overlap=0., processes=1)
    out = ingest(tmp_path/'a.h5', dict(r=path), **call)
    c = Cutouts.open(out)
    with h5py.File(out) as f: ivar,scale,zero_point = f['ivar'][:],f.attrs['pixel_scale'],f.attrs['zero_point']
    assert scale == pytest.approx(0.168, rel=1e-3) and zero_point == pytest.approx(27.)
    with fits.open(path) as f: image,variance = f[1].data,f[3].data
    with fits.open(path, do_not_scale_image_data=True) as f: bad = (f[2].data & (1<<0 | 1<<1 | 1<<3 | 1<<8 | 1<<12)) != 0    # BAD, SAT, CR, NO_DATA, UNMASKEDNAN; not DETECTED and others
    for i,t in enumerate(c.catalog[:10]):
        x,y = (int(round(t[k]-t['cutout_'+k])) for k in 'xy')
        s = np.s_[y:y+64,x:x+64]
        np.testing.assert_array_equal(c[i][0], np.where(bad[s], np.nan, image[s]))
        np.testing.assert_allclose(ivar[i][0], np.where(bad[s], 0, 1/variance[s]), rtol=1e-6)
    more = Cutouts.open(ingest(tmp_path/'b.h5', dict(r=path), mask_planes=['DETECTED'], **call))
    assert np.isnan(more[:]).mean() > np.isnan(c[:]).mean()

# How pixels are stored

def test_types_and_compression(tmp_path):
    h,whole = header(),np.round(noise()*20)
    positive = np.where(whole < 0, 0, whole)
    t,s = positions(h, [50.2], [40.7]),np.s_[33:49,43:59]
    hdus = dict(f4=fits.PrimaryHDU(whole.astype('>f4'), h), f8=fits.PrimaryHDU(whole.astype('>f8'), h),
                i2=fits.PrimaryHDU(whole.astype(np.int16), h), u2=fits.PrimaryHDU(positive.astype(np.uint16), h),
                i4=fits.PrimaryHDU(whole.astype(np.int32), h), rice=fits.CompImageHDU(whole.astype(np.int32), h, compression_type='RICE_1'),
                gzip=fits.CompImageHDU(whole.astype(np.float32), h, compression_type='GZIP_1', quantize_level=0),
                cube=fits.PrimaryHDU(whole[None].astype(np.float32), h))
    for name,hdu in hdus.items():
        hdu.writeto(tmp_path/f'{name}.fits')
        c = Cutouts.open(ingest(tmp_path/f'{name}.h5', dict(g=tmp_path/f'{name}.fits'), t, size=16, processes=1))
        np.testing.assert_array_equal(c[0][0], (positive if name == 'u2' else whole)[s], err_msg=name)

@pytest.mark.parametrize('blank,stored,kind', [(-99,-99,np.int16), (0,0,np.int16), (-32768,0,np.uint16), (7,7,np.int32)])
@pytest.mark.parametrize('hdu', [fits.PrimaryHDU, fits.CompImageHDU])
def test_blank_integers(tmp_path, blank, stored, kind, hdu):
    data = np.arange(9900).reshape(90,110).astype(kind) + 100
    data[45,55] = stored
    hdu = hdu(data, header())
    hdu.header['BLANK'] = blank
    hdu.writeto(tmp_path/'a.fits')
    c = Cutouts.open(ingest(tmp_path/'a.h5', dict(g=tmp_path/'a.fits'), positions(header(), [55.], [45.]), size=8, processes=1))
    assert np.argwhere(np.isnan(c[0][0])).tolist() == [[4,4]] and np.nanmin(c[0]) == data[41,51]

def test_scaled_integers(tmp_path):
    "BSCALE and BZERO, and a plane that is packed by gzip"
    hdu = fits.PrimaryHDU(np.arange(9900, dtype=np.int16).reshape(90,110), header())
    hdu.header['BSCALE'],hdu.header['BZERO'] = 0.5,10.
    hdu.writeto(tmp_path/'a.fits.gz')
    with fits.open(tmp_path/'a.fits.gz', do_not_scale_image_data=True) as f: raw = f[0].data.copy()
    c = Cutouts.open(ingest(tmp_path/'a.h5', dict(g=tmp_path/'a.fits.gz'), positions(header(), [55.], [45.]), size=8, processes=1))
    np.testing.assert_array_equal(c[0][0], raw[41:49,51:59]*0.5+10)

def test_edges_gaps_and_zero_points(tmp_path):
    h,image = header(),noise()
    image[:,60:] = 0
    fits.writeto(tmp_path/'CFIS.001.002.u.fits', image, h)
    told = fits.Header(dict(FLUXMAG0=10**(0.4*27)))
    fits.HDUList([fits.PrimaryHDU(header=told), fits.ImageHDU(image, h)]).writeto(tmp_path/'WISHES.1.2.z.fits')
    c = Cutouts.open(ingest(tmp_path/'a.h5', tmp_path, positions(h, [2.,58.], [3.,88.]), survey='unions', bands='ugz', size=16, processes=1))
    u,g,z = np.moveaxis(c[:], 1, 0)
    assert np.isnan(g).all() and c.survey == 'unions' and set(c.catalog['tile']) == {'001.002'}
    assert np.isnan(u[0,:5]).all() and np.isnan(u[0,:,:6]).all() and np.isfinite(u[0,5:,6:]).all()
    assert np.isnan(u[1,10:]).all() and np.isnan(u[1,:,10:]).all() and np.isfinite(u[1,:10,:10]).all()
    np.testing.assert_allclose(z, u*10**1.2, rtol=1e-6)   # the header said that its zero point is not the survey's
    again = ingest(tmp_path/'b.h5', tmp_path, positions(h, [2.,58.], [3.,88.]), survey='unions', bands='uz', size=16, zero_point=dict(u=28.5, z=30.))
    assert Cutouts.open(again).zero_point == 28.5     # the first band's
    np.testing.assert_allclose(Cutouts.open(again)[:], np.stack([u,u*10**-0.6], 1), rtol=1e-6)

def test_legacy_masks_and_weights(tmp_path):
    h,image = header(),noise()
    weight,bits = np.full(image.shape, 4., np.float32),np.zeros(image.shape, np.int16)
    weight[45,50],bits[46,51],bits[47,52] = 0,1<<5,1<<6
    for name,data in (('image-g',image),('invvar-g',weight),('maskbits',bits)):
        lossless = dict(compression_type='GZIP_1', quantize_level=0) if data.dtype.kind == 'f' else {}
        fits.CompImageHDU(data, h, **lossless).writeto(tmp_path/f'legacysurvey-0001m002-{name}.fits.fz')
    out = ingest(tmp_path/'a.h5', tmp_path, positions(h, [50.], [45.]), survey='legacy', size=8, processes=1)
    with h5py.File(out) as f: x,ivar = f['cutouts'][0,0],f['ivar'][0,0]
    assert np.argwhere(np.isnan(x)).tolist() == [[4,4],[5,5]] and (np.isnan(x) == (ivar == 0)).all() and set(ivar.ravel()) == {0,4}
    (tmp_path/'legacysurvey-0001m002-invvar-g.fits.fz').unlink()
    with pytest.raises(DataError, match='No such file.*invvar-g'): ingest(tmp_path/'b.h5', tmp_path, survey='legacy', size=8, processes=1)
    ingest(tmp_path/'b.h5', tmp_path, survey='legacy', size=32, weights=False, processes=1)

def test_declination_first(tmp_path):
    "With declination on the first axis x is still the column"
    h = header()
    h['CTYPE1'],h['CTYPE2'],h['CRVAL1'],h['CRVAL2'],h['CDELT1'],h['CDELT2'] = 'DEC--TAN','RA---TAN',2.,150.,0.2/3600,-0.2/3600
    fits.writeto(tmp_path/'a.fits', noise(), h)
    plane = open_plane(tmp_path/'a.fits')
    p = plane.to_sky(80, 20)
    assert p.dec.deg[0] > 2
    np.testing.assert_allclose(np.ravel(plane.to_pixel(p.ra.deg, p.dec.deg)), [80,20], atol=1e-6)

def test_best_tile_of_several(tmp_path):
    h,image = header(),noise()
    broken = image.copy()
    broken[40:50] = np.nan
    fits.writeto(tmp_path/'a.fits', broken, h)
    fits.writeto(tmp_path/'b.fits', image[30:], header((60,110), dec=2+15*0.2/3600))
    t = positions(h, [50.,50.,50.], [45.,20.,70.])
    tiles = [room.Tile(k, dict(g=str(tmp_path/f'{k}.fits'))) for k in 'ab']
    how = Cut(('g',), 16, TileLayout('tiles'))
    jobs = room.plan_catalog([(o,open_plane(o.files['g'])) for o in tiles], t).jobs
    (tmp_path/'parts').mkdir()
    for j in jobs: room.cut_job(j, how, tmp_path/'parts')
    # the first has NaN rows in a, the second is only on a, the third is farther from an edge of b (19.5 pixels) than of a (19.5): the first tile
    chosen = [jobs[j].tile.name for j in room.choose(jobs, how, tmp_path/'parts')['job']]
    assert chosen[:2] == ['b','a']

def test_offset_bands_are_brought_together(tmp_path, caplog):
    "The files of r begin half a tile to the right of g's: what both show has both, and what r's alone show is there"
    image,h = noise((90,220)),header((90,220))
    for b,x0 in (('g',0),('r',55)):
        fits.writeto(tmp_path/f'{b}.fits', image[:,x0:x0+110], WCS(h)[:,x0:x0+110].to_header())
    t = positions(h, [20.,70.,95.,150.], [40.,45.,50.,55.])
    out = ingest(tmp_path/'a.h5', dict(g=tmp_path/'g.fits', r=tmp_path/'r.fits'), t, size=16, processes=1)
    x = Cutouts.open(out)[:]
    assert np.isfinite(x).all((2,3)).tolist() == [[True,False],[True,True],[True,True],[False,True]]
    np.testing.assert_array_equal(x[1], np.stack([image[37:53,62:78]]*2))
    np.testing.assert_array_equal(x[2,0], x[2,1])
    squares = Cutouts.open(ingest(tmp_path/'b.h5', dict(g=tmp_path/'g.fits', r=tmp_path/'r.fits'), size=16, processes=1))
    both = np.isfinite(squares[:]).all((2,3)).all(1)
    assert both.sum() > 20 and len(np.unique(squares.catalog['id'])) == len(squares)
    again = ingest(tmp_path/'c.h5', dict(g=tmp_path/'g.fits', r=tmp_path/'r.fits'), t, size=16, processes=2)
    assert again.read_bytes() == out.read_bytes()

def test_same_sky_twice_in_a_band(tmp_path):
    for name,ra in (('a',150.), ('b',150.+40*0.2/3600), ('c',150.+60*0.2/3600)): fits.writeto(tmp_path/f'{name}.fits', noise(), header(ra=ra))
    with pytest.raises(DataError, match='a.fits and .*b.fits are both band g of the same sky'): 
        ingest(tmp_path/'x.h5', dict(g=[tmp_path/'a.fits', tmp_path/'b.fits']), size=16)
    ingest(tmp_path/'x.h5', dict(g=[tmp_path/'a.fits', tmp_path/'c.fits']), size=16, processes=1)   # less than half in common
    for n in (1,2): (tmp_path/f'calexp-HSC-G-{n}-4,4.fits').write_bytes((tmp_path/'a.fits').read_bytes())
    room.find_tiles(dict(g=str(tmp_path/'calexp*')), 'hsc', image_hdu=0)   # two tracts show the same sky

def test_light_is_kept_far_from_the_centre_of_projection(tmp_path):
    "0.9 degrees away a pixel covers 4e-4 more sky than the header's scale says"
    w = WCS(naxis=2)
    w.wcs.ctype,w.wcs.crval,w.wcs.crpix,w.wcs.cdelt = ('RA---TAN','DEC--TAN'),(150.,2.),(-16200,50),(-0.2/3600,0.2/3600)
    rows,columns = np.mgrid[:90,:110]
    star = 100*np.exp(-((columns-55.3)**2+(rows-44.8)**2)/18)
    fits.writeto(tmp_path/'a.fits', star, w.to_header())
    for scale in (0.11,0.2,0.31):
        out = ingest(tmp_path/f'{scale}.h5', dict(g=tmp_path/'a.fits'), positions(w.to_header(), [55.3], [44.8]), size=40, pixel_scale=scale, processes=1)
        x = Cutouts.open(out)[0][0].astype(np.float64)
        inside = star[(columns-55.3)**2+(rows-44.8)**2 < 15**2].sum()
        assert np.isfinite(x).all() and abs(x.sum()/star.sum()-1) < (1e-5 if scale > 0.15 else 1e-2), (scale, x.sum()/star.sum()-1)

# Interruptions

def test_killed_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    call,parts = field(tmp_path, n=3, objects=15),tmp_path/'.out.h5.parts'
    whole = ingest(tmp_path/'whole.h5', **call).read_bytes()
    slow = ('import time, astromask.data.ingest as m\nw = m.write_atomic\n'
            'def f(p, d): w(p, d); time.sleep(100)\nm.write_atomic = f\n')
    def done(): return [o for o in parts.iterdir() if o.name[0] != '.'] if parts.exists() else []
    with subprocess.Popen(command(tmp_path/'out.h5', call, slow), stdout=subprocess.DEVNULL) as p:
        until = time.monotonic() + 90
        while not done() and time.monotonic() < until: time.sleep(0.05)
        p.kill()
    assert not (tmp_path/'out.h5').exists() and len(done()) == 1
    (parts/'.junk.123').write_bytes(b'half')
    opened,OpenTile = [],room.OpenTile
    monkeypatch.setattr(room, 'OpenTile', lambda tile,*how: opened.append(tile) or OpenTile(tile, *how))
    assert ingest(tmp_path/'out.h5', **call).read_bytes() == whole
    assert len(opened) == 2 and not parts.exists()   # the first tile was not cut again

def test_processes_and_time_change_nothing(tmp_path):
    call = field(tmp_path, n=3)
    a = ingest(tmp_path/'a.h5', **call).read_bytes()
    time.sleep(1.1)   # a time stamp in the file would show
    assert ingest(tmp_path/'b.h5', **call | dict(processes=2)).read_bytes() == a

@pytest.mark.slow
def test_workers_leave_when_their_parent_is_killed(tmp_path):
    call = field(tmp_path, n=3, objects=2000)
    started = [*command(tmp_path/'out.h5', call)[:-1], '2']
    def at_work():
        found = [p for p in Path('/proc').iterdir() if p.name.isdigit()]
        return {p.name for p in found if started_by(p)}
    def started_by(p):
        try: return f'PPid:\t{child.pid}\n' in (p/'status').read_text()
        except OSError: return False
    with subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        until = time.monotonic() + 60
        while not list((tmp_path/'.out.h5.parts').glob('[0-9a-f]*')) and time.monotonic() < until: time.sleep(0.02)
        workers = at_work()
        child.kill()
    while any(Path('/proc', p).exists() for p in workers) and time.monotonic() < until: time.sleep(0.1)
    assert len(workers) >= 2 and not any(Path('/proc', p).exists() for p in workers)

@pytest.mark.parametrize('room,parts', [pytest.param(100_000, 0, marks=pytest.mark.slow), (150_000,2)], ids=['a part','the file'])
def test_disk_full(tmp_path, room, parts):
    "A nonzero exit, one sentence, nothing half at any path, what was written is used, and the same command finishes"
    call = field(tmp_path, n=2, objects=60)
    def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (room,room))
    ran = subprocess.run(command(tmp_path/'out.h5', call), capture_output=True, text=True, preexec_fn=limit)
    assert ran.returncode == 1 and 'Could not write' in ran.stderr and 'Traceback' not in ran.stderr, ran.stderr
    left = [p for p in (tmp_path/'.out.h5.parts').iterdir() if p.name != '.lock']
    assert not (tmp_path/'out.h5').exists() and len(left) == parts
    ran = CliRunner().invoke(main, line(tmp_path/'out.h5', call))
    assert ran.exit_code == 0, ran.stderr
    ran = CliRunner().invoke(main, line(tmp_path/'out.h5', call))
    assert ran.exit_code == 2 and 'or --overwrite' in ran.stderr
    assert (tmp_path/'out.h5').read_bytes() == ingest(tmp_path/'whole.h5', **call).read_bytes()

# What is wrong is said

def test_sentences(tmp_path):
    call = field(tmp_path)
    def fails(match, **change):
        with pytest.raises(InputError, match=match): ingest(tmp_path/'x.h5', **call | change)
        assert not (tmp_path/'x.h5').exists()
    whole = (tmp_path/'g-1.fits').read_bytes()
    (tmp_path/'g-1.fits').write_bytes(whole[:20000])
    fails('g-1.fits is damaged or truncated: HDU 0 should hold 90 x 110 pixels')
    (tmp_path/'g-1.fits').write_bytes(b'')
    fails('g-1.fits is empty')
    (tmp_path/'g-1.fits').write_bytes(b'<html>')
    fails('g-1.fits is damaged, truncated or not FITS', processes=2)
    (tmp_path/'g-1.fits').write_bytes(whole)
    fails('no image in HDU MASK', mask_hdu='MASK')
    fails('No file matches', tiles=str(tmp_path/'none-{band}.fits'))
    fails('name a survey', tiles=str(tmp_path))
    fails("no column 'alpha'", ra='alpha')
    fails('size = 0', size=0)
    (tmp_path/'g-1.fits').write_bytes(whole.replace(b'NAXIS   =                    2', b'NAXIS   =           1000000002'))
    fails(r'g-1.fits is damaged: its header says NAXIS = 1e\+09')
    (tmp_path/'g-1.fits').write_bytes(whole)
    fails("zero point is given for band 'k'", zero_point=dict(k=25.))
    fits.writeto(tmp_path/'coarse.fits', noise(), header(ra=151., scale=0.3))
    fails('ingest them apart', tiles=dict(g=[tmp_path/'g-0.fits', tmp_path/'coarse.fits']), bands=None, catalog=None)

@pytest.mark.slow
def test_a_flipped_bit_is_told(tmp_path):
    call = field(tmp_path, n=2)
    for p in tmp_path.glob('?-?.fits'): fits.PrimaryHDU(*fits.getdata(p, header=True)).writeto(p, checksum=True, overwrite=True)
    raw = bytearray((tmp_path/'r-1.fits').read_bytes())
    raw[-9000] ^= 1
    (tmp_path/'r-1.fits').write_bytes(raw)
    ran = subprocess.run([*command(tmp_path/'out.h5', call)[:-1], '2'], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stderr.count('do not have the checksum') == 1 and 'r-1.fits: its pixels' in ran.stderr, ran.stderr

def test_repeated_ids_are_told(caplog):
    t = dict(ra=[1.,2.,3.,4.], dec=[0.]*4)
    with caplog.at_level('WARNING', 'astromask'):
        read_catalog(Table(dict(id=[7,8,9,10], **t)))
        assert not caplog.messages
        assert len(read_catalog(Table(dict(id=[7,8,7,7], **t)))) == 4
    assert "2 of 4 rows of the catalogue repeat an id of an earlier row, such as '7'" in caplog.text

def test_resampling_names_its_extra(tmp_path, monkeypatch):
    call = field(tmp_path, n=1)
    monkeypatch.setitem(sys.modules, 'reproject', None)
    with pytest.raises(InputError, match=r'astromask\[ingest\]'): ingest(tmp_path/'x.h5', **call, pixel_scale=0.3)

# Units and zero points

def tile(path, image=None, cards={}, shape=(90,110), **h):
    head = header(shape, **h)
    for k,v in cards.items(): head[k] = v
    fits.writeto(path, np.full(shape, 1000., 'f4') if image is None else image, head, overwrite=True)
    return str(path)

def flux(mag, zero_point): return 10**(0.4*(zero_point-mag))

def magnitudes(c): return c.zero_point - 2.5*np.log10(np.median(c[:].astype(np.float64), (0,2,3)))

def cut(folder, tiles, catalog=None, **call):
    return Cutouts.open(ingest(folder/'units.h5', tiles, catalog, **dict(size=32, processes=1, overwrite=True) | call))

area = np.radians(0.2/3600)**2
stated = {'MAGZERO': dict(MAGZERO=25.), 'MAGZPT': dict(MAGZPT=25.), 'ZEROPOINT': dict(ZEROPOINT=25.), 'PHOTZP': dict(PHOTZP=25.), 'FLUXMAG0': dict(FLUXMAG0=1e10),
          'nJy': dict(BUNIT='nJy'), 'uJy': dict(BUNIT='uJy'), 'nanomaggy': dict(BUNIT='nanomaggy'), 'nanomaggies': dict(BUNIT='nanomaggies'),
          'MJy/sr': dict(BUNIT='MJy/sr'), 'Jy': dict(BUNIT='Jy')}
true_zero_points = dict(MAGZERO=25., MAGZPT=25., ZEROPOINT=25., PHOTZP=25., FLUXMAG0=25., nJy=31.4, uJy=23.9, nanomaggy=22.5, nanomaggies=22.5, Jy=8.9)
true_zero_points['MJy/sr'] = -2.5*np.log10(1e6*area/3631)
exact = dict(nJy=2.5*np.log10(3631e9), uJy=2.5*np.log10(3631e6), Jy=2.5*np.log10(3631))

@pytest.mark.parametrize('survey', [None,'hsc','legacy'])
@pytest.mark.parametrize('name', stated)
def test_what_a_header_says_is_what_the_file_says(tmp_path, name, survey):
    "A source of 20 mag is one of 20 mag, whatever a survey usually has"
    zero_point = exact.get(name, true_zero_points[name])
    x = np.full((90,110), flux(20, zero_point), 'f4')
    c = cut(tmp_path, dict(g=tile(tmp_path/'g.fits', x, stated[name])), survey=survey)
    assert c.zero_point == pytest.approx(true_zero_points[name], abs=2e-3)
    assert magnitudes(c)[0] == pytest.approx(20, abs=2e-3)
    np.testing.assert_allclose(c[:], x[0,0], rtol=1e-6)      # one unit throughout: the pixels stay as they are
    assert c.unit in ('', f'{c.zero_point:g} mag AB', name) or name == 'nanomaggies' and c.unit == 'nanomaggy', c.unit

def test_bands_of_different_zero_points(tmp_path):
    "Colours are right to 1e-6, weights too, and the file's zero point is its pixels'"
    for b,zp in (('g',25.),('r',30.),('i',22.5)):
        x = np.full((90,110), flux(20, zp), 'f8')
        h = header()
        h['MAGZERO' if b != 'i' else 'BUNIT'] = zp if b != 'i' else 'nanomaggy'
        fits.HDUList([fits.PrimaryHDU(x, h), fits.ImageHDU((x*.1)**2, name='VAR')]).writeto(tmp_path/f'{b}.fits')
    c = cut(tmp_path, {b: str(tmp_path/f'{b}.fits') for b in 'gri'})
    assert c.zero_point == 25
    np.testing.assert_allclose(c[:], flux(20, 25), rtol=1e-6)
    np.testing.assert_allclose(c.ivar(slice(None)), (flux(20, 25)*.1)**-2, rtol=1e-6)

def test_tiles_of_one_band_in_different_zero_points(tmp_path):
    for i,zp in enumerate((25.,30.)): tile(tmp_path/f'g-{i}.fits', np.full((90,110), flux(20, zp), 'f4'), dict(MAGZERO=zp), ra=150+i)
    c = cut(tmp_path, dict(g=f'{tmp_path}/g-*.fits'))
    assert c.zero_point == 25 and set(c.catalog['tile']) == {'g-0','g-1'}
    np.testing.assert_allclose(c[:], flux(20, 25), rtol=1e-6)

def test_pixels_of_different_size_in_surface_brightness(tmp_path):
    "MJy/sr on 0.2 and 0.4 arcsec pixels: the light of a source is the same in both bands"
    rows,columns = np.mgrid[:90,:110]
    for b,scale,size in (('a',.2,1),('b',.4,2)):
        star = 1e-6/(area*size**2)/(2*np.pi*(4/size)**2)*np.exp(-.5*((columns-54.5)**2+(rows-44.5)**2)/(4/size)**2)      # 1e-6 MJy in all
        tile(tmp_path/f'{b}.fits', star.astype('f4'), dict(BUNIT='MJy/sr'), scale=scale)
    c = cut(tmp_path, {b: str(tmp_path/f'{b}.fits') for b in 'ab'}, positions(header(), [54.5], [44.5]), size=64)
    total = c[0].astype(np.float64).sum((1,2))
    np.testing.assert_allclose(c.zero_point - 2.5*np.log10(total), -2.5*np.log10(1/3631), atol=2e-3)

def test_the_caller_states_and_is_contradicted(tmp_path, caplog):
    g,r = tile(tmp_path/'g.fits'),tile(tmp_path/'r.fits')
    c = cut(tmp_path, dict(g=g, r=r), zero_point=dict(g=0., r=30.))
    assert c.zero_point == 0
    np.testing.assert_allclose(np.median(c[:], (0,2,3)), [1000,1e-9], rtol=1e-6)
    c = cut(tmp_path, dict(g=g, r=r), unit='nJy')
    assert (c.unit, round(c.zero_point, 2)) == ('nJy', 31.4)
    assert not [r for r in caplog.records if r.levelname == 'WARNING']
    told = tile(tmp_path/'t.fits', cards=dict(BUNIT='nJy'))
    c = cut(tmp_path, dict(g=told), zero_point=22.5)
    assert c.zero_point == 22.5 and '31.4' in caplog.text and '22.5' in caplog.text
    caplog.clear()
    c = cut(tmp_path, dict(g=told), unit='nJy')
    assert not [r for r in caplog.records if r.levelname == 'WARNING'] and c[0].max() == 1000
    with pytest.raises(InputError, match='nJy.*31.4'): cut(tmp_path, dict(g=told), unit='nJy', zero_point=22.5)

def test_nothing_is_assumed(tmp_path, caplog):
    "Neither header nor caller: the zero point is unknown; a survey that is named says so once"
    g,r = tile(tmp_path/'g.fits'),tile(tmp_path/'r.fits', cards=dict(MAGZERO=25.))
    c = cut(tmp_path, dict(g=g))
    assert (c.zero_point, c.unit) == (None, '')
    with caplog.at_level('INFO', 'astromask'): c = cut(tmp_path, dict(g=g, r=tile(tmp_path/'i.fits')), survey='legacy')
    assert c.zero_point == 22.5 and caplog.text.count('22.5') == 1
    caplog.clear()
    c = cut(tmp_path, dict(g=g, r=r))     # one band knows, the other does not
    assert (c.zero_point, c.unit) == (None, '') and 'zero point' in caplog.text
    np.testing.assert_array_equal(c[:], 1000)
    tile(tmp_path/'r2.fits', ra=152.)
    with pytest.raises(DataError, match=r'r2?.fits.*zero point'): cut(tmp_path, dict(r=[r,str(tmp_path/'r2.fits')]))

# Numbers

@pytest.mark.parametrize('size', [1e-20,1e-40,1e12,1e30,1.])
def test_numbers_beyond_float32(tmp_path, size):
    "Scaled by a power of two, so that digits stay; magnitudes do not change"
    x = np.random.default_rng(0).normal(5, 1, (90,110))
    h,zero_point = header(),25+2.5*np.log10(size) if 1e-30 < size < 1e20 else None
    if zero_point is not None: h['MAGZERO'] = zero_point
    fits.HDUList([fits.PrimaryHDU(x*size, h), fits.ImageHDU(np.full(x.shape, size**2), name='VAR')]).writeto(tmp_path/'a.fits')
    c = cut(tmp_path, dict(g=str(tmp_path/'a.fits')), positions(header(), [55.], [45.]), size=16)
    k = np.log2(np.median(c[0][0].astype(np.float64)/(x*size)[37:53,47:63])).round(6)
    assert np.isfinite(c[:]).all() and k % 1 == 0 and (k != 0) == (size not in (1,1e12))
    np.testing.assert_array_equal(c[0][0], (x*size*2.**k)[37:53,47:63].astype('f4'))
    np.testing.assert_allclose(c.ivar(slice(None))[0,0], (size*2.**k)**-2, rtol=1e-6)
    if zero_point is None: assert c.zero_point is None
    else: assert c.zero_point == pytest.approx(zero_point + 2.5*np.log10(2)*k, abs=1e-6)

@pytest.mark.parametrize('size', [1e-20,1e30,1.])
def test_the_unit_says_the_power_of_two(tmp_path, size):
    x = np.random.default_rng(0).normal(5, 1, (90,110))*size
    c = cut(tmp_path, dict(g=tile(tmp_path/'b.fits', x, dict(BUNIT='erg/s/cm2/Angstrom'))), positions(header(), [55.], [45.]), size=16)
    k = round(np.log2(np.median(c[0][0].astype(np.float64)/x[37:53,47:63])))
    assert (f'2**{-k}' in c.unit) == (k != 0) == (size != 1) and 'erg' in c.unit and c.zero_point is None
    assert unit_zero_point(c.unit, wavelength=5000.) == pytest.approx(unit_zero_point('erg/s/cm2/A', wavelength=5000.) + 2.5*np.log10(2)*k, abs=1e-6)

@pytest.mark.parametrize('cards', [dict(BUNIT='erg/s/cm2/Angstrom'), dict(BUNIT='adu'), dict(BUNIT='adu', MAGZERO=-20.)], ids=str)
def test_sets_of_other_powers_of_two_are_brought_together(tmp_path, cards):
    "From tiles to what a model is given: 1e-20 and 3e-19 of one unit stay 1 to 30, with their errors"
    x = np.random.default_rng(0).normal(5, 1, (90,110))
    at = positions(header(), [55.], [45.])
    c = [Cutouts.open(ingest(tmp_path/f'{i}.h5', dict(g=tile(tmp_path/f'{i}.fits', x*size, cards)), at, size=16, processes=1)) for i,size in enumerate((1e-20,3e-19))]
    assert c[0].unit != c[1].unit and (c[0].zero_point is None) == ('MAGZERO' not in cards)
    both = [c[0][0].astype(float), c[1].converted(c[0].measure)[0].astype(float)]
    np.testing.assert_allclose(both[1], both[0]*30, rtol=1e-6)

def test_half_precision(tmp_path):
    "Maggies of 1e-10 do not vanish in float16"
    x = np.random.default_rng(0).normal(5, 1, (90,110))*1e-10
    c = cut(tmp_path, dict(g=tile(tmp_path/'a.fits', x.astype('f4'))), zero_point=0., dtype='float16')
    assert np.isfinite(c[:]).all() and np.median(c[:].astype(float))*10**(-.4*c.zero_point) == pytest.approx(5e-10, rel=5e-3)

def test_variances_that_do_not_fit(tmp_path):
    "A pixel is not lost because its variance is out of all proportion"
    v = np.full((90,110), 1., 'f8')
    v[45,55],v[45,56],v[45,57] = 1e-60,1e60,0
    fits.HDUList([fits.PrimaryHDU(noise(), header()), fits.ImageHDU(v, name='VAR')]).writeto(tmp_path/'a.fits')
    c = cut(tmp_path, dict(g=str(tmp_path/'a.fits')), positions(header(), [55.], [45.]), size=16)
    w = c.ivar(slice(None))[0,0]
    assert np.isfinite(w).all() and np.argwhere(np.isnan(c[0][0])).tolist() == [[8,10]] and (w[8,8:11] > 0).tolist() == [True,True,False]

def test_write_refuses_what_a_type_cannot_hold(tmp_path):
    x = np.random.default_rng(0).normal(5, 1, (3,1,8,8))
    for size,dtype,match in ((1e-40,'float32','power of two'), (1e40,'float32','power of two'), (1e-10,'float16','write float32'), (1e6,'float16','write float32'), (1e-40,'float16','power of two')):
        with pytest.raises(InputError, match=match): Cutouts.write(tmp_path/'a.h5', x*size, 'g', dtype=dtype)
    with pytest.raises(InputError, match='ivar'): Cutouts.write(tmp_path/'a.h5', x, 'g', ivar=x*1e40)
    assert not (tmp_path/'a.h5').exists()
    Cutouts.write(tmp_path/'a.h5', x*1e-30, 'g', mask=x > 5)

def test_a_survey_does_not_overrule(tmp_path):
    "What `write` is told counts, and NaN means unknown"
    x = np.ones((3,1,8,8), 'f4')
    for i,(call,zero_point) in enumerate((({},27.), (dict(zero_point=31.4, unit='nJy'),31.4), (dict(zero_point=np.nan),None), (dict(unit='counts'),None))):
        c = Cutouts.open(Cutouts.write(tmp_path/f'{i}.h5', x, 'g', survey='hsc', **call))
        assert c.zero_point == zero_point, call

# Registered images

def registered(folder, **cards):
    for i,b in enumerate(('u','Z','Ks')): fits.writeto(folder/f'{b}.fits', noise(seed=i), fits.Header(cards))
    return {b: str(folder/f'{b}.fits') for b in ('u','Z','Ks')}

def test_pixel_positions_without_wcs(tmp_path, caplog):
    files = registered(tmp_path)
    t = Table(dict(id=[2**62+1,7,9,11], x=[50.2,3.,200.,109.4], y=[40.7,2.,5.,89.], X_IMAGE=[51.2,4.,201.,110.4], Y_IMAGE=[41.7,3.,6.,90.]))
    with caplog.at_level('INFO', 'astromask'): c = cut(tmp_path, files, t, x='x', y='y', size=16, zero_point=dict(u=0., Z=30., Ks=30.))
    assert '1 on no tile' in caplog.text or '1 of 4' in caplog.text
    assert list(c.catalog['id']) == [str(2**62+1),'7','11'] and np.isnan(c.catalog['ra']).all() and c.pixel_scale is None
    assert list(c.catalog['x']) == [50.2,3.,109.4] and list(c.catalog['y']) == [40.7,2.,89.]
    pixels = c[:]
    np.testing.assert_array_equal(c[0][0], noise(seed=0)[33:49,43:59])
    np.testing.assert_allclose(c[0][1], noise(seed=1)[33:49,43:59]*1e-12, rtol=1e-6)
    assert np.isnan(c[1][0,:6]).all() and np.isnan(c[1][0,:,:5]).all() and np.isfinite(c[1][0,6:,5:]).all()
    with caplog.at_level('INFO', 'astromask'):
        again = cut(tmp_path, files, t, x='X_IMAGE', y='Y_IMAGE', size=16, zero_point=dict(u=0., Z=30., Ks=30.))   # SExtractor counts from 1
    np.testing.assert_array_equal(again[:], pixels)
    assert 'from 1' in caplog.text

def test_a_grid_without_wcs(tmp_path):
    c = cut(tmp_path, registered(tmp_path), size=32, overlap=0.)
    assert len(c) == 12 and np.isnan(c.catalog['dec']).all()
    t = c.catalog[5]
    a,b = (int(round(t[k]-t['cutout_'+k])) for k in 'xy')
    np.testing.assert_array_equal(c[5][2], noise(seed=2)[b:b+32,a:a+32])

def test_sentences_without_wcs(tmp_path):
    files,t = registered(tmp_path),Table(dict(id=['a'], x=[50.], y=[40.]))
    sky = Table(dict(id=['a'], ra=[150.], dec=[2.]))
    for catalog in (t,sky):
        with pytest.raises(InputError, match='--x.*--y'): cut(tmp_path, files, catalog)
    with pytest.raises(InputError, match='nowhere'): cut(tmp_path, files, t, x='nowhere', y='y')
    with pytest.raises(InputError, match='y'): cut(tmp_path, files, t, x='x')
    fits.writeto(tmp_path/'small.fits', noise((60,80)))
    with pytest.raises(DataError, match='60 x 80.*90 x 110|90 x 110.*60 x 80'): cut(tmp_path, files | dict(g=str(tmp_path/'small.fits')), t, x='x', y='y')
    with pytest.raises(InputError, match='WCS'): cut(tmp_path, files, t, x='x', y='y', pixel_scale=.2)
    with pytest.raises((DataError,InputError), match='one file|WCS'): cut(tmp_path, dict(u=[files['u'],files['Z']]), t, x='x', y='y')

def test_pixel_positions_with_wcs(tmp_path):
    "RA and Dec come from the WCS"
    g = tile(tmp_path/'g.fits', noise())
    c = cut(tmp_path, dict(g=g), Table(dict(x=[50.2], y=[40.7])), x='x', y='y', size=16)
    p = WCS(header()).pixel_to_world(50.2, 40.7).icrs
    np.testing.assert_allclose([c.catalog['ra'][0],c.catalog['dec'][0]], [p.ra.deg,p.dec.deg], atol=1e-9)
    np.testing.assert_array_equal(c[0][0], noise()[33:49,43:59])

# Identity

def test_whole_numbers_stay_whole(tmp_path):
    t = positions(header(), [50.,60.,70.], [40.,40.,40.])
    big = np.array([2**63-1,1237648720693755918,-5])
    t['id'],t['n'],t['u'] = big,MaskedColumn(big, mask=[False,True,False]),np.array([2**64-1,2**63+1,7], np.uint64)
    c = cut(tmp_path, dict(g=tile(tmp_path/'g.fits', noise())), t, size=16)
    assert list(c.catalog['id']) == [str(o) for o in big] and list(c.catalog['u']) == [2**64-1,2**63+1,7]
    assert c.catalog['n'].dtype.kind == 'i' and list(c.catalog['n'].mask) == [False,True,False] and c.catalog['n'][0] == 2**63-1

# Headers by chance

EXAMPLES = int(os.environ.get('ASTROMASK_FUZZ', 150))   # 10,000 by hand
fuzz = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
keys = ('NAXIS','NAXIS1','NAXIS2','BITPIX','BSCALE','BZERO','BLANK','CTYPE1','CTYPE2','CRVAL1','CRVAL2','CRPIX1','CDELT1','CDELT2','PC1_1','PC1_2',
        'CUNIT1','LONPOLE','RADESYS','EQUINOX','WCSAXES','A_ORDER','A_0_2','PV1_1','FLUXMAG0','MP_BAD','MBIT_5','EXTEND','GCOUNT','PCOUNT',
        'DATE-OBS','MJD-OBS','SIMPLE')
values = st.one_of(st.integers(-10**12, 10**12).map(str), st.integers(-9, 99).map(str), st.sampled_from(['T','F','NaN','-','']),
                   st.floats(allow_nan=False, allow_infinity=False).map(lambda v: f'{v:.10G}'),
                   st.text('RADEC-TNSIPLOGV1 .', max_size=8).map(lambda v: f"'{v:<8}'"))

@given(st.lists(st.tuples(st.sampled_from(keys), values), max_size=3), st.lists(st.tuples(st.integers(0, 2879), st.integers(0, 255)), max_size=2),
       st.integers(1, 24))
@fuzz
def test_any_header_gives_our_error_or_a_cutout(tmp_path, cards, flips, eighths):
    "Whatever a header says, there is our error with the file's name, or a cutout"
    base,path = tmp_path/'base.fits',tmp_path/'fuzz.fits'
    if not base.exists():
        h = header((12,14))
        h['FLUXMAG0'],h['MP_BAD'] = 6.3e10,0
        fits.writeto(base, noise((12,14)), h)
    raw = bytearray(base.read_bytes())
    for key,value in cards:
        names = [raw[i:i+8].decode(errors='replace').strip() for i in range(0, 2880, 80)]
        at = 80*names.index(key if key in names else 'END')
        if key not in names: raw[at+80:at+160] = b'END'.ljust(80)
        raw[at:at+80] = f'{key:8}= {value:>20}'.ljust(80)[:80].encode('ascii', 'replace')
    for at,byte in flips: raw[at] = byte
    path.write_bytes(raw[:len(raw)*eighths//8])
    tile,how = room.Tile('t', dict(g=str(path))),Cut(('g',), 8, TileLayout('tiles', variance_hdu=0))
    try:
        plane = open_plane(path)
        plane.to_pixel([150.], [2.])
        if max(plane.shape) < 100: room.plan_grid([(tile,plane)], 8)
        out = np.zeros(1, how.dtype())
        room.OpenTile(tile, how, dict(g=0.01)).cut(out[0], 150., 2., 5., 6.)
        assert out['image'].shape == (1,1,8,8) and (np.isfinite(out['image']) == (out['ivar'] > 0)).all()
        open_plane(path, sky=False).bits()
    except AstroMaskError as e: assert str(path) in str(e)

# Catalogues by chance

def small_tables():
    "One table as a file of each kind"
    t = Table(dict(id=['a','b','c'], ra=[150.,151.,np.nan], dec=[2.,-3.,4.], n=np.array([1,2,3], np.int16), flux=np.ones((3,2), np.float32), ok=[True,False,True]))
    t['ra'].unit = 'deg'
    for name,kind in (('fits','fits'),('ecsv','ascii.ecsv'),('csv','ascii.csv'),('vot','votable'),('parquet','parquet')):
        u = t[['id','ra','dec','n','ok']] if name in ('csv','parquet') else t
        with tempfile.TemporaryDirectory() as d:
            u.write(Path(d)/f't.{name}', format=kind)
            yield name,Path(d,f't.{name}').read_bytes()

tables = dict(small_tables())

@given(st.sampled_from(sorted(tables)), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
       st.floats(0.5, 4), st.sampled_from(['.csv','.fits','.txt']))
@fuzz
def test_any_catalogue_file_gives_our_error_or_a_table(tmp_path, kind, flips, cut, suffix):
    "Files with flipped bytes, cut short"
    raw = bytearray(tables[kind])
    for where,byte in flips: raw[int(where*min(len(raw), 3000))] = byte
    path = tmp_path/f'fuzz{suffix}'
    path.write_bytes(raw[:int(len(raw)*cut)])
    try: assert read_catalog(path).colnames[:3] == ['id','ra','dec']
    except AstroMaskError as e: assert str(path) in str(e)

kinds = ['f2','f4','>f8','i1','>i2','i4','i8','u1','u8','?','S3','U3','c8','g','M8[s]','O']
names = st.one_of(st.sampled_from(['ra','dec','RA','Dec','RAJ2000','DEJ2000','id','ID','x','mask','cutouts','a/b','tile','catalog_x','.','']), st.text(max_size=4))

@st.composite
def columns(draw):
    n,out = draw(st.integers(1, 3)),{}
    for name in draw(st.lists(names, unique=True, max_size=4)) + draw(st.sampled_from([[], ['ra','dec']])):
        kind,shape = draw(st.sampled_from(kinds)),draw(st.sampled_from([(n,),(n,),(n,),(n,2),(n,1,2)]))
        if name in ('ra','dec') and draw(st.integers(0, 4)): kind,shape = '>f8',(n,)
        cells = st.one_of(st.none(), st.integers(-2**70, 2**70), st.floats(), st.text(max_size=2), st.binary(max_size=2), st.lists(st.integers(), max_size=2))
        x = draw(arrays(kind, shape, elements=cells if kind == 'O' else None, fill=st.nothing()))
        hidden = draw(arrays(bool, shape)) if draw(st.booleans()) else False
        out[name] = MaskedColumn(x, mask=hidden, unit=draw(st.sampled_from([None,None,'deg','rad','hourangle','Jy']))) if hidden is not False else Column(x)
    return out

@given(columns())
@fuzz
def test_any_columns_give_our_error_or_what_a_file_can_hold(t):
    t = Table(t)
    try: t = read_catalog(t)
    except AstroMaskError: return
    with h5py.File.in_memory() as f:
        for name,column in t.items(): write_column(f, name, column)
        assert {'id','ra','dec'} <= set(f) and len(f) == len(t.columns)

def test_an_empty_first_tile_does_not_decide_the_scale(tmp_path):
    "Fluxes of 1e-20 with variances of 1e-40 behind a chip that holds zeros alone: scaled by a power of two all the same"
    x,sky = np.random.default_rng(0).normal(size=(48,48))*1e-20,dict(CTYPE1='RA---TAN', CTYPE2='DEC--TAN', CRPIX1=24.5, CRPIX2=24.5, CDELT1=-5e-5, CDELT2=5e-5, CRVAL2=2.)
    for name,image,ra in (('a',x*0,149.), ('b',x,150.)):
        h = fits.Header(sky | dict(CRVAL1=ra))
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, h, name='SCI'), fits.ImageHDU(np.full((48,48), 1e-40), h, name='VAR')]).writeto(tmp_path/f'{name}_r.fits')
    ingest(tmp_path/'o.h5', dict(r=[tmp_path/'a_r.fits',tmp_path/'b_r.fits']), Table(dict(id=['o'], ra=[150.], dec=[2.])), size=16, processes=1)
    c = Cutouts.open(tmp_path/'o.h5')
    assert np.abs(c[0]).max() > 1e-3                                             # not as they are
    np.testing.assert_allclose(c[0][0]*np.sqrt(c.ivar(0)[0]), x[16:32,16:32]*1e20, rtol=1e-5)
