"Survey tiles as surveys write them: planes by what they are, files beside them, chips, bands in HDUs, frames, names; with the right values"
import logging, os
from pathlib import Path
import numpy as np, pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from astromask.core import DataError, InputError
from astromask.data.cutouts import Cutouts
from astromask.data.ingest import ingest
from astromask.data.tiles import find_tiles

data = Path(__file__).parents[1].parent/'shared'/'data'
real = pytest.mark.skipif(not (data/'kids_viking_9band').exists(), reason=f'the real files of {data} are not here')

def sky(shape=(60,80), ra=150., dec=2., scale=0.2, ctype=('RA---TAN','DEC--TAN'), crval=None):
    w = WCS(naxis=2)
    w.wcs.ctype,w.wcs.crval,w.wcs.crpix = ctype,crval or (ra,dec),((shape[1]+1)/2,(shape[0]+1)/2)
    w.wcs.cdelt = -scale/3600,scale/3600
    return w.to_header()

def noise(shape=(60,80), seed=0): return np.random.default_rng(seed).normal(5, 2, shape).astype('f4')

def at(h, x, y):
    p = WCS(h).pixel_to_world(np.atleast_1d(x), np.atleast_1d(y)).icrs
    return Table(dict(id=[f'o{i}' for i in range(len(p))], ra=p.ra.deg, dec=p.dec.deg))

def cut(path, tiles, catalog=None, size=16, **call):
    "The cutouts and their weights, or None"
    c = Cutouts.open(ingest(path/'o.h5', tiles, catalog, size=size, processes=1, overwrite=True, **call))
    return c,c[:],c.ivar(slice(None)) if c.has_ivar else None

x0,y0 = 40,30        # Of one object: its cutout of 16 is [22:38,32:48]
window = np.s_[y0-8:y0+8,x0-8:x0+8]
at_once = at(sky(), x0, y0)

# Planes in the image's own file

def coadd(**names):
    "Image, mask and variance as afw writes them; 4 pixels NO_DATA, 9 DETECTED"
    h,bits,variance = sky(),np.zeros((60,80), 'i4'),np.full((60,80), .25, 'f4')
    bits[28:30,38:40],bits[32:35,42:45] = 1<<8,1<<5
    hm = fits.Header(h)
    for i,b in enumerate(('BAD','SAT','INTRP','CR','EDGE','DETECTED','DETECTED_NEGATIVE','SUSPECT','NO_DATA')): hm[f'HIERARCH MP_{b}'] = i
    hdus = [fits.PrimaryHDU(header=fits.Header(dict(FLUXMAG0=10**(.4*27)))), fits.ImageHDU(noise(), h), fits.ImageHDU(bits, hm), fits.ImageHDU(variance, h)]
    for o,k in zip(hdus[1:], ('IMAGE','MASK','VARIANCE')):
        if names.get('ext'): o.header['EXTNAME'] = k
        if names.get('exttype'): o.header['EXTTYPE'] = k
    return fits.HDUList(hdus)

@pytest.mark.parametrize('name', ['calexp-HSC-R-9813-4,5.fits', 'my_field_r.fits', 'Ω deep [1], r.FITS', 'x.fits.gz'])
@pytest.mark.parametrize('told', [{}, dict(ext=True), dict(exttype=True)], ids=['bare','EXTNAME','EXTTYPE'])
@pytest.mark.parametrize('survey', [None,'hsc'])
def test_a_coadd_keeps_mask_and_variance_whatever_it_is_called(tmp_path, name, told, survey):
    coadd(**told).writeto(tmp_path/name)
    c,x,w = cut(tmp_path, dict(r=str(tmp_path/name)), at_once, survey=survey)
    gone = np.zeros((16,16), bool)
    gone[6:8,6:8] = True
    np.testing.assert_array_equal(x[0,0], np.where(gone, np.nan, noise()[window]))
    np.testing.assert_array_equal(w[0,0], np.where(gone, 0, 4.))
    assert c.zero_point == pytest.approx(27, abs=1e-9)

