"FITS as surveys write it: planes, bits, frames, units and files that belong together, against known truth"
import bz2, gzip, logging, lzma, os, time
from pathlib import Path
import numpy as np, pytest
from astropy import units as u
from astropy.coordinates import FK4, BarycentricMeanEcliptic, SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from astromask.core import DataError
from astromask.data.cutouts import Cutouts
from astromask.data.fits import Plane, bad_pixels, check_fits, inverse_variance, mask_rule, open_plane, open_planes, plane_words

real = Path('/work/shared/data') if Path('/work/shared/data').exists() else Path(__file__).parents[2]/'shared'/'data'
needs_real = pytest.mark.skipif(not (real/'fits').exists(), reason=f'the real data of {real} are not here')
rng = np.random.default_rng(0)
N = 16

def sky(ra=150., dec=2., scale=.2, n=N, ctype=('RA---TAN','DEC--TAN'), **cards):
    d = scale/3600
    h = fits.Header(dict(CTYPE1=ctype[0], CTYPE2=ctype[1], CRVAL1=ra, CRVAL2=dec, CRPIX1=n/2+.5, CRPIX2=n/2+.5, CDELT1=-d, CDELT2=d, CUNIT1='deg', CUNIT2='deg'))
    h.update(cards)
    return h

def write(path, *hdus, primary=None):
    "HDUs as (name, array, header) after an empty primary one"
    out = [fits.PrimaryHDU(header=fits.Header(primary or {}))]
    for name,x,*h in hdus: out.append(fits.ImageHDU(x, h[0] if h else sky(), name=name))
    fits.HDUList(out).writeto(path, overwrite=True, output_verify='silentfix')
    return str(path)

def normal(*shape): return rng.normal(5, 1, shape or (N,N)).astype('f4')

@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, 'astromask')
    return lambda level='WARNING': ' '.join(r.getMessage() for r in caplog.records if r.levelno >= getattr(logging, level))

# what a plane is

x,e = normal(),rng.uniform(.5, 2, (N,N)).astype('f4')
zero = np.zeros((N,N), 'i4')
KINDS = {      # planes beside the image -> the inverse variance that they mean
    'variance': ([('IMAGE',x),('MASK',zero),('VARIANCE',e**2)], 1/e**2), 'error': ([('SCI',x),('ERR',e),('DQ',zero)], 1/e**2),
    'jwst': ([('SCI',x),('ERR',e),('CON',zero),('WHT',e),('VAR_POISSON',e),('VAR_RNOISE',e),('VAR_FLAT',e)], 1/e**2),
    'euclid': ([('CH1.SCI',x),('CH1.RMS',e),('CH1.FLG',zero)], 1/e**2), 'muse': ([('DATA',x),('STAT',e**2)], 1/e**2), 'invvar': ([('SCI',x),('INVVAR',e)], e), 'words': ([('FLUX',x),('INVERSE VARIANCE',e)], e),
    'psf': ([('SCI',x),('PSF',e[:9,:9]),('NCOVERED',zero),('EXPTIME',e),('SIGMA',e)], 1/e**2), 'hst': ([('SCI',x),('CTX',zero),('D2IMARR',e[:3,:3])], None)}

@pytest.mark.parametrize('kind', KINDS)
def test_planes_by_name(tmp_path, kind):
    hdus,ivar = KINDS[kind]
    c = Cutouts.open(write(tmp_path/'a.fits', *hdus, primary=dict(FILTER='r', TELESCOP='JWST')))
    assert c.bands == ('r',) and c.has_ivar == (ivar is not None)
    np.testing.assert_array_equal(c[0][0], x)
    if ivar is not None: np.testing.assert_allclose(c.ivar(0)[0], ivar, rtol=1e-6)

@pytest.mark.parametrize('names', [('F115W','F115W_ERR','F444W','F444W_ERR'), ('F115W','F444W','ERR_F444W','ERR_F115W'), ('SCI_F115W','SCI_F444W','ERR_F115W','ERR_F444W')])
def test_error_of_each_band(tmp_path, names):
    data = {n: normal() for n in names}
    path = write(tmp_path/'a.fits', *data.items())
    c = Cutouts.open(path)
    assert [b.lower() for b in c.bands] == ['f115w','f444w'] and c.has_ivar
    for i,b in enumerate(('F115W','F444W')):
        error = next(v for n,v in data.items() if b in n and 'ERR' in n)
        np.testing.assert_allclose(c.ivar(0)[i], 1/error.astype(float)**2, rtol=1e-6)
        np.testing.assert_array_equal(c[0][i], next(v for n,v in data.items() if b in n and 'ERR' not in n))