@pytest.mark.parametrize('name,value,ivar', [('ERR',.5,4.), ('SIGMA',.5,4.), ('RMS',.5,4.), ('VAR',.25,4.), ('VARIANCE',.25,4.), ('IVAR',4.,4.), ('INVVAR',4.,4.)])
def test_weights_by_name(tmp_path, name, value, ivar):
    h = sky()
    weight = np.full((60,80), value, 'f4')
    weight[29,39] = np.nan
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(noise(), h, name='SCI'), fits.ImageHDU(weight, h, name=name),
                  fits.ImageHDU(np.ones((60,80), 'i2'), name='CON')]).writeto(tmp_path/'a.fits')
    _,x,w = cut(tmp_path, dict(r=str(tmp_path/'a.fits')), at_once)
    assert np.argwhere(np.isnan(x[0,0])).tolist() == [[7,7]] and w[0,0,7,7] == 0
    np.testing.assert_allclose(np.delete(w[0,0].ravel(), 7*16+7), ivar, rtol=1e-6)

def test_numbers_of_hdus_overrule(tmp_path):
    "An ERR plane that is named by number is still an error; a plane without a name is a variance"
    h = sky()
    fits.HDUList([fits.PrimaryHDU(noise(), h), fits.ImageHDU(np.full((60,80), .5, 'f4'), name='ERR'), fits.ImageHDU(np.full((60,80), .1, 'f4'))]).writeto(tmp_path/'a.fits')
    for hdu,ivar in ((1,4.),('ERR',4.),(2,10.)):
        np.testing.assert_allclose(cut(tmp_path, dict(r=str(tmp_path/'a.fits')), at_once, image_hdu=0, variance_hdu=hdu)[2], ivar, rtol=1e-6)

# Files beside the image

sisters = [('legacysurvey-0001m002-image-g.fits.fz','legacysurvey-0001m002-invvar-g.fits.fz','legacysurvey-0001m002-maskbits.fits.fz',4.),
           ('c4d_141206_ooi_z_v1.fits.fz','c4d_141206_oow_z_v1.fits.fz','c4d_141206_ood_z_v1.fits.fz',4.),
           ('skycell.1405.053.stk.r.unconv.fits','skycell.1405.053.stk.r.unconv.wt.fits','skycell.1405.053.stk.r.unconv.mask.fits',.25),
           ('CFIS.000.270.u.fits','CFIS.000.270.u.weight.fits.fz','CFIS.000.270.u.flag.fits.fz',4.),
           ('hlsp_x_f814w_drz.fits','hlsp_x_f814w_rms.fits','hlsp_x_f814w_mask.fits',.5),
           ('a_drc_sci.fits','a_drc_wht.fits','a_drc_dq.fits.gz',4.),
           ('KiDS_180.0_r_sci.fits','KiDS_180.0_r_wei.fits','KiDS_180.0_r_msk.fits',4.),
           ('EUC_MER_BGSUB-MOSAIC-NIR-H_TILE101-4B60B2_2024_00.00.fits','EUC_MER_MOSAIC-NIR-H-RMS_TILE101-ABB0C0_2024_00.00.fits','EUC_MER_MOSAIC-NIR-H-FLAG_TILE101-11_2024_00.00.fits',.5),
           ('unwise-w1-img-m.fits','unwise-w1-invvar-m.fits.gz','unwise-w1-mask-m.fits',4.)]

@pytest.mark.parametrize('image,weight,mask,value', sisters, ids=[s[0] for s in sisters])
def test_files_beside_the_image(tmp_path, image, weight, mask, value, caplog):
    h,bits,seed = sky(),np.zeros((60,80), 'i4'),np.random.default_rng(1)
    bits[29,39] = 1 if 'legacy' not in image else 1<<5
    pixels = seed.normal(0, .5, (60,80)).astype('f4')
    for name,x in ((image,pixels), (weight,np.full((60,80), value, 'f4')), (mask,bits)):
        hdu = fits.CompImageHDU(x, h, compression_type='GZIP_1', quantize_level=0) if name.endswith('.fz') else fits.PrimaryHDU(x, h)
        hdu.writeto(tmp_path/name)
    with caplog.at_level('INFO', 'astromask'): _,x,w = cut(tmp_path, dict(g=f'{tmp_path}/*.fits*'), at_once)   # the glob finds all three
    assert len(x) == 1 and np.argwhere(np.isnan(x[0,0])).tolist() == [[7,7]]
    np.testing.assert_array_equal(x[0,0][~np.isnan(x[0,0])], pixels[window][~np.isnan(x[0,0])])
    np.testing.assert_allclose(w[0,0][~np.isnan(x[0,0])], 4., rtol=1e-6)
    assert weight in caplog.text and mask in caplog.text
    _,x,w = cut(tmp_path, dict(g=f'{tmp_path}/{image}'), at_once, masks=False, weights=False)
    assert np.isfinite(x).all() and w is None

def test_files_that_are_no_images_of_the_sky(tmp_path):
    "Context, exposure and model images beside the image are no second image of the band"
    for k,names in dict(a=('x_drz','x_drz_ctx','x_exp','x_wht','x_rms'), b=('legacysurvey-1-image-g','legacysurvey-1-model-g','legacysurvey-1-depth-g','legacysurvey-1-invvar-g'),
                        c=('s.unconv','s.unconv.wt','s.unconv.num','s.unconv.exp','s.unconv.mask')).items():
        (tmp_path/k).mkdir()
        for n in names: fits.writeto(tmp_path/k/f'{n}.fits', noise()*0+(1 if n != names[0] else 5) if 'mask' not in n else np.zeros((60,80), 'i2'), sky())
        c,x,w = cut(tmp_path, dict(g=str(tmp_path/k)), at_once)
        assert len(c) == 1 and (x == 5).all() and (w == 1).all(), k

def test_ambiguous_or_strange_files_beside_are_not_used_and_said(tmp_path, caplog):
    h = sky()
    for name,x in (('a.fits',noise()), ('a.weight.fits',noise()*0+1), ('a_weight.fits',noise()*0+2), ('a_mask.fits',np.ones((7,9), 'i2'))):
        fits.writeto(tmp_path/name, x, h)
    _,x,w = cut(tmp_path, dict(g=str(tmp_path/'a.fits')), at_once)
    assert np.isfinite(x).all() and w is None
    assert 'a.weight.fits' in caplog.text and 'a_weight.fits' in caplog.text and 'a_mask.fits' in caplog.text

def test_weights_that_are_no_inverse_variances(tmp_path, caplog):
    "Exposure times in a weight map hide where they are 0 and are no inverse variances"
    pixels,weight = np.random.default_rng(1).normal(0, .02, (60,80)).astype('f4'),np.full((60,80), 1500., 'f4')*1e4
    weight[29,39] = 0
    fits.writeto(tmp_path/'a_drz.fits', pixels, sky())
    fits.writeto(tmp_path/'a_wht.fits', weight, sky())
    _,x,w = cut(tmp_path, dict(g=str(tmp_path/'a_drz.fits')), at_once)
    assert np.argwhere(np.isnan(x[0,0])).tolist() == [[7,7]] and w is None and 'a_wht.fits' in caplog.text

def test_weights_of_some_bands_only(tmp_path, caplog):
    "Inverse variances are kept where every band has them; bad pixels are bad all the same"
    h,weight = sky(),np.full((60,80), 4., 'f4')
    weight[29,39] = 0
    fits.HDUList([fits.PrimaryHDU(noise(), h), fits.ImageHDU(weight, h, name='IVAR')]).writeto(tmp_path/'g.fits')
    fits.writeto(tmp_path/'r.fits', noise(), h)
    _,x,w = cut(tmp_path, {b: str(tmp_path/f'{b}.fits') for b in 'gr'}, at_once)
    assert w is None and 'r.fits' in caplog.text
    assert np.argwhere(np.isnan(x[0])).tolist() == [[0,7,7]]