def test_image_and_inverse_variance_in_turn(tmp_path):
    "As the Legacy Surveys' server has them: unnamed, told apart by IMAGETYP and BAND"
    data = [normal() for _ in range(6)]
    path = write(tmp_path/'a.fits', *((None,v,sky(IMAGETYP=('image','invvar')[i%2], BAND='grz'[i//2])) for i,v in enumerate(data)))
    c = Cutouts.open(path)
    assert c.bands == ('g','r','z')
    np.testing.assert_array_equal(c[0], data[::2])
    np.testing.assert_array_equal(c.ivar(0), data[1::2])

def test_order_of_hsc_under_any_name(tmp_path):
    m = zero.copy()
    m[3,3],m[8,8] = 1<<8,1<<5
    for name in ('calexp-HSC-R-9813-4,5.fits','mask.fits'):
        c = Cutouts.open(write(tmp_path/name, (None,x),(None,m,sky(MP_NO_DATA=8, MP_DETECTED=5)),(None,e**2), primary=dict(FILTER='HSC-R', FLUXMAG0=10**(.4*27))))
        assert np.argwhere(np.isnan(c[0])).tolist() == [[0,3,3]] and c.bands == ('HSC-R',) and abs(c.zero_point-27) < 1e-9
        np.testing.assert_allclose(c.ivar(0)[0], np.where(m == 1<<8, 0, 1/e**2), rtol=1e-6)

def test_weights_of_unknown_scale(tmp_path, said):
    w = e.copy()
    w[2,5] = 0
    c = Cutouts.open(write(tmp_path/'a.fits', ('SCI',x),('WHT',w), primary=dict(FILTER='F814W')))
    assert not c.has_ivar and np.argwhere(np.isnan(c[0])).tolist() == [[0,2,5]] and 'unknown scale' in said()
    for cards in (dict(BUNIT='1/(nJy**2)'), dict(BUNIT='nJy^-2'), dict(WHTTYPE='IVM'), dict(DES_EXT='WEIGHT')):
        c = Cutouts.open(write(tmp_path/'b.fits', ('SCI',x),('WGT',w,sky(**cards)), primary=dict(FILTER='F814W')))
        np.testing.assert_array_equal(c.ivar(0)[0], w)

def test_weights_without_a_positive_one_are_left_out(tmp_path, said):
    c = Cutouts.open(write(tmp_path/'a.fits', ('SCI',x),('ERR',e*0), primary=dict(FILTER='r')))
    assert not c.has_ivar and np.isfinite(c[0]).all() and 'left out' in said()

def test_planes_of_another_size_and_ambiguous_ones(tmp_path):
    with pytest.raises(DataError, match='belongs to another image'): Cutouts.open(write(tmp_path/'a.fits', ('SCI',x),('ERR',e[:8]), primary=dict(FILTER='r')))
    with pytest.raises(DataError, match='cannot be told which belongs'): Cutouts.open(write(tmp_path/'b.fits', ('SCI_g',x),('SCI_r',x),('SCI_z',x),('ERR_u',e),('ERR_v',e)))
    with pytest.raises(DataError, match='no cutout.*VARIANCE'): Cutouts.open(write(tmp_path/'c.fits', ('VARIANCE',e)))

# which bits hide

def rule_of(header=(), primary=(), name='MASK', band=''): return mask_rule(Plane('a.fits', 1, (4,4), fits.Header(dict(header)), fits.Header(dict(primary)), name=name), band)

@pytest.mark.parametrize('cards,hides,keeps', [
    (dict(MP_BAD=0, MP_SAT=1, MP_DETECTED=5, MP_NO_DATA=8), [1,2,256,257,33], [32,0,64]),
    (dict(MBIT_5='ALLMASK_G', MBIT_6='ALLMASK_R', MBIT_1='BRIGHT'), [32,33], [64,2]),
    (dict(MSKNAM00='DETECTOR', MSKVAL00=1, MSKNAM05='SAT', MSKVAL05=32, MSKNAM07='SUSPECT', MSKVAL07=128), [1,32,33], [128,0])])
def test_bits_by_name(cards, hides, keeps):
    rule = rule_of(cards, band='g')
    assert rule.sure and bad_pixels(np.array(hides, 'i4'), rule).all() and not bad_pixels(np.array(keeps, 'i4'), rule).any()

@pytest.mark.parametrize('primary,hides,keeps', [
    (dict(TELESCOP='JWST'), [1,5], [4,2,0]), (dict(TELESCOP='HST', INSTRUME='ACS'), [4096,16,4096|32], [32,64,16384]), (dict(TELESCOP='Euclid'), [1,9], [8]),
    (dict(INSTRUME='DECam', PLVER='V4.8'), [1,3,5,7], [0]), (dict(INSTRUME='DECam', PLVER='V3.2'), [1,2,16], [4,128]), (dict(TELESCOP='Gemini-North'), [1,8], [32,2]),
    (dict(DES_EXT='MASK'), [1,2,8,16,512], [4,32,2048]), ({}, [1,7], [0])])
def test_bits_by_instrument(primary, hides, keeps):
    rule = rule_of(primary=primary)
    assert bad_pixels(np.array(hides, 'i4'), rule).all() and not bad_pixels(np.array(keeps, 'i4'), rule).any() and rule.sure == bool(primary)

BITS = [    # what instruments' handbooks say of each bit: those that mean "bad", and how many there are
    (dict(TELESCOP='HST', INSTRUME='ACS'), {1,2,4,8,16,128,256,512,1024,2048,4096,8192,32768}, 16), (dict(TELESCOP='HST', INSTRUME='WFC3', DETECTOR='IR'), {1,2,4,8,16,128,256,512,4096,32768}, 16),
    (dict(DES_EXT='MASK'), {1,2,8,16,64,128,512,1024}, 12), (dict(INSTRUME='DECam', PLVER='V3.2'), {1,2,16,64}, 8), (dict(TELESCOP='Gemini-North'), {1,4,8,16,64}, 8), (dict(TELESCOP='JWST'), {1}, 31), (dict(TELESCOP='Euclid'), {1}, 31)]

@pytest.mark.parametrize('primary,bad,n', BITS, ids=lambda o: ' '.join(map(str, o.values())) if isinstance(o, dict) else '')
def test_every_bit_of_an_instrument(primary, bad, n):
    bits = 1 << np.arange(n)
    assert set(bits[bad_pixels(bits.astype('i4'), rule_of(primary=primary))].tolist()) == bad

@pytest.mark.parametrize('dtype', ('u1','i2','u2','i4','u4','i8','u8','f4'))
def test_masks_of_every_type(tmp_path, dtype):
    top = {'u1':7, 'i2':14, 'u2':15, 'i4':30, 'u4':31, 'i8':62, 'u8':63, 'f4':20}[dtype]
    m = np.zeros((N,N), dtype)
    m[1,2],m[3,4] = 1 << top,1
    c = Cutouts.open(write(tmp_path/'a.fits', ('IMAGE',x),('MASK',m,sky(MP_BAD=top, MP_DETECTED=0)), primary=dict(FILTER='r')))
    assert np.argwhere(np.isnan(c[0][0])).tolist() == [[1,2]]

def test_nameless_masks(tmp_path, said):
    m = zero.copy()
    m[4,4] = 3
    c = Cutouts.open(write(tmp_path/'a.fits', ('IMAGE',x),('MASK',m), primary=dict(FILTER='r')))
    assert np.argwhere(np.isnan(c[0][0])).tolist() == [[4,4]] and 'no names' in said()
    c = Cutouts.open(write(tmp_path/'b.fits', ('IMAGE',x),('MASK',1-m), primary=dict(FILTER='r')))        # 1 is good here
    assert np.isfinite(c[0]).all() and 'left out' in said()

# where it is

FRAMES = {'icrs': (('RA---TAN','DEC--TAN'),dict(RADESYS='ICRS'),lambda a,b: SkyCoord(a, b, unit='deg')),
    'fk4': (('RA---SIN','DEC--SIN'),dict(RADESYS='FK4', EQUINOX=1950.),lambda a,b: SkyCoord(a, b, unit='deg', frame=FK4(equinox='B1950'))),
    'equinox': (('RA---TAN','DEC--TAN'),dict(EQUINOX=1950.),lambda a,b: SkyCoord(a, b, unit='deg', frame=FK4(equinox='B1950'))),
    'fk5': (('RA---TAN','DEC--TAN'),dict(RADESYS='FK5', EQUINOX=1975.),lambda a,b: SkyCoord(a, b, unit='deg', frame='fk5', equinox='J1975')),
    'galactic': (('GLON-TAN','GLAT-TAN'),dict(RADESYS='ICRS'),lambda a,b: SkyCoord(a, b, unit='deg', frame='galactic')),
    'ecliptic': (('ELON-TAN','ELAT-TAN'),dict(RADESYS='ICRS'),lambda a,b: SkyCoord(a, b, unit='deg', frame=BarycentricMeanEcliptic(equinox=Time('J2000'))))}

@pytest.mark.parametrize('frame', FRAMES)
@pytest.mark.parametrize('swapped', (False,True))
def test_positions_are_icrs_to_a_tenth_of_a_pixel(tmp_path, frame, swapped):
    ctype,cards,truth = FRAMES[frame]
    h = sky(203., 31., ctype=ctype, **cards)
    if swapped:
        for k in ('CTYPE','CRVAL','CDELT'): h[k+'1'],h[k+'2'] = h[k+'2'],h[k+'1']
    h['CRPIX1'] = 3.       # the reference is not in the middle
    fits.PrimaryHDU(x, h + fits.Header(dict(FILTER='r', RA=10., DEC=20.))).writeto(tmp_path/'a.fits')
    w = WCS(h)
    lon,lat = w.wcs_pix2world([[(N-1)/2,(N-1)/2]], 0)[0][::-1 if swapped else 1]
    right = truth(lon, lat).icrs
    c = Cutouts.open([tmp_path/'a.fits'])
    found = SkyCoord(c.catalog['ra'][0], c.catalog['dec'][0], unit='deg')
    assert found.separation(right).arcsec < .02 and c.pixel_scale == pytest.approx(.2, rel=1e-6)
    p = open_plane(tmp_path/'a.fits')
    assert p.to_sky((N-1)/2, (N-1)/2)[0].separation(right).arcsec < .02
    back = p.to_pixel(right.ra.deg, right.dec.deg)
    assert np.allclose([o[0] for o in back], (N-1)/2, atol=.1)

@pytest.mark.parametrize('cards,right', [(dict(RA=150.1, DEC=2.2), (150.1,2.2)), (dict(RA='10:00:24', DEC='+02:12:00'), (150.1,2.2)), (dict(RA='150.1', DEC='2.2'), (150.1,2.2)),
                                         (dict(RA_TARG=150.1, DEC_TARG=2.2), (150.1,2.2)), (dict(RA=-99., DEC=-99.), None), (dict(RA='UNKNOWN', DEC=''), None), ({}, None)])
def test_position_cards_where_there_is_no_wcs(tmp_path, cards, right):
    fits.PrimaryHDU(x, fits.Header(dict(FILTER='r') | cards)).writeto(tmp_path/'a.fits')
    t = Cutouts.open([tmp_path/'a.fits']).catalog
    assert np.isnan(t['ra'][0]) if right is None else np.allclose([t['ra'][0],t['dec'][0]], right, atol=1e-9)

def test_a_wcs_in_the_first_hdu_and_inherit(tmp_path):
    "An image without a WCS of its own has the file's, unless it says INHERIT = F"
    for inherit,known in ((None,True),(True,True),(False,False)):
        h = fits.Header({} if inherit is None else dict(INHERIT=inherit))
        path = write(tmp_path/'a.fits', ('SCI',x,h), primary=dict(sky()) | dict(BUNIT='nJy', FILTER='r'))
        c = Cutouts.open(path, bands=None if known else 'r')
        assert np.isfinite(c.catalog['ra'][0]) == known and c.unit == ('nJy' if known else '') and c.zero_point == (31.4 if known else None)
    h = sky(BUNIT='uJy')
    assert Cutouts.open(write(tmp_path/'b.fits', ('SCI',x,h), primary=dict(BUNIT='nJy', FILTER='r'))).unit == 'uJy'      # its own card first

def test_cards_of_the_image_come_first():
    first,own = fits.Header(dict(FILTER='g', EXPTIME=5., OBJECT='M31')),fits.Header(dict(EXPTIME=90., FILTER='r', OBJECT=''))
    p = Plane('a.fits', 1, (4,4), own, first)
    assert (p.card('EXPTIME'), p.card('OBJECT'), p.card('RA','FILTER'), p.card('RA')) == (90., 'M31', 'r', None)
    own['INHERIT'] = False
    assert p.card('OBJECT') is None

def test_bands_in_another_order(tmp_path):
    data = [normal() for _ in range(4)]
    for i,order in enumerate(((0,1),(1,0))):
        write(tmp_path/f'{i}.fits', *(h for k in order for h in (('SCI_'+'gr'[k],data[2*i+k]),('IVAR_'+'gr'[k],e*(k+1)))))
    c = Cutouts.open(tmp_path)
    np.testing.assert_array_equal(c[:], np.array(data).reshape(2,2,N,N))
    np.testing.assert_allclose(c.ivar([0,1]), [[e,2*e]]*2, rtol=1e-6)

def test_chips(tmp_path):
    "Every chip with its own mask, weight and place"
    hdus = []
    for i in (1,2):
        for name,v in (('SCI',x*i),('ERR',e*i),('DQ',zero+i-1)):
            hdus.append(fits.ImageHDU(v, sky(150.+i), name=name, ver=i))
    fits.HDUList([fits.PrimaryHDU(header=fits.Header(dict(FILTER='r', TELESCOP='JWST'))), *hdus[::-1]]).writeto(tmp_path/'a.fits')
    planes = open_planes(tmp_path/'a.fits', sky=True)
    assert [(p.version, p.weight.version, p.mask.version, p.band) for p in planes] == [(2,2,2,'r'),(1,1,1,'r')]
    np.testing.assert_array_equal(planes[1].pixels(), x)
    np.testing.assert_array_equal(planes[0].weight.pixels(), e*2)
    assert [round(float(p.to_sky(7.5, 7.5).ra.deg[0])) for p in planes] == [152,151]
    c = Cutouts.open([tmp_path/'a.fits'])
    assert len(c) == 2 and np.isnan(c[0]).all() and np.allclose(c.catalog['ra'], [152,151]) and len({*c.catalog['id']}) == 2

# units

def single(path, v, **cards): fits.PrimaryHDU(np.full((N,N), v, 'f8'), sky(FILTER='r', **cards)).writeto(path)

def test_files_in_other_units_are_converted_and_it_is_said(tmp_path, said):
    for i,(unit,v) in enumerate((('nJy',3631e9*10**(-.4*20)), ('uJy',3631e6*10**(-.4*20)), ('nanomaggy',10**(.4*2.5)))): single(tmp_path/f'{i}.fits', v, BUNIT=unit)
    c = Cutouts.open(tmp_path)
    assert c.unit == 'nJy' and c.zero_point == pytest.approx(31.4, abs=1e-9) and 'brought to the zero point of the first' in said()
    np.testing.assert_allclose(c.zero_point - 2.5*np.log10(c.read(slice(None))), 20, atol=2e-3)      # 31.4 is a rounded number
    np.testing.assert_allclose(c.read(slice(None))[1]/c.read(slice(None))[0], 1, rtol=1e-6)

def test_bands_in_different_zero_points_are_one(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(np.full((N,N), 10**(.4*(z-20))), sky(FILTER=b, MAGZERO=z)) for b,z in (('g',25.),('r',30.)))]).writeto(tmp_path/'a.fits')
    c = Cutouts.open([tmp_path/'a.fits'])
    np.testing.assert_allclose(c.zero_point - 2.5*np.log10(c[0]), 20, atol=1e-6)
    assert c.zero_point == 25

def test_files_that_cannot_be_converted_are_refused(tmp_path):
    single(tmp_path/'0.fits', 1., BUNIT='nJy')
    single(tmp_path/'1.fits', 1., BUNIT='adu')
    with pytest.raises(DataError, match='1.fits is unknown, but that of .*0.fits 31.4'): Cutouts.open(tmp_path)
    c = Cutouts.open(tmp_path, unit='nJy')
    assert c.zero_point == pytest.approx(31.4) and (c[:] == 1).all()
    for i in range(2, 12): single(tmp_path/f'{i}.fits', 1., BUNIT='nJy')
    os.remove(tmp_path/'1.fits')
    os.remove(tmp_path/'6.fits')
    single(tmp_path/'6.fits', 1.)      # not among the files that are looked at
    with pytest.raises(DataError, match='6.fits is unknown'): Cutouts.open(tmp_path)[:]

def test_pixels_of_other_sizes_are_refused(tmp_path):
    for i,s in enumerate((.2,.2,.21)): fits.PrimaryHDU(x, sky(scale=s, FILTER='r')).writeto(tmp_path/f'{i}.fits')
    with pytest.raises(DataError, match='2.fits has pixels of 0.21", but .*0.fits of 0.2"'): Cutouts.open(tmp_path)

def test_surface_brightness_needs_the_area_of_a_pixel(tmp_path):
    single(tmp_path/'a.fits', 1., BUNIT='MJy/sr')
    area = (.2*u.arcsec).to_value(u.rad)**2
    c = Cutouts.open([tmp_path/'a.fits'])
    assert c.zero_point == pytest.approx(8.9-2.5*np.log10(1e6*area), abs=1e-6)

@pytest.mark.parametrize('size', (1e-20,1e-40,1e35))
def test_fluxes_and_variances_that_float32_cannot_hold(tmp_path, size):
    image,error = rng.normal(5, 1, (N,N))*size,np.full((N,N), size)
    path = write(tmp_path/'a.fits', ('SCI',image),('VAR',error**2), primary=dict(FILTER='r', BUNIT='nJy'))
    c = Cutouts.open(path)
    flux,w = c[0][0].astype(float),c.ivar(0)[0].astype(float)
    np.testing.assert_allclose(flux*10**(-.4*c.zero_point), image*10**(-.4*31.4), rtol=1e-6)
    np.testing.assert_allclose(flux*np.sqrt(w), image/size, rtol=1e-6)          # signal to noise

def test_asinh_pixels_of_pan_starrs(tmp_path):
    stored = 2.5/np.log(10)*np.arcsinh((image := rng.normal(3, 50, (N,N)))/20)
    fits.PrimaryHDU(stored, sky(FILTER='r.00000', BSOFTEN=10., BOFFSET=0.)).writeto(tmp_path/'a.fits')
    c = Cutouts.open([tmp_path/'a.fits'])
    np.testing.assert_allclose(c[0][0], image, rtol=1e-5)
    assert c.bands == ('r',)

# files

@pytest.mark.parametrize('ending,pack', [('.fits.gz',gzip.compress), ('.FITS.GZ',gzip.compress), ('.fit.bz2',bz2.compress), ('.fits.xz',lzma.compress), ('.fts',bytes), ('.FIT',bytes), ('.fits',gzip.compress)])
def test_compression_and_endings(tmp_path, ending, pack):
    fits.PrimaryHDU(x, sky(FILTER='r')).writeto(tmp_path/'raw')
    (tmp_path/'d').mkdir()
    for i in range(2): (tmp_path/'d'/f'{i}{ending}').write_bytes(pack((tmp_path/'raw').read_bytes()))
    c = Cutouts.open(tmp_path/'d')
    np.testing.assert_array_equal(c[1][0], x)
    np.testing.assert_array_equal(open_plane(tmp_path/'d'/f'0{ending}').pixels(), x)

def test_a_cut_off_compressed_file(tmp_path):
    fits.PrimaryHDU(normal(64,64), sky(FILTER='r')).writeto(tmp_path/'raw')
    (tmp_path/'a.fits.gz').write_bytes(gzip.compress((tmp_path/'raw').read_bytes())[:4000])
    with pytest.raises(DataError, match='a.fits.gz is damaged or truncated|a.fits.gz is damaged, truncated'): Cutouts.open([tmp_path/'a.fits.gz'])

@pytest.mark.parametrize('card', (b"CONTINUE  'more&'", b"HISTORY   more", b"ABC     =                    1", b""))
def test_headers_that_never_end(tmp_path, card):
    whole = fits.PrimaryHDU(x, sky(FILTER='r'))
    whole.writeto(tmp_path/'a.fits')
    data = (tmp_path/'a.fits').read_bytes()
    for name,more in (('many',card.ljust(80)*200_000 + data[800:]), ('endless',card.ljust(80)*30_000)):
        (tmp_path/f'{name}.fits').write_bytes(data[:800] + more)
        began = time.time()
        with pytest.raises(DataError, match=f'{name}.fits'): Cutouts.open([tmp_path/f'{name}.fits'])
        with pytest.raises(DataError, match=f'{name}.fits'): open_plane(tmp_path/f'{name}.fits')
        assert time.time()-began < 3

def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path/'a.fits')
    with pytest.raises(DataError, match='pipe'): check_fits(tmp_path/'a.fits')

def test_one_object_an_hdu(tmp_path, said):
    sizes = [(8,8),(12,10),(7,9)]
    data = [normal(*s) for s in sizes]
    path = write(tmp_path/'a.fits', *((None,v,fits.Header()) for v in data))
    c = Cutouts.open(path, bands=['F814W'])
    assert c.shape == (1,12,10) and len(c) == 3 and 'padded with NaN' in said()
    for i,(h,w) in enumerate(sizes):
        y0,x0 = (12-h)//2,(10-w)//2
        np.testing.assert_array_equal(c[i][0][y0:y0+h,x0:x0+w], data[i])
        assert np.isfinite(c[i]).sum() == h*w
    same = write(tmp_path/'b.fits', *((None,data[0],fits.Header()) for _ in range(2)))
    assert len(Cutouts.open(same, bands=['r'])) == 2 and len(Cutouts.open(same, bands='gr')) == 1
    with pytest.raises(DataError, match='give bands: as many as there are images, or one'): Cutouts.open(same)

def test_bands_of_different_sizes_are_no_objects(tmp_path):
    with pytest.raises(DataError, match='is no cutout'): Cutouts.open(write(tmp_path/'a.fits', ('F115W',x),('F444W',x[:8,:8])))

@pytest.mark.parametrize('names', [('m31_g','m31_r','m33_g','m33_r'), ('g.m31','r.m31','g.m33','r.m33'), ('m31/g','m31/r','m33/g','m33/r'), ('m31-g-v1','m31-r-v1','m33-g-v1','m33-r-v1')])
@pytest.mark.parametrize('told', (True,False))
def test_a_file_for_each_band(tmp_path, names, told):
    data = [normal() for _ in names]
    paths = []
    for n,v in zip(names, data):
        paths.append(tmp_path/f'{n}.fits')
        paths[-1].parent.mkdir(exist_ok=True)
        fits.PrimaryHDU(v, sky(**(dict(FILTER='gr'[len(paths)%2-1]) if told else {}))).writeto(paths[-1])
    c = Cutouts.open(paths)
    assert c.bands == ('g','r') and len(c) == 2 and len(c.catalog) == 2
    np.testing.assert_array_equal(c[:], np.array(data).reshape(2,2,N,N))
    np.testing.assert_array_equal(c.select('r')[[1]], data[3][None,None])

def test_masks_and_weights_in_files_of_their_own(tmp_path):
    m = zero.copy()
    m[2,3] = 1
    data = {}
    for b in 'gr':
        data[b] = normal()
        fits.PrimaryHDU(data[b], sky(FILTER=b)).writeto(tmp_path/f'm31_{b}.fits')
        fits.PrimaryHDU(e, sky(FILTER=b)).writeto(tmp_path/f'm31_{b}.ivar.fits')
        fits.PrimaryHDU(m, sky(FILTER=b)).writeto(tmp_path/f'm31_{b}.mask.fits')
    c = Cutouts.open(tmp_path)
    assert len(c) == 1 and c.bands == ('g','r') and c.has_ivar and np.argwhere(np.isnan(c[0])).tolist() == [[0,2,3],[1,2,3]]
    np.testing.assert_array_equal(c.ivar(0)[0], np.where(m, 0, e))

def test_a_file_of_errors_in_another_unit(tmp_path):
    for b in 'gr':
        fits.PrimaryHDU(x, sky(FILTER=b, BUNIT='nJy')).writeto(tmp_path/f'm31_{b}.fits')
        fits.PrimaryHDU(e, sky(FILTER=b, BUNIT='uJy' if b == 'r' else 'nJy')).writeto(tmp_path/f'm31_{b}.rms.fits')
    with pytest.raises(DataError, match='m31_r.rms.fits is in uJy, but its image in nJy'): Cutouts.open(tmp_path)

def test_names_that_do_not_tell(tmp_path):
    for n,b in (('m31_g','g'),('m33_r','r')): fits.PrimaryHDU(x, sky(FILTER=b)).writeto(tmp_path/f'{n}.fits')
    with pytest.raises(DataError, match='as m31_g.fits and m31_r.fits would'): Cutouts.open(tmp_path)

def test_stated_units_win_and_it_is_said(tmp_path, said):
    single(tmp_path/'a.fits', 5., BUNIT='nJy')
    c = Cutouts.open([tmp_path/'a.fits'], zero_point=22.5)
    assert c.zero_point == 22.5 and (c[0] == 5).all() and 'yours is taken' in said()
    single(tmp_path/'b.fits', 5.)
    c = Cutouts.open([tmp_path/'b.fits'])
    assert c.zero_point is None and c.unit == ''
    assert Cutouts.open([tmp_path/'b.fits'], unit='uJy').zero_point == pytest.approx(23.9)

def test_inverse_variances_never_leave_float32():
    w = inverse_variance([1e-40,1e-80,4,0,-1,np.nan,np.inf], 'variance')
    assert np.isfinite(w.astype('f4')).all() and (w > 0).tolist() == [True,True,True,False,False,False,False] and w[2] == .25
    assert (inverse_variance([1e-40], 'variance', 2.**66, np.float64)*2.**132 == [1e40]).all()

def test_words():
    assert [plane_words(o)[0] for o in ('SCI','sci_err','VAR_RNOISE','GOOD','MASK_X','invvar-g','PSF.VAR','S10')] == ['image','error','ignored','','mask','ivar','ignored','']

# real files against astropy alone

def raw(path, i): return fits.getdata(path, i, do_not_scale_image_data=True, ignore_blank=True)

@needs_real
def test_real_legacy_cutout():
    path = real/'legacy_dr9_grz_invvar'/'cutout_59.1067_-30.4848.fits'
    c = Cutouts.open(path)
    assert c.bands == ('g','r','z') and c.zero_point is None and c.pixel_scale == pytest.approx(.262)
    for i in range(3):
        image,ivar = raw(path, 2*i+1),raw(path, 2*i+2)
        np.testing.assert_array_equal(c[0][i], np.where(ivar > 0, image, np.nan))
        np.testing.assert_array_equal(c.ivar(0)[i], ivar)
    assert SkyCoord(c.catalog['ra'][0], c.catalog['dec'][0], unit='deg').separation(SkyCoord(59.1067, -30.4848, unit='deg')).arcsec < .262

@needs_real
def test_real_single_exposure_with_sister_files():
    folder = real/'single_exposures_grz'/'decals'
    for b in 'grz':
        c = Cutouts.open(f'{folder}/*_{b}_*')
        image,weight,bits = (raw(next(folder.glob(f'*_{k}_{b}_*')), 1) for k in ('ooi','oow','ood'))
        good = (weight > 0) & (bits == 0)
        np.testing.assert_array_equal(c[0][0], np.where(good, image, np.nan))
        np.testing.assert_allclose(c.ivar(0)[0], np.where(good, weight, 0), rtol=1e-6)
        h = fits.getheader(next(folder.glob(f'*_ooi_{b}_*')))
        assert c.bands == (b,) and c.zero_point == h['MAGZERO'] and c.unit == 'adu'
    with pytest.raises(DataError, match='astromask ingest'): Cutouts.open(folder)

@needs_real
def test_real_stamps():
    path = real/'cosmos_hst_stamps'/'real_galaxy_images_extension.fits'
    c = Cutouts.open(path, bands=['F814W'])
    with fits.open(path) as f:
        assert len(c) == 100 == len(f)
        for i in (0,5,99):
            h,w = f[i].shape
            y0,x0 = (c.shape[1]-h)//2,(c.shape[2]-w)//2
            np.testing.assert_array_equal(c[i][0][y0:y0+h,x0:x0+w], f[i].data.astype('f4'))
            assert np.isfinite(c[i]).sum() == h*w
    c = Cutouts.open(f'{real}/kids_ps1_small/KiDS-test_*.fits')
    assert c.bands == ('g','r','i') and c.zero_point == 0 and c.unit == 'maggy'
    for i,b in enumerate('gri'): np.testing.assert_array_equal(c[0][i], raw(real/'kids_ps1_small'/f'KiDS-test_{b}.fits', 0))
    c = Cutouts.open(f'{real}/kids_ps1_small/PS1-test_*.fits')
    assert np.isnan(c[0]).sum((1,2)).tolist() == [np.isnan(raw(real/'kids_ps1_small'/f'PS1-test_{b}.fits', 0)).sum() for b in 'riz']
    with pytest.raises(DataError, match='open one band or object at a time'): Cutouts.open(real/'kids_ps1_small')

@needs_real
def test_real_webb_bands():
    path = real/'jwst_cosmosweb_4band'/'COSMOSWeb_galaxy_6701_image.fits'
    c = Cutouts.open(path)
    assert [b.upper() for b in c.bands] == ['F115W','F150W','F277W','F444W']
    for i in range(4): np.testing.assert_array_equal(c[0][i], raw(path, i+1))

@pytest.mark.parametrize('name,left', [('GOODPIX',1), ('SKYLEVEL',1), ('SNR',0)])
@pytest.mark.parametrize('cards', [{}, dict(FILTER='r')], ids=str)
def test_a_plane_that_nobody_knows_is_no_object(tmp_path, said, name, left, cards):
    c = Cutouts.open(write(tmp_path/'a.fits', ('SCI',x,sky(**cards)), (name,e,sky(**cards))), bands='r')
    assert len(c) == 1 and (c[0][0] == x).all() and (f'{name}, is named neither' in said()) == bool(left)

def test_bands_and_chips_beside_a_named_image_stay(tmp_path):
    for names in (('SCI','SCI2'), ('IMAGE','IMAGE_2')):
        assert len(open_planes(write(tmp_path/'a.fits', *((n,x) for n in names)))) == 2
    assert len(open_planes(write(tmp_path/'b.fits', ('IMAGE',x), ('F444W',x)))) == 2
    assert len(open_planes(write(tmp_path/'c.fits', ('IMAGE',x,sky(FILTER='g')), ('DEEP',x,sky(FILTER='r'))))) == 2

@pytest.mark.parametrize('detector,hidden', [('IR',[[3,3],[4,4]]), ('UVIS',[[1,1],[2,2],[3,3],[4,4]])])
def test_bright_cores_of_wfc3(tmp_path, detector, hidden):
    m = zero.copy()
    for i,bit in enumerate((2048,8192,256,512)): m[i+1,i+1] = bit
    c = Cutouts.open(write(tmp_path/'a.fits', ('SCI',x),('ERR',e),('DQ',m), primary=dict(FILTER='F160W', TELESCOP='HST', INSTRUME='WFC3', DETECTOR=detector)))
    assert np.argwhere(np.isnan(c[0][0])).tolist() == hidden

@pytest.mark.parametrize('names,stored', [(('F115W','F444W'), ('F115W','F444W')), (('G','R'), ('g','r')), (('Y','J','H','KS'), ('Y','J','H','Ks')), (('G','R','I','Z','Y'), ('g','r','i','z','y'))])
def test_bands_of_hdus_as_they_are_written(tmp_path, names, stored):
    path = write(tmp_path/'a.fits', *((n,x+i) for i,n in enumerate(names)))
    assert Cutouts.open(path).bands == stored
    if len(stored[0]) < 2: return
    c = Cutouts.open(path, bands=[n.lower() for n in names[::-1]])
    assert c.bands == stored[::-1] and (c[0][0] == x+1).all()

def test_the_area_of_a_pixel_is_that_of_its_wcs(tmp_path, said):
    area = (.2*u.arcsec).to_value(u.rad)**2
    for told,right in ((area*1.02,area*1.02), (area/30,area)):
        path = write(tmp_path/'a.fits', ('SCI',x,sky(BUNIT='MJy/sr', PIXAR_SR=told, FILTER='F277W')))
        assert Cutouts.open(path).zero_point == pytest.approx(8.9-2.5*np.log10(1e6*right), abs=1e-6)
        assert ('by its WCS, which is taken' in said()) == (told < area)

@pytest.mark.parametrize('card,ra', [((10.5,'[h] right ascension'),157.5), (('10.5','RA in hours'),157.5), ((10.5,'[deg] at the start of the hour'),10.5), ((10.5,''),10.5), (('10:30:00','hours'),157.5)])
def test_hours_by_the_comment_of_a_card(tmp_path, card, ra):
    h = fits.Header(dict(FILTER='r', DEC=2.))
    h['RA'] = card
    fits.PrimaryHDU(x, h).writeto(tmp_path/'a.fits')
    assert Cutouts.open(tmp_path/'a.fits').catalog['ra'][0] == pytest.approx(ra)

def test_names_of_objects_keep_their_signs(tmp_path):
    for i in range(2):
        for b in 'gr': fits.PrimaryHDU(x, sky(150+i)).writeto(tmp_path/f'a {i},[{i}]_{b}_sci.fits')
    c = Cutouts.open(tmp_path)
    assert c.bands == ('g','r') and list(c.catalog['id']) == ['a 0,[0]:0','a 1,[1]:0']

@pytest.mark.parametrize('name,unit,right', [('ERR','uJy',False), ('ERR','nJy',True), ('VARIANCE','uJy**2',False), ('VARIANCE','nJy2',True), ('VARIANCE','nJy',True), ('IVAR','1/nanomaggy^2',False), ('IVAR','nJy-2',True),
                                             ('IVAR','(nJy)**(-2)',True), ('ERR','counts',True), ('WHT','s',True)])
def test_errors_are_in_the_unit_of_their_image(tmp_path, name, unit, right):
    path = write(tmp_path/'a.fits', ('SCI',x,sky(BUNIT='nJy')), (name,e,sky(BUNIT=unit)), primary=dict(FILTER='r'))
    if right: assert Cutouts.open(path).zero_point == 31.4
    else:
        with pytest.raises(DataError, match='bring the .* to the image'): Cutouts.open(path)

def in_units(path, value, unit, zero=None, noise=None):
    "A FITS image of one value, and its inverse variance"
    h = fits.Header(dict(FILTER='r', BUNIT=unit) | ({} if zero is None else dict(MAGZERO=zero)))
    planes = [] if noise is None else [fits.ImageHDU(np.full((6,7), noise**-2, 'f8'), name='IVAR')]
    fits.HDUList([fits.PrimaryHDU(np.linspace(1, 2, 42).reshape(6,7).astype('f4')*np.float32(value), h), *planes]).writeto(path)

@pytest.mark.parametrize('noise', [None,.1])
def test_files_thirty_orders_of_magnitude_apart_keep_their_digits(tmp_path, noise):
    "What found it: fuzz_files.py --family cutout --seed 900248; the second file was 1e-42 in the unit of the first"
    zeros = -48.6,26.,27.
    for k,(unit,zero) in enumerate((('erg/s/cm2/Hz',None), ('adu',26.), ('adu',27.))):
        in_units(tmp_path/f'{k}.fits', 1e-12, unit, zero, None if noise is None else noise*1e-12)
    c = Cutouts.open(tmp_path)
    right = np.array([np.float32(1e-12)*np.linspace(1, 2, 42)*10**(-.4*z) for z in zeros])
    got = c[:].astype(float).reshape(3, -1)*10**(-.4*c.zero_point)
    assert np.abs(got/right-1).max() < 1e-6
    if noise is None: return
    weights = c.ivar([0,1,2]).astype(float).reshape(3, -1)
    assert np.allclose(weights*10**(.8*c.zero_point), [[(noise*1e-12)**-2*10**(.8*z)]*42 for z in zeros], rtol=1e-5)

def test_a_file_that_nobody_looked_at_and_that_float32_cannot_hold_is_refused(tmp_path):
    for k in range(30): in_units(tmp_path/f'{k:02}.fits', 1e-12, *(('adu',26.) if k == 1 else ('erg/s/cm2/Hz',)))
    c = Cutouts.open(tmp_path)
    assert np.isfinite(c[[0,2,29]]).all()
    with pytest.raises(DataError, match='01.fits holds values of at most 2.89e-42 in the unit of .*00.fits, too small for float32: open'): c[1]

def test_weights_beyond_float32_are_said(tmp_path, caplog):
    for k in range(30): in_units(tmp_path/f'{k:02}.fits', 1, 'nJy' if k != 1 else 'erg/s/cm2/Hz', noise=1. if k != 1 else 1e-4)
    c = Cutouts.open(tmp_path)
    c.ivar([0,2])
    assert 'inverse variances that float32' not in caplog.text
    c.ivar([1])
    assert '01.fits has inverse variances that float32 cannot hold in the unit of' in caplog.text