@pytest.mark.parametrize('where', ['beside','by number','primary'])
def test_errors_in_another_unit_than_their_image(tmp_path, where):
    "Whether the error is in a file beside, is named by number, or its image has the unit of the primary header"
    h,error = sky(),np.full((60,80), .5, 'f4')
    for unit,right in (('nJy',True), ('uJy',False)):
        if where == 'beside':
            fits.writeto(tmp_path/'a_sci.fits', noise(), h + fits.Header(dict(BUNIT='nJy')), overwrite=True)
            fits.HDUList([fits.PrimaryHDU(header=fits.Header(dict(BUNIT=unit))), fits.ImageHDU(error, h)]).writeto(tmp_path/'a_rms.fits', overwrite=True)
        else:
            fits.HDUList([fits.PrimaryHDU(header=fits.Header(dict(BUNIT='nJy'))), fits.ImageHDU(noise(), h, name='SCI'),
                          fits.ImageHDU(error, fits.Header(dict(BUNIT=unit)), name='ERR')]).writeto(tmp_path/'a_sci.fits', overwrite=True)
        call = dict(tiles=dict(g=str(tmp_path/'a_sci.fits')), catalog=at_once, **(dict(image_hdu=1, variance_hdu=2) if where == 'by number' else {}))
        if right: np.testing.assert_allclose(cut(tmp_path, **call)[2], 4., rtol=1e-6)
        else:
            with pytest.raises(DataError, match="is in uJy, but its image in nJy: bring the error to the image's unit first"): cut(tmp_path, **call)

def test_weights_that_do_not_say_what_they_are(tmp_path, caplog):
    "Those that fit the noise are taken as inverse variances, with a warning; those that say so without one"
    pixels = np.random.default_rng(1).normal(0, .5, (60,80)).astype('f4')
    for cards,guessed in (({},True), (dict(BUNIT='nJy^-2'),False)):
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(pixels, sky(), name='SCI'), fits.ImageHDU(np.full((60,80), 4., 'f4'), sky() + fits.Header(cards), name='WHT')]).writeto(tmp_path/'a.fits', overwrite=True)
        caplog.clear()
        assert (cut(tmp_path, dict(g=str(tmp_path/'a.fits')), at_once)[2] == 4).all()
        assert ('The weights of g, such as' in caplog.text and 'do not say what they are' in caplog.text) == guessed

# Chips, and bands in HDUs

def test_every_chip_is_a_tile(tmp_path):
    chips = [sky(ra=150-i*100*.2/3600) for i in range(3)]
    hdus = [fits.ImageHDU(noise(seed=i), h, name=f'S{i}') for i,h in enumerate(chips)]
    fits.HDUList([fits.PrimaryHDU(header=fits.Header(dict(MAGZERO=25.5))), *hdus]).writeto(tmp_path/'c4d_x_ooi_g.fits')
    masks = [fits.ImageHDU(np.full((60,80), 0, 'i2'), h, name=f'S{i}') for i,h in enumerate(chips)]
    masks[2].data[29,39] = 1
    fits.HDUList([fits.PrimaryHDU(), masks[2], masks[0], masks[1]]).writeto(tmp_path/'c4d_x_ood_g.fits')    # in another order
    from astropy.table import vstack
    t = vstack([at(h, x0, y0) for h in chips])
    t['id'] = ['a','b','c']
    c,x,_ = cut(tmp_path, dict(g=str(tmp_path/'c4d_x_ooi_g.fits')), t)
    assert list(c.catalog['id']) == ['a','b','c'] and len(set(c.catalog['tile'])) == 3 and c.zero_point == pytest.approx(25.5)
    for i in range(3): np.testing.assert_array_equal(x[i,0][0], noise(seed=i)[window][0])
    assert [np.isnan(o).sum() for o in x] == [0,0,1]

def test_two_sci_of_one_name(tmp_path):
    "HST: SCI,1 ERR,1 DQ,1 SCI,2 ERR,2 DQ,2"
    hdus = [fits.PrimaryHDU()]
    for i in (1,2):
        h = sky(ra=150-i*100*.2/3600)
        dq = np.zeros((60,80), 'i2')
        dq[29,38+i] = 4      # bad detector pixel
        for k,d in (('SCI',noise(seed=i)), ('ERR',np.full((60,80), i, 'f4')), ('DQ',dq)): hdus.append(fits.ImageHDU(d, h, name=k, ver=i))
    fits.HDUList(hdus).writeto(tmp_path/'j_flc.fits')
    from astropy.table import vstack
    t = vstack([at(sky(ra=150-i*100*.2/3600), x0, y0) for i in (1,2)])
    _,x,w = cut(tmp_path, dict(F606W=str(tmp_path/'j_flc.fits')), t)
    for i in (0,1):
        assert np.argwhere(np.isnan(x[i,0])).tolist() == [[7,7+i]]
        np.testing.assert_array_equal(x[i,0][0], noise(seed=i+1)[window][0])
        np.testing.assert_allclose(w[i,0][0], 1/(i+1)**2, rtol=1e-6)

def test_bands_in_hdus(tmp_path):
    "One file with all bands: images and weights are told by their headers"
    hdus = [fits.PrimaryHDU()]
    for i,b in enumerate('grz'):
        for k,d in (('image',noise(seed=i)), ('invvar',np.full((60,80), i+1., 'f4'))):
            h = fits.Header(sky())
            h['BAND'],h['IMAGETYP'] = b,k
            hdus.append(fits.ImageHDU(d, h))
    fits.HDUList(hdus).writeto(tmp_path/'cutout.fits')
    for source,bands in ((str(tmp_path/'cutout.fits'),None), ({b: str(tmp_path/'cutout.fits') for b in 'grz'},None), (str(tmp_path),'grz')):
        c,x,w = cut(tmp_path, source, at_once, bands=bands)
        assert c.bands == ('g','r','z') and len(c) == 1
        for i in range(3):
            np.testing.assert_array_equal(x[0,i], noise(seed=i)[window])
            np.testing.assert_allclose(w[0,i], i+1)
        (tmp_path/'o.h5').unlink()
    with pytest.raises(DataError, match='cutout.fits.*g.*r.*z'): cut(tmp_path, dict(Ks=str(tmp_path/'cutout.fits')), at_once)

def test_bands_by_header_in_files_of_any_name(tmp_path):
    for i,(n,f) in enumerate((('a','g DECam SDSS c0001 4720.0 1520.0'), ('b','r2'), ('c','z'))):
        fits.writeto(tmp_path/f'{n}.fits', noise(seed=i), sky() + fits.Header(dict(FILTER=f)))
    c,x,_ = cut(tmp_path, str(tmp_path/'*.fits'), at_once)
    assert c.bands == ('g','r','z')
    np.testing.assert_array_equal(x[0,1], noise(seed=1)[window])

def test_band_names_tell_capital_letters(tmp_path):
    "VIKING's Z is not z"
    for i,b in enumerate('zZ'): fits.writeto(tmp_path/f'{b}.fits', noise(seed=i), sky())
    for call in (dict(tiles={b: str(tmp_path/f'{b}.fits') for b in 'Zz'}), dict(tiles=f'{tmp_path}/{{band}}.fits', bands='Zz')):
        c,x,_ = cut(tmp_path, catalog=at_once, **call)
        assert c.bands == ('Z','z')
        np.testing.assert_array_equal(x[0,0], noise(seed=1)[window])
        (tmp_path/'o.h5').unlink()

# Where it is

frames = {'FK5': ('RA---TAN','DEC--TAN'), 'galactic': ('GLON-TAN','GLAT-TAN'), 'ecliptic': ('ELON-TAN','ELAT-TAN'),
          'declination first': ('DEC--TAN','RA---TAN'), 'latitude first': ('GLAT-CAR','GLON-CAR'), 'SIN': ('RA---SIN','DEC--SIN')}

@pytest.mark.parametrize('name', frames)
def test_positions_in_every_frame(tmp_path, name):
    "Objects are where astropy alone puts them, and cutouts show those pixels; at the edge the rest is NaN"
    ctype = frames[name]
    lonlat = (220.,30.) if name != 'latitude first' else (2.,120.)
    h = sky((300,400), ctype=ctype, crval=(lonlat[::-1] if name == 'declination first' else lonlat))
    if name == 'FK5': h['RADESYS'],h['EQUINOX'] = 'FK5',2000.
    image = noise((300,400))
    fits.writeto(tmp_path/'a.fits', image, h)
    rng = np.random.default_rng(0)
    x,y = rng.uniform(0, 399, 20),rng.uniform(0, 299, 20)
    w = WCS(h)
    lon,lat = w.all_pix2world(x, y, 0)
    if w.wcs.lng == 1: lon,lat = lat,lon
    kind = 'galactic' if ctype[0][0] == 'G' else 'barycentricmeanecliptic' if ctype[0][0] == 'E' else 'fk5' if name == 'FK5' else 'icrs'
    p = SkyCoord(lon, lat, unit='deg', frame=kind).icrs
    c,cuts,_ = cut(tmp_path, dict(g=str(tmp_path/'a.fits')), Table(dict(ra=p.ra.deg, dec=p.dec.deg)))
    assert len(c) == 20
    np.testing.assert_allclose(c.catalog['x'], x, atol=0.01)
    np.testing.assert_allclose(c.catalog['y'], y, atol=0.01)
    padded = np.pad(image, 20, constant_values=np.nan)
    for i in range(20):
        a,b = int(np.ceil(round(x[i], 4)-8))+20,int(np.ceil(round(y[i], 4)-8))+20
        np.testing.assert_array_equal(cuts[i,0], padded[b:b+16,a:a+16])

def test_a_large_tile_far_from_its_reference(tmp_path):
    "SIP distortion, 8000 columns away from CRPIX: 0.1 pixel against astropy alone"
    w = WCS(naxis=2)
    w.wcs.ctype,w.wcs.crval,w.wcs.crpix,w.wcs.cdelt = ('RA---TAN','DEC--TAN'),(150.,-45.),(-7000,30),(-0.2/3600,0.2/3600)
    fits.writeto(tmp_path/'a.fits', noise(), w.to_header())
    p = w.pixel_to_world([12.25,70.5], [50.,3.]).icrs
    c,_,_ = cut(tmp_path, dict(g=str(tmp_path/'a.fits')), Table(dict(ra=p.ra.deg, dec=p.dec.deg)))
    np.testing.assert_allclose(np.stack([c.catalog['x'],c.catalog['y']]), [[12.25,70.5],[50,3]], atol=1e-3)

# Names

@pytest.mark.parametrize('name', ['a [1], b.fits', 'Ünïcode ★.fits', 'A.FITS', 'A.Fits', 'a.fit', 'a.fts', 'a.fits.gz', 'a.fits.bz2', 'A.FITS.GZ', 'a.fits.fz'])
def test_names_of_files(tmp_path, name):
    folder = tmp_path/'deep [2], x'
    folder.mkdir()
    (fits.PrimaryHDU if not name.endswith('fz') else lambda d,h: fits.CompImageHDU(d, h, compression_type='GZIP_1', quantize_level=0))(noise(), sky() + fits.Header(dict(FILTER='g'))).writeto(folder/name)
    (folder/f'._{name}').write_bytes(b'Mac OS X')
    (folder/'.hidden').mkdir()
    for source in (dict(g=str(folder/name)), dict(g=str(folder)), dict(g=f'{folder}/*'), str(folder)):
        _,x,_ = cut(tmp_path, source, at_once)
        np.testing.assert_array_equal(x[0,0], noise()[window])
        (tmp_path/'o.h5').unlink()

def test_brackets_beside_a_template(tmp_path):
    folder = tmp_path/'run [1]'
    folder.mkdir()
    for i,b in enumerate('gr'): fits.writeto(folder/f'x_{b}.fits', noise(seed=i), sky())
    c,x,_ = cut(tmp_path, f'{folder}/x_{{band}}.fits', at_once)
    assert c.bands == ('g','r')
    np.testing.assert_array_equal(x[0,1], noise(seed=1)[window])

# Real files, compared with what astropy alone reads

def pixels_of(c, n, image):
    "What an image has where the n-th cutout was cut; NaN beyond it"
    t,size = c.catalog[n],c.shape[1]
    a,b = (int(round(t[k]-t['cutout_'+k]))+size for k in 'xy')
    return np.pad(image.astype(np.float64), size, constant_values=np.nan)[b:b+size,a:a+size]

@real
def test_nine_registered_bands(tmp_path):
    "KiDS and VIKING by pixel position, the zero points on the command line: the catalogue's magnitudes come out"
    from click.testing import CliRunner
    from astromask.cli import main
    folder,bands = data/'kids_viking_9band',('u','g','r','i','Z','Y','J','H','Ks')
    out,told = tmp_path/'o.h5',','.join(f'{b}={0 if b in "ugri" else 30}' for b in bands)
    args = [o for b in bands for o in ('--tiles',f'{b}={folder/b}.fits')]
    ran = CliRunner().invoke(main, ['ingest',str(out),*args,'--catalog',str(folder/'catalog.csv'),'--x','x','--y','y','--zero-point',told,'--size','32','--processes','1'])
    assert ran.exit_code == 0, ran.output
    c,t = Cutouts.open(out),Table.read(folder/'catalog.csv')
    assert c.bands == bands and len(c) == len(t) and list(c.catalog['id']) == list(t['id']) and (c.zero_point, c.unit, c.pixel_scale) == (0, 'maggy', None)
    np.testing.assert_allclose(c.catalog['x'], t['x'], atol=1e-9)
    for k in (0,4,8):
        image = fits.getdata(folder/f'{bands[k]}.fits', 1)
        for n in range(0, len(c), 97): np.testing.assert_allclose(c[n][k], pixels_of(c, n, image)*(1 if k < 4 else 1e-12), rtol=1e-6)
    x = c[:].astype(np.float64)
    rows,columns = np.mgrid[:32,:32]
    near = np.hypot(columns-np.asarray(c.catalog['cutout_x'])[:,None,None], rows-np.asarray(c.catalog['cutout_y'])[:,None,None]) < 6
    with np.errstate(invalid='ignore', divide='ignore'): mag = -2.5*np.log10(np.where(near[:,None], x, 0).sum((2,3)))
    bright = np.asarray(t['snr_r']) > 100
    for k,b in enumerate(bands):
        d = (mag[:,k]-np.ma.filled(np.ma.asarray(t[f'mag_{b}'], dtype=float), np.nan))[bright]
        assert abs(np.nanmedian(d)) < 0.3, (b, np.nanmedian(d))

@real
@pytest.mark.parametrize('name', ['hsc_coadd_r_9071.fits','anything.fit'])
def test_a_real_coadd_under_any_name(tmp_path, name):
    path = tmp_path/name
    path.write_bytes((data/'fits'/'hsc_coadd_r_9071.fits').read_bytes())
    c,x,w = cut(tmp_path, str(path), size=64, overlap=0.)
    with fits.open(path, do_not_scale_image_data=True) as f: image,bits,variance = f[1].data,f[2].data,f[3].data
    bad = (bits & (1<<0 | 1<<1 | 1<<3 | 1<<8 | 1<<12)) != 0      # BAD, SAT, CR, NO_DATA, UNMASKEDNAN
    assert c.bands == ('r',) and c.zero_point == pytest.approx(27, abs=1e-6) and np.isnan(x).any()
    for n in range(len(c)):
        np.testing.assert_array_equal(x[n,0], pixels_of(c, n, np.where(bad, np.nan, image)).astype('f4'))
        np.testing.assert_allclose(w[n,0], np.nan_to_num(pixels_of(c, n, np.where(bad, 0, 1/variance.astype('f8')))), rtol=1e-6)

@real
def test_single_exposures(tmp_path):
    "DECam: weights and codes in files beside, the zero point of the whole exposure in the primary header"
    folder = data/'single_exposures_grz'/'decals'
    for image in sorted(folder.glob('*_ooi_*')):
        b = image.name.split('_ooi_')[1][0]
        c,x,w = cut(tmp_path, {b: str(image)}, size=40, overlap=0.)
        raw,weight,codes = (fits.getdata(str(image).replace('_ooi_', k), 1) for k in ('_ooi_','_oow_','_ood_'))
        bad = (codes != 0) | ~(weight > 0)
        assert c.zero_point == fits.getheader(image)['MAGZERO'] and len(c) == 25 and c.pixel_scale == pytest.approx(.2625, rel=2e-3)
        for n in range(25):
            np.testing.assert_array_equal(x[n,0], pixels_of(c, n, np.where(bad, np.nan, raw)).astype('f4'))
            np.testing.assert_allclose(w[n,0], np.nan_to_num(pixels_of(c, n, np.where(bad, 0, weight))), rtol=1e-6)
        p = WCS(fits.getheader(image, 1)).pixel_to_world(c.catalog['x'], c.catalog['y']).icrs
        assert p.separation(SkyCoord(c.catalog['ra'], c.catalog['dec'], unit='deg')).arcsec.max() < 1e-3
        (tmp_path/'o.h5').unlink()
    c,x,w = cut(tmp_path, str(folder), size=40, overlap=0., bands='grz')
    assert set(c.bands) == {'g','r','z'} and w is not None and c.zero_point == pytest.approx(29.787)

@real
def test_a_cutout_of_the_legacy_survey_as_a_tile(tmp_path):
    path = data/'legacy_dr9_grz_invvar'/'cutout_59.1067_-30.4848.fits'
    c,x,w = cut(tmp_path, str(path), size=64, survey='legacy')
    assert c.bands == ('g','r','z') and (c.zero_point, c.unit) == (22.5, 'nanomaggy') and c.pixel_scale == pytest.approx(0.262)
    with fits.open(path) as f: planes = [o.data for o in f[1:]]
    for n in range(0, len(c), 9):
        for i in range(3):
            np.testing.assert_array_equal(x[n,i], pixels_of(c, n, np.where(planes[2*i+1] > 0, planes[2*i], np.nan)).astype('f4'))
            np.testing.assert_array_equal(w[n,i], np.nan_to_num(pixels_of(c, n, planes[2*i+1])).astype('f4'))

@real
def test_named_bands_without_wcs(tmp_path):
    path = data/'jwst_cosmosweb_4band'/'COSMOSWeb_galaxy_6701_image.fits'
    c,x,w = cut(tmp_path, str(path), size=64)
    assert c.bands == ('F115W','F150W','F277W','F444W') and w is None and c.zero_point is None and len(c) == 16
    with fits.open(path) as f:
        for n in range(0, 16, 5): np.testing.assert_array_equal(x[n,2], pixels_of(c, n, f[3].data).astype('f4'))
