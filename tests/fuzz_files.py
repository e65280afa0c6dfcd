"""Files as surveys write them, in random combinations of the facts that matter, with what each must be read as.

Written from the formats' public standards, and read back through the public interface alone: a combination must come out right,
or be refused in one sentence that names what is in the way; what cannot be known must stay unknown.
`python tests/fuzz_files.py --n 10000 --seed 0 --jobs 2`; a failure prints its family, seed and the fewest facts that still fail"""
import argparse, bz2, gzip, json, logging, os, re, shutil, sys, tempfile, warnings
from collections import Counter
from pathlib import Path
import h5py, numpy as np
from astropy import units as u
from astropy.coordinates import FK4, FK5, ICRS, BarycentricMeanEcliptic, Galactic, SkyCoord
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from astropy.time import Time
from astropy.wcs import WCS

# ---- the facts: each has a list of what it may be, the plain case first

UNITS = {  # name: (BUNIT, AB magnitude of one unit, cards besides, relative error that conventions leave)
    'nJy': ('nJy', 31.4, {}, 1e-6), 'none': (None, None, {}, 1e-6), 'uJy': ('uJy', 23.9, {}, 1e-6), 'mJy': ('mJy', 16.4, {}, 1e-6), 'Jy': ('Jy', 8.9, {}, 1e-6),
    'microJy': ('microJansky', 23.9, {}, 1e-6), 'maggies': ('maggies', 0., {}, 1e-6), 'maggy': ('maggy', 0., {}, 1e-6), 'nanomaggies': ('nanomaggies', 22.5, {}, 1e-6),
    'nanomaggy': ('nanomaggy', 22.5, {}, 1e-6), 'nmgy': ('nmgy', 22.5, {}, 1e-6), 'grizli': ('10.0*nanoJansky', 28.9, {}, 1e-6),
    'adu': ('adu', None, {}, 1e-6), 'electron/s': ('ELECTRONS/S', None, {}, 1e-6),
    'MAGZERO': ('adu', 29.8, dict(MAGZERO=29.8), 1e-6), 'MAGZPT': ('ADU', 25.3, dict(MAGZPT=25.3), 1e-6), 'DECam': ('adu', 29.837, dict(EXPTIME=90., MAGZPT=24.951393726402, MAGZERO=29.837), 1e-6),
    'ZEROPOINT': ('counts', 30., dict(ZEROPOINT=30.), 1e-6), 'ZEROPNT': (None, 0., dict(ZEROPNT=0.), 1e-6), 'PHOTZP': ('', 30., dict(PHOTZP=30.), 1e-6),
    'FLUXMAG0': ('', 27., dict(FLUXMAG0=10**10.8), 1e-6), 'SDSS': ('nanomaggy', 22.5, dict(NMGY=.0046), 1e-6), 'nJy+MAGZERO': ('nJy', 31.4, dict(MAGZERO=31.4), 1e-6),
    'PHOTFLAM': ('ELECTRONS/S', 25.947, dict(PHOTFLAM=7.0724e-20, PHOTPLAM=8045.5), 1e-3), 'PHOTFNU': ('ELECTRONS/S', 8.9-2.5*np.log10(1.5e-7), dict(PHOTFNU=1.5e-7), 1e-6),
    'MJy/sr': ('MJy/sr', 'area', {}, 1e-4), 'MJy/sr PIXAR': ('MJy/sr', 8.9-2.5*np.log10(1e6*2.29e-14), dict(PIXAR_SR=2.29e-14), 1e-6),
    'JWST': ('MJy/sr', 8.9-2.5*np.log10(1e6*2.29e-14), dict(PIXAR_SR=2.29e-14, PHOTMJSR=.394, PHOTUJA2=9.2), 1e-6), 'cgs Hz': ('erg/s/cm2/Hz', -48.6, {}, 1e-6),
    'cgs A': ('erg/s/cm2/Angstrom', -48.6-2.5*np.log10(8045.5**2/2.99792458e18), dict(PHOTPLAM=8045.5), 1e-3),
    'MAGZERO unknown': ('adu', None, dict(MAGZERO='UNKNOWN'), 1e-6), 'MAGZERO -99': ('adu', None, dict(MAGZERO=-99.), 1e-6), 'MAGZERO nan': ('adu', None, dict(MAGZERO='NaN'), 1e-6)}
HST = 7.0724e-20, 8045.5
UNITS['PHOTFLAM'] = UNITS['PHOTFLAM'][:1] + (-2.5*np.log10(HST[0])-5*np.log10(HST[1])-2.408,) + UNITS['PHOTFLAM'][2:]

STEMS = 'plain','a b','br[1]ck','a,b','objét','mask_r','calexp-HSC-R-9813-4,5','legacysurvey-0591m305-image-r','img.v1.2','.5_10','x_wht','#1'
SKY = dict(frame=('icrs','fk5','fk5_1975','fk4','galactic','ecliptic'), axes=('lon,lat','lat,lon'), matrix=('CD','PC','CDELT','CROTA'), projection=('TAN','SIN','ZEA'))
PIXELS = dict(unit=tuple(UNITS), cards=('image','primary'), dtype=('f4','f8','i2','i4','u2'), size=('1','1e-12','1e-20','1e-40','1e12'), packed=('','gz','bz2','fz'), fz=('lossless','rice'))

CUTOUT = dict(planes=('bands','cube','cube_ext','filters','IMAGE+MASK+VARIANCE','unnamed','SCI+ERR+DQ','SCI+WHT','SCI+VAR','pairs','cube+IVAR','JWST','HST','DES','Rubin','band_ivar'), **SKY | dict(frame=SKY['frame'] + ('none',)), **PIXELS,
              differ=('no','bands','files','unknown'), ending=('.fits','.FITS','.fit','.fts'), stem=STEMS, n=(1,3), opened=('list','folder','glob'), pointing=('no','yes'), bits=('named','shuffled'), odd=('no','wide'))
TILE = dict(planes=('plain','IMAGE+MASK+VARIANCE','unnamed','SCI+ERR+DQ','SCI+WHT','chips','JWST','HST','DES','Rubin'), **SKY, **PIXELS, differ=('no','bands','unknown'), ending=('.fits','.FITS','.fit'), stem=STEMS,
            bits=('named','shuffled'), survey=('','hsc','legacy','unions'), edge=('no','yes'))

MISSING = '','null','NULL','None','N/A','NA','nan','NaN','\\N','<NA>','--'
BINARY = 'fits','parquet','ecsv','votable','votable_binary','hdf5','hdf5_group','hdf5_compound'
SPACED = 'spaces','aligned','topcat','ipac','sextractor'
FORMATS = 'csv','fits','parquet','ecsv','votable','tsv','semicolon','spaces','bom','comment','hash','decimal_comma','hdf5','hdf5_group','votable_binary','casjobs','crlf','aligned','topcat','ipac','sextractor','blank_lines','hdf5_compound'
TABLE = dict(format=FORMATS, id=('small','none','19','uint64','padded','zeros','exponent','float_text','repeated','null','unicode','quoted'), id_name=('id','ID','Id','object_id','objID','TARGETID','source_id','SOURCE_ID'),
             position=('ra,dec','RA,DEC','RAJ2000,DEJ2000','_RAJ2000,_DEJ2000','ALPHA_J2000,DELTA_J2000','TARGET_RA,TARGET_DEC','raMean,decMean','RA_ICRS,DE_ICRS','Ra,Dec'),
             dress=('degrees','hours','h:m:s','h m s','hms','decoy','text'), missing=MISSING, sentinel=('none','-1','-9','-99','-999','-9999','99','999','9999'), where=('redshift','position','class','none'),
             redshift=('redshift','z','Z','zspec','z_spec','Z_SPEC','REDSHIFT','ZBEST','none'), klass=('class','CLASS','label','SPECTYPE','spectype','none'), class_dress=('text','padded','whole','category'),
             odd=('none','list','struct','decimal','time','bool','2d','null','big_endian'), mags=('no','bare','mag_'), packed=('','gz'), shape=('1d','column'), order=('id first','id last'))
ARRAY = dict(dataset=('cutouts','images','image_array'), order=('first','last'), group=('','data','a/b'), dtype=('f4','f8','f2','>f4','u1'), id=('text','padded','19','uint64','none'), redshift=('1d','column','none'),
             klass=('text','padded','whole','one_hot','none'), sentinel=('none','-99','99','-9999','-1'), unit=('none','nanomaggy','nJy','text_zero','number'), ivar=('no','yes'), mask=('no','yes'), where=('root','dataset'), chunks=('no','gzip'),
             spelled=('str','bytes','dataset'))
FAMILIES = dict(cutout=CUTOUT, tile=TILE, table=TABLE, array=ARRAY)

def draw(family, rng):
    "A random combination of facts; half of them plain"
    return {k: v[0] if rng.random() < .45 else v[rng.integers(len(v))] for k,v in FAMILIES[family].items()}

def possible(family, f):
    "The nearest combination that can be written at all"
    f = dict(f)
    if family in ('cutout','tile'):
        if f['dtype'] not in ('f4','f8') or f['packed'] != 'fz': f['fz'] = 'lossless'
        if f['dtype'] == 'f4' and f['size'] == '1e-40': f['dtype'] = 'f8'
        if f['dtype'] == 'u2' or f['packed'] == 'fz' and f['dtype'] in ('i2','i4'): f['size'] = '1'
        if f['frame'] == 'none' and f['unit'] == 'MJy/sr': f['unit'] = 'MJy/sr PIXAR'
        if f['matrix'] == 'CROTA' and f['axes'] != 'lon,lat': f['matrix'] = 'CD'
        if f['planes'] == 'unnamed': f['cards'] = 'primary'
        if f['planes'] in ('plain','cube','cube+IVAR'): f['cards'] = 'image'
        if f['differ'] == 'bands' and f['planes'] not in ('bands','filters','pairs','plain','band_ivar'): f['differ'] = 'no'
        if f['differ'] == 'files' and f.get('n') == 1: f['differ'] = 'no'
        if f['differ'] != 'no': f['cards'] = 'image'
        if f['differ'] == 'unknown' and (f['planes'] not in ('bands','filters','pairs','plain','band_ivar') or known(f) is None): f['differ'] = 'no'
        if 'opened' in f and f['stem'].startswith('.'): f['opened'] = 'list'      # a hidden file is left out of folders
    if family == 'table':
        text = f['format'] not in BINARY
        if not text: f['packed'] = ''
        if f['format'] in SPACED:
            if f['missing'] == '': f['missing'] = 'null'
            if f['dress'] == 'h m s': f['dress'] = 'h:m:s'
            if f['class_dress'] == 'padded': f['class_dress'] = 'text'
            if f['id'] == 'padded': f['id'] = 'small'
            if f['format'] == 'sextractor' and f['id'] in ('unicode','none'): f['id'] = 'small'
            if f['format'] == 'sextractor' and f['dress'] == 'decoy': f['dress'] = 'degrees'
            if f['format'] == 'topcat': f['order'] = 'id first'
        if f['dress'] == 'hours' and f['format'] not in ('fits','ecsv','votable','votable_binary'): f['dress'] = 'degrees'
        if f['dress'] == 'text' and text: f['dress'] = 'degrees'
        if text: f['odd'] = 'none'
        if not text and f['format'] != 'parquet' and f['odd'] in ('list','struct','decimal','null'): f['odd'] = 'none'
        if f['format'] != 'fits' and f['odd'] == 'big_endian': f['odd'] = 'none'
        if f['format'] == 'parquet' and f['odd'] == '2d': f['odd'] = 'list'
        if f['format'] in ('ecsv','votable','votable_binary') and f['odd'] in ('2d','time'): f['odd'] = 'none'
        if f['format'].startswith('hdf5') and f['odd'] == 'time': f['odd'] = 'none'
        if f['shape'] == 'column' and f['format'] not in ('fits','hdf5','hdf5_group','hdf5_compound'): f['shape'] = '1d'
        if f['mags'] == 'bare' and f['redshift'] in ('z','Z'): f['redshift'] = 'redshift'
        if f['format'] == 'hash': f['order'] = 'id first'
        if f['id'] == 'none' and f['format'] in ('hash','topcat'): f['id'] = 'small'
        if f['id'] in ('padded','quoted','unicode') and f['format'] == 'fits' and f['id'] == 'unicode': f['id'] = 'padded'
        if f['id'] == 'quoted' and (not text or f['format'] in ('ipac','sextractor')): f['id'] = 'zeros'      # these know no quotes
        if f['id'] == 'null' and f['format'].startswith('hdf5'): f['id'] = '19'        # has no null for whole numbers
        if f['id'] == 'uint64' and f['format'] == 'votable_binary': f['id'] = '19'
        if f['class_dress'] == 'category' and f['format'] != 'parquet': f['class_dress'] = 'text'
        if f['where'] == 'class' and (f['klass'] == 'none' or f['class_dress'] == 'whole'): f['where'] = 'redshift'
        if f['dress'] in ('decoy',) and f['position'] in ('RAJ2000,DEJ2000','_RAJ2000,_DEJ2000'): f['position'] = '_RAJ2000,_DEJ2000'
        if f['dress'] == 'decoy': f['position'] = '_RAJ2000,_DEJ2000'
    if family == 'array':
        if f['dataset'] == 'image_array': f['order'] = 'first'
        if f['dtype'] == 'u1': f |= dict(ivar='no', mask='no', unit='none')
        if f['dataset'] == 'images': f |= dict(ivar='no', mask='no')
    return f

# ---- FITS images

MIRRORED = {'lon,lat': 0, 'lat,lon': 1}
FRAMES = dict(icrs=('RA','DEC','ICRS',None,'icrs'), fk5=('RA','DEC','FK5',2000.,'fk5'), fk5_1975=('RA','DEC','FK5',1975.,None), fk4=('RA','DEC','FK4',1950.,None), galactic=('GLON','GLAT',None,None,'galactic'),
              ecliptic=('ELON','ELAT','ICRS',None,None))

def sky_header(f, rng, shape, scale=.2):
    "A WCS with its reference somewhere in the image, and a random turn"
    if f['frame'] == 'none': return fits.Header()
    lon,lat,system,equinox,_ = FRAMES[f['frame']]
    names,values = [f'{o:-<5}'[:5] + f'{f["projection"]:->3}' for o in (lon, lat)],[rng.uniform(1, 359), rng.uniform(-60, 60)]
    turn = 0. if f['matrix'] == 'CDELT' else rng.uniform(-.6, .6)
    c,s,d = np.cos(turn),np.sin(turn),scale/3600
    m = np.array([[-d*c,d*s],[d*s,d*c]])             # rows: longitude, latitude
    if f['axes'] == 'lat,lon': names,values,m = names[::-1],values[::-1],m[::-1]
    h = fits.Header()
    for i in (0,1): h[f'CTYPE{i+1}'],h[f'CRVAL{i+1}'],h[f'CUNIT{i+1}'],h[f'CRPIX{i+1}'] = names[i],values[i],'deg',shape[1-i]/2+rng.uniform(-3, 3)
    if f['matrix'] == 'CROTA': h.update(dict(CDELT1=-d, CDELT2=d, CROTA2=np.degrees(turn)))
    elif f['matrix'] == 'CDELT' and f['axes'] == 'lon,lat': h.update(dict(CDELT1=-d, CDELT2=d))
    elif f['matrix'] == 'CDELT': h.update(dict(CDELT1=d, CDELT2=d))
    else:
        k = 1. if f['matrix'] == 'CD' else d
        for i in (0,1):
            if k != 1: h[f'CDELT{i+1}'] = d
            for j in (0,1): h[f'{f["matrix"]}{i+1}_{j+1}'] = m[i,j]/k
    if f['matrix'] == 'CDELT' and f['axes'] == 'lat,lon': h.update(dict(PC1_1=0., PC1_2=1., PC2_1=-1., PC2_2=0.))
    if system: h['RADESYS'] = system
    if equinox: h['EQUINOX'] = equinox
    return h

def on_sky(h, x, y):
    "Where pixels are, by WCS and frames of astropy: ICRS degrees, and the area of a pixel in sr"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        w = WCS(h)
        world = w.wcs_pix2world(np.ravel(x), np.ravel(y), 0)
    name = h[f'CTYPE{w.wcs.lng+1}'][:4]      # it decides, and RADESYS only among the equatorial ones (Calabretta & Greisen 2002, section 3)
    frame = dict(GLON=Galactic(), ELON=BarycentricMeanEcliptic(equinox='J2000')).get(name)
    if frame is None: frame = dict(ICRS=lambda e: ICRS(), FK5=lambda e: FK5(equinox=Time(e, format='jyear')), FK4=lambda e: FK4(equinox=Time(e, format='byear')))[h['RADESYS']](h.get('EQUINOX'))
    p = SkyCoord(world[w.wcs.lng], world[w.wcs.lat], unit='deg', frame=frame).transform_to(ICRS())
    shape = np.shape(x)
    return p.ra.deg.reshape(shape),p.dec.deg.reshape(shape),abs(np.linalg.det(w.pixel_scale_matrix))*(np.pi/180)**2

def known(f): return UNITS[f['unit']][1]

def stored(v, f):
    "Physical values as an HDU holds them: the array, its scaling cards and what the numbers then are"
    size = float(f['size'])
    if f['dtype'] in ('f4','f8'): return v.astype(f['dtype']),{},v.astype(f['dtype']).astype(float)
    if f['dtype'] == 'u2':
        k = np.where(np.isnan(v), 0, np.clip(np.nan_to_num(v)*100+20000, 0, 65535)).astype('u2')
        return k,{},k.astype(float)
    step,zero,blank = size*1e-3,size*5,-32768 if f['dtype'] == 'i2' else -2147483648
    k = np.where(np.isnan(v), blank, np.clip(np.round((np.nan_to_num(v)-zero)/step), -32000, 32000)).astype(f['dtype'])
    cards = dict(BLANK=blank) if f['packed'] == 'fz' else dict(BSCALE=step, BZERO=zero, BLANK=blank)
    back = k*1. if f['packed'] == 'fz' else k*step+zero
    return k,cards,np.where(k == blank, np.nan, back)

def image_hdu(x, header, cards, f, primary=False, name=None):
    if f['packed'] == 'fz' and not primary:
        float_ = x.dtype.kind == 'f'
        how = dict(compression_type='RICE_1', quantize_level=16) if float_ and f['fz'] == 'rice' else dict(compression_type='GZIP_2', quantize_level=0) if float_ else dict(compression_type='RICE_1')
        hdu = fits.CompImageHDU(x, header, **how)
    else: hdu = (fits.PrimaryHDU if primary else fits.ImageHDU)(x, header)
    for k,v in cards.items(): hdu.header[k] = v
    if name: hdu.name = name
    return hdu

BITS = dict(BAD=0, SAT=1, INTRP=2, CR=3, EDGE=4, DETECTED=5, DETECTED_NEGATIVE=6, SUSPECT=7, NO_DATA=8)

def mask_of(bad, rng, f):
    "Bits by name: BAD, NO_DATA or SAT where bad, DETECTED over the whole object"
    order = rng.permutation(9) if f['bits'] == 'shuffled' else range(9)
    at = dict(zip(BITS, map(int, order)))
    m = np.where(bad, 1 << at[('BAD','NO_DATA','SAT')[rng.integers(3)]], 0)
    y,x = np.indices(bad.shape[-2:])
    near = np.hypot(x-bad.shape[-1]/2, y-bad.shape[-2]/2) < bad.shape[-1]/3
    return (m | np.where(near, 1 << at['DETECTED'], 0)).astype('i4'),{f'MP_{k}': v for k,v in at.items()}

PARTS = {'IMAGE+MASK+VARIANCE': [('IMAGE','image'),('MASK','mask'),('VARIANCE','var')], 'unnamed': [(None,'image'),(None,'mask'),(None,'var')], 'SCI+ERR+DQ': [('SCI','image'),('ERR','err'),('DQ','dq')],
         'SCI+WHT': [('SCI','image'),('WHT','wht')], 'SCI+VAR': [('SCI','image'),('VAR','var')], 'DES': [('SCI','image'),('MSK','des'),('WGT','ivar')], 'HST': [('SCI','image'),('WHT','wht'),('CTX','count')],
         'JWST': [('SCI','image'),('ERR','err'),('CON','count'),('WHT','count'),('VAR_POISSON','other'),('VAR_RNOISE','other'),('VAR_FLAT','other')], 'Rubin': [('IMAGE','image'),('MASK','mask'),('VARIANCE','var')]}

def side_plane(role, bad, e, rng, f):
    "The array and cards of a plane beside an image whose errors are e"
    if role == 'mask': return mask_of(bad, rng, f)
    again = np.where(rng.random(bad.shape) < .2, 4, 0)             # JWST: a jump that was mended; DES: interpolated
    if role in ('dq','des'): return (np.where(bad, 1, 0) | again).astype('u4' if f['packed'] != 'fz' else 'i4'),{}
    if role == 'count': return rng.integers(1, 5, bad.shape).astype('i4'),{}
    x = dict(var=e**2, err=e, ivar=1/e**2, wht=np.where(bad, 0, 1/e**2), other=e**2*.1)[role]
    return x,{}

def kind_of_cube(f): return f['planes'].startswith('cube')

def fits_object(f, rng, shape, bands, number=0, sky=None):
    "HDUs of one object or tile, and the truth"
    c,size = len(bands),float(f['size'])
    v = (rng.normal(size=(c,*shape))*3+4)*size
    lost = rng.random((c,*shape)) < .02
    if f['dtype'] != 'u2': v[lost] = np.nan
    sky = sky_header(f, rng, shape) if sky is None else sky
    ra,dec,area = (np.nan,np.nan,None) if f['frame'] == 'none' else on_sky(sky, (shape[1]-1)/2, (shape[0]-1)/2)
    unit,zero,cards,tol = UNITS[f['unit']]
    if zero == 'area' or 'PIXAR_SR' in cards and area: zero = 8.9-2.5*np.log10(1e6*area)
    if 'PIXAR_SR' in cards and area: cards,tol = cards | dict(PIXAR_SR=float(area)),1e-4
    base = dict(cards) | ({} if unit is None else dict(BUNIT=unit))
    zeros,per = [zero]*c,[base]*c
    if f['differ'] == 'bands' or f['differ'] == 'files' and number:
        for b in range(c):
            zeros[b] = 25.+number+(0 if kind_of_cube(f) else b)
            per[b] = dict(BUNIT='adu', MAGZERO=zeros[b])
    if f['differ'] == 'unknown' and (c > 1 or number): zeros[-1],per[-1] = None,dict(BUNIT='adu')
    truth = dict(zeros=zeros, ra=float(ra), dec=float(dec), sky=sky, tol=tol)
    telescope = dict(RA=(ra+1.5) % 360 if ra == ra else 10., DEC=dec+.7 if dec == dec else 5.) if f.get('pointing') == 'yes' else {}
    truth['telescope'] = telescope
    primary = fits.PrimaryHDU()
    for k,o in telescope.items(): primary.header[k] = o
    arrays = [stored(o, f) for o in v]
    values = np.stack([o[2] for o in arrays])
    def header(b, more=()):
        h = sky.copy()
        if f['cards'] == 'image':
            for k,o in per[b].items(): h[k] = o
        for k,o in dict(more).items(): h[k] = o
        return h
    def to_primary(more):
        if f['cards'] != 'primary': return
        for k,o in (base | more).items(): primary.header[k] = o
    def one(b, more=(), name=None, **kw): return image_hdu(arrays[b][0], header(b, more), arrays[b][1], f, name=name, **kw)
    wide = np.float64 if size < 1e-15 or size > 1e15 else np.float32
    error = rng.uniform(.5, 2, (c,*shape))*size
    kind,ivar,hdus = f['planes'],None,None
    if kind in ('cube','cube_ext','cube+IVAR'):
        x = np.stack([o[0] for o in arrays])
        more = {**(per[0] if f['cards'] == 'image' else {}), 'BANDS': ','.join(bands)}
        h = sky.copy()
        for k,o in more.items(): h[k] = o
        to_primary({})
        first = kind != 'cube_ext' and f['packed'] != 'fz'
        hdus = [image_hdu(x, h, arrays[0][1], f, primary=first)]
        if first:
            for k,o in telescope.items(): hdus[0].header[k] = o
        else: hdus = [primary, *hdus]
        if kind == 'cube+IVAR':
            hdus.append(image_hdu((1/error**2).astype(np.float64 if not 1e-15 < size < 1e15 else 'f4'), sky, {}, f | dict(fz='lossless'), name='IVAR'))
            ivar = 1/error**2
    elif kind in ('bands','filters'):
        to_primary({})
        hdus = [primary] + [one(b, {} if kind == 'bands' else dict(FILTER=bands[b]), bands[b] if kind == 'bands' else None) for b in range(c)]
    elif kind == 'pairs':
        to_primary({})
        hdus = [primary]
        for b in range(c):
            hdus += [one(b, dict(IMAGETYP='image', BAND=bands[b])), image_hdu((1/error[b]**2).astype(np.float64 if not 1e-15 < size < 1e15 else 'f4'), header(b, dict(IMAGETYP='invvar', BAND=bands[b])), {}, f | dict(fz='lossless'))]
            for k in ('BUNIT',):
                if k in hdus[-1].header: del hdus[-1].header[k]
        ivar = 1/error**2
    elif kind == 'plain':
        x,cards_,_ = arrays[0]
        h = header(0, dict(FILTER=bands[0]))
        hdus = [image_hdu(x, h, cards_, f, primary=f['packed'] != 'fz')]
        if f['packed'] == 'fz': hdus = [primary, *hdus]
    elif kind == 'chips':
        to_primary(dict(FILTER=bands[0]))
        hdus = [primary]
        own = int(rng.integers(2))
        for i in range(2):
            if i == own: hdus.append(one(0, dict(FILTER=bands[0]), f'CCD{i+1}'))
            else:
                o = sky.copy()
                at = 'CRVAL1' if f['axes'] == 'lon,lat' else 'CRVAL2'
                o[at] = (o[at]+.5) % 360
                for k,a in dict(per[0] if f['cards'] == 'image' else {}).items(): o[k] = a
                o['FILTER'] = bands[0]
                hdus.append(image_hdu(arrays[0][0]*0, o, arrays[0][1], f, name=f'CCD{i+1}'))
    elif kind == 'band_ivar':
        to_primary({})
        hdus = [primary]
        for b in range(c): hdus += [one(b, name=bands[b].upper()), image_hdu((1/error[b]**2).astype(wide), sky, {}, f | dict(fz='lossless'), name=f'{bands[b].upper()}_IVAR')]
        ivar = 1/error**2
    else:
        more = dict(FILTER=bands[0])
        to_primary(more)
        parts,e,bad = PARTS[kind],error[0],rng.random(shape) < .03
        hdus = [primary, one(0, more if f['cards'] == 'image' else {}, parts[0][0])]
        primary.header.update({'JWST': dict(TELESCOP='JWST', INSTRUME='NIRCAM'), 'HST': dict(TELESCOP='HST', INSTRUME='ACS'), 'SCI+ERR+DQ': dict(TELESCOP='JWST')}.get(kind, {}))
        if kind == 'DES': hdus[1].header['DES_EXT'] = 'IMAGE'
        for name,role in parts[1:]:
            x,cards_ = side_plane(role, bad, e, rng, f)
            hdus.append(image_hdu(x.astype(x.dtype if role not in ('var','err','ivar','wht') else wide), sky, cards_, f | dict(fz='lossless'), name=name))
            if kind == 'DES': hdus[-1].header['DES_EXT'] = dict(des='MASK', ivar='WEIGHT')[role]
            if role in ('mask','dq','des','wht'): values[0][bad] = np.nan
            if role in ('var','err','ivar'): ivar = 1/e[None]**2
            if role == 'wht': ivar = np.where(bad, 0, 1/e**2)[None]
        if kind == 'Rubin': hdus.append(fits.BinTableHDU(Table(dict(a=[1,2])), name='ARCHIVE_INDEX'))
    truth |= dict(values=values, ivar=ivar)
    return fits.HDUList(hdus),truth

def write_fits(hdus, path, f, truth):
    "Write, and pack; a lossy packing's truth is what astropy reads"
    raw = str(path) + '.raw'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        hdus.writeto(raw, overwrite=True, output_verify='silentfix+ignore')
        if f['fz'] == 'rice' and f['packed'] == 'fz':
            with fits.open(raw) as h:
                lossy = [o.data for o in h if isinstance(o, fits.CompImageHDU) and o.data is not None and o.data.dtype.kind == 'f' and not re.search('IVAR|VAR|ERR|WHT|WGT', str(o.header.get('EXTNAME')))
                         and o.header.get('IMAGETYP') != 'invvar']
                got = np.stack([np.asarray(o, float) for o in lossy]).reshape(-1, *truth['values'].shape[-2:])
                got = got[np.nanmax(np.abs(got), (1,2)) > 0] if f['planes'] == 'chips' else got
                truth['values'] = np.where(np.isnan(truth['values']), np.nan, got[:len(truth['values'])])
    data = Path(raw).read_bytes()
    os.remove(raw)
    pack = dict(gz=gzip.compress, bz2=bz2.compress).get(f['packed'])
    path.write_bytes(pack(data, 1) if pack else data)

def ending_of(f):
    tail = {'': '', 'gz': '.gz', 'bz2': '.bz2', 'fz': '.fz'}[f['packed']]
    return f['ending'] + (tail.upper() if f['ending'].isupper() else tail)

# ---- what is wrong with what came back

class Said(logging.Handler):
    "What the project logs or warns of"
    def __init__(self):
        super().__init__()
        self.lines = []
    def emit(self, r): self.lines.append((r.levelno, r.getMessage()))
    def told(self, *words, level=logging.WARNING): return any(n >= level and any(re.search(w, t, re.I) for w in words) for n,t in self.lines)

class Wrong(Exception): "What came back is not what is in the file"

def expect(ok, text):
    if not ok: raise Wrong(text)

def close(a, b, rtol):
    "The first difference between two arrays whose NaN must agree, or ''"
    a,b = np.asarray(a, float),np.asarray(b, float)
    if a.shape != b.shape: return f'shape {a.shape}, not {b.shape}'
    if (np.isnan(a) != np.isnan(b)).any():
        at = tuple(int(o) for o in np.argwhere(np.isnan(a) != np.isnan(b))[0])
        return f'{np.isnan(a).sum()} NaN, not {np.isnan(b).sum()}; at {at} {a[at]:g}, not {b[at]:g}'
    ok = np.isnan(b) | (np.abs(a-b) <= rtol*np.abs(b) + 1e-9*np.nanmedian(np.abs(b)))
    if ok.all(): return ''
    at = tuple(int(o) for o in np.argwhere(~ok)[0])
    return f'{(~ok).mean():.0%} differ; at {at} {a[at]:.9g}, not {b[at]:.9g} (ratio {a[at]/b[at] if b[at] else np.inf:.9g})'

def check_pixels(c, rows, truth, said, names):
    "Fluxes, NaN and inverse variances of cutouts against (C,H,W) truths"
    x,lone = c.read(rows).astype(float),np.asarray(c[rows])
    expect(not np.isinf(lone).any() and (np.isnan(lone) == np.isnan(x)).all(), 'float32 pixels overflow or vanish')
    own = [truth[0]['zeros'][b] for b in range(len(names))]
    order = [[o.lower() for o in c.bands].index(b) for b in names]
    x = x[:,order]
    known_all = all(z is not None for t in truth for z in t['zeros'])
    tol = max(t['tol'] for t in truth)
    if known_all:
        expect(c.zero_point is not None, f'zero point unknown, although the file tells: {own}; unit {c.unit!r}')
        right = np.stack([t['values']*10**(-.4*np.array(t['zeros']))[:,None,None] for t in truth])
        wrong = close(x*10**(-.4*c.zero_point), right, tol)
        expect(not wrong, f'fluxes of unit {c.unit!r}, zero point {c.zero_point}: {wrong}')
    else:
        expect(c.zero_point is None or said.told('zero point','unit'), f'zero point {c.zero_point}, although no file tells')
        right = np.stack([t['values'] for t in truth])
        with np.errstate(all='ignore'): ratio = np.nanmedian(x/right) if np.isfinite(x/right).any() else 1.
        power = abs(np.log2(abs(ratio))-round(np.log2(abs(ratio)))) < 1e-6 if ratio else False
        wrong = close(x, right*(ratio if power else 1), tol)
        expect(not wrong, f'pixel values: {wrong}')
    if truth[0]['ivar'] is None: return
    expect(c.has_ivar or said.told('varianc','weight','ivar','error', level=logging.INFO), 'weights are left out without a word')
    if not c.has_ivar: return
    w = c.ivar(rows)[:,order].astype(float)
    if known_all:
        right = np.stack([t['ivar']*10**(.8*np.array(t['zeros']))[:,None,None] for t in truth])*10**(-.8*c.zero_point)
    else: right = np.stack([t['ivar'] for t in truth])/(ratio**2 if power else 1)
    gone = np.isnan(x)
    expect((w[gone] == 0).all(), 'missing pixels have weight')
    keep = ~gone & (right > 0)
    if np.isfinite(right[keep]).all() and keep.any() and 1e-36 < right[keep].min() and right[keep].max() < 1e37:
        wrong = close(w[keep], right[keep], 2*tol + 1e-5)
        expect(not wrong, f'inverse variances: {wrong}')

def check_place(ra, dec, truth, pixel=.2):
    "To a tenth of a pixel"
    for a,d,t in zip(ra, dec, truth):
        if t['ra'] != t['ra']:
            card = t['telescope'].get('RA')
            expect(not np.isfinite(a) or card is not None and abs(a-card) < 1e-6, f'ra {a:g}, although no WCS tells')
            continue
        expect(np.isfinite(a), 'position unknown, although there is a WCS')
        expect(abs(d) <= 90, f'dec {d:g}')
        away = SkyCoord(a, d, unit='deg').separation(SkyCoord(t['ra'], t['dec'], unit='deg')).arcsec
        expect(away < .1*pixel, f'{away:.3g} arcsec from where the WCS says ({a:.6f},{d:.6f}; right {t["ra"]:.6f},{t["dec"]:.6f})')

# ---- families: each writes, reads and compares

def cutout_family(f, rng, folder, said):
    from astromask.data.cutouts import Cutouts
    bands = ('g','r','i') if f['planes'] in ('bands','cube','cube_ext','filters','pairs','cube+IVAR','band_ivar') else ('r',)
    where,truth,paths = folder/('deep,field [2]' if f['odd'] == 'wide' else 'd'),[],[]
    where.mkdir()
    for i in range(f['n']):
        hdus,t = fits_object(f, rng, (20,24), bands, i)
        paths.append(where/f'{f["stem"]}{i if f["n"] > 1 else ""}{ending_of(f)}')
        write_fits(hdus, paths[-1], f, t)
        truth.append(t)
    source = {'list': [str(p) for p in paths], 'folder': str(where), 'glob': f'{where}/*' if f['odd'] == 'no' else str(where)}[f['opened']]
    c = Cutouts.open(source)
    expect(len(c) == f['n'], f'{len(c)} cutouts of {f["n"]} files')
    expect(sorted(o.lower() for o in c.bands) == sorted(bands), f'bands {c.bands}, not {bands}')
    expect(tuple(c.shape) == (len(bands),20,24), f'shape {c.shape}')
    names = [Path(p).name for p in c.files]
    order = [names.index(p.name) for p in paths]
    check_pixels(c, order, truth, said, bands)
    t = c.catalog
    check_place(np.ma.filled(np.ma.asarray(t['ra'], float), np.nan)[order], np.ma.filled(np.ma.asarray(t['dec'], float), np.nan)[order], truth)
    expect(len(set(t['id'])) == f['n'], 'ids repeat')

def tile_family(f, rng, folder, said):
    from astromask.data.cutouts import Cutouts
    from astromask.data.ingest import ingest
    bands,sky = ('g','r') if f['planes'] == 'plain' else ('r',),sky_header(f, rng, (60,70))
    files,truth = {},{}
    for k,b in enumerate(bands):
        hdus,truth[b] = fits_object(f, rng, (60,70), (b,), k, sky)
        files[b] = folder/f'{f["stem"]}_{b}{ending_of(f)}'
        write_fits(hdus, files[b], f, truth[b])
    at = [(20.5,30.5),(44.5,17.5)] + ([(3.5,50.5)] if f['edge'] == 'yes' else [])
    ra,dec,_ = on_sky(sky, np.array([o[0] for o in at]), np.array([o[1] for o in at]))
    ids,out,how = [f'o{i}' for i in range(len(at))],folder/'out.h5',dict(survey=f['survey']) if f['survey'] else {}
    ingest(out, {b: str(p) for b,p in files.items()}, Table(dict(id=ids, ra=ra, dec=dec)), size=16, processes=1, **how)
    c = Cutouts.open(out)
    expect(list(c.catalog['id']) == ids, f'objects {list(c.catalog["id"])}, not {ids}')
    expect(sorted(c.bands) == sorted(bands), f'bands {c.bands}')
    first,cut = truth[bands[0]],[]
    for x,y in at:
        values = np.stack([window(truth[b]['values'][0], x, y, np.nan) for b in bands])
        if f['survey'] == 'unions': values[values == 0] = np.nan       # as its tiles have it
        ivar = None if first['ivar'] is None else np.stack([window(truth[b]['ivar'][0], x, y, 0) for b in bands])
        zeros = [truth[b]['zeros'][0] for b in bands]
        if f['survey'] and None in zeros and c.zero_point is not None:         # the caller named the survey: its usual zero point is meant
            zeros = [dict(hsc=27., legacy=22.5, unions=30.)[f['survey']] if z is None else z for z in zeros]
        cut.append(first | dict(values=values, ivar=ivar, zeros=zeros))
    check_pixels(c, np.arange(len(at)), cut, said, bands)

def window(x, cx, cy, fill, n=16):
    "The n x n pixels around a position between pixels"
    x0,y0 = int(cx+.5)-n//2,int(cy+.5)-n//2
    padded = np.pad(x, n, constant_values=fill)
    return padded[y0+n:y0+2*n,x0+n:x0+2*n]

# ---- tables

OPTIONAL = 'int','float'
def word(v, dress):
    "How a text file writes a value"
    return dress if v is None else str(v)

def ids_of(kind, n, rng):
    "Ids as text, and the numbers a binary format holds them in (None: as text)"
    if kind == 'small': k = [int(o) for o in rng.permutation(n)+1]
    elif kind == '19': k = [1237648720693755918+int(o) for o in rng.permutation(n)]
    elif kind == 'uint64': k = [2**63+12345+int(o) for o in rng.permutation(n)]
    elif kind == 'null': k = [1237648720693755918+i if i != 2 else None for i in range(n)]
    elif kind == 'repeated': k = [max(1, i-1) for i in range(n)]
    else:
        text = dict(padded='obj {}', zeros='000{}', exponent='{}E3', float_text='{}.10', unicode='objét-{}★', quoted='000{}').get(kind, 'o{}')
        return [text.format(i+1) for i in range(n)],None
    return ['' if o is None else str(o) for o in k],k

def columns_of(f, rng, n=9):
    "The table as Python lists (None: missing), and its truth"
    ra,dec = np.round(rng.uniform(0.01, 359.9, n), 7),np.round(rng.uniform(-89, 89, n), 7)
    ids,numbers_ = ids_of(f['id'], n, rng)
    z,klass = [float(o) for o in np.round(rng.uniform(.01, 3, n), 5)],[('GALAXY','STAR','QSO')[i % 3] for i in range(n)]
    text = f['format'] not in BINARY
    truth = dict(id=ids, ra=ra.copy(), dec=dec.copy(), z=np.array(z), klass=list(klass), numbers=numbers_)
    z,klass,lon,lat = list(z),list(klass),ra.tolist(),dec.tolist()
    if f['sentinel'] != 'none':
        for i in (1,4): z[i],truth['z'][i] = float(f['sentinel']),np.nan
    if f['where'] == 'redshift': z[3],truth['z'][3] = None,np.nan
    if f['where'] == 'position': lon[5] = lat[5] = None; truth['ra'][5] = truth['dec'][5] = np.nan
    if f['where'] == 'class': klass[6] = truth['klass'][6] = None
    if f['class_dress'] == 'whole':
        klass = [0 if o == 'GALAXY' else 1 if o == 'STAR' else 2 for o in klass]
        truth['klass'] = [str(o) for o in klass]
    names,unit = f['position'].split(','),{}
    if f['dress'] == 'hours':
        lon,unit = [None if o is None else o/15 for o in lon],{names[0]: 'hourangle' if f['format'] == 'ecsv' else 'h'}
    out = {}
    if f['dress'] in ('h:m:s','h m s','hms'):
        def dressed(o, hours):
            if o is None: return None
            sep = {'h:m:s': ':', 'h m s': ' ', 'hms': ('h','m','s') if hours else ('d','m','s')}[f['dress']]
            from astropy.coordinates import Angle
            return Angle(o, 'deg').to_string('hour' if hours else 'deg', sep=sep, precision=6, pad=True, alwayssign=not hours)
        lon,lat = [dressed(o, True) for o in lon],[dressed(o, False) for o in lat]
    if f['dress'] == 'text': lon,lat = [None if o is None else repr(float(o)) for o in lon],[None if o is None else repr(float(o)) for o in lat]
    if f['dress'] == 'decoy': out |= dict(RAJ2000=['01 02 03.4']*n, DEJ2000=['-05 06 07']*n)
    if f['id'] != 'none': out[f['id_name']] = ids if numbers_ is None else numbers_
    out |= {names[0]: lon, names[1]: lat}
    if f['mags'] != 'no': out |= {b if f['mags'] == 'bare' else f'mag_{b}': [float(o) for o in np.round(rng.uniform(17, 24, n), 3)] for b in 'ugriz'}
    if f['redshift'] != 'none': out[f['redshift']] = z
    else: truth['z'][:] = np.nan
    if f['klass'] != 'none': out[f['klass']] = [None if o is None else f' {o}  ' for o in klass] if f['class_dress'] == 'padded' else klass
    else: truth['klass'] = None
    if f['order'] == 'id last' and f['id'] != 'none': out[f['id_name']] = out.pop(f['id_name'])
    return out,unit,truth

def write_text(cols, path, f):
    sep = dict(tsv='\t', semicolon=';', decimal_comma=';', spaces=' ', aligned=' ', topcat=' ', ipac=' ', sextractor=' ').get(f['format'], ',')
    def cell(k, v):
        if v is None: return f['missing']
        s = str(v)
        if f['format'] == 'decimal_comma' and isinstance(v, float): s = s.replace('.', ',')
        if f['id'] == 'quoted' and k == f['id_name'] or sep in s: s = f'"{s}"'
        return s
    rows = [[cell(k, cols[k][i]) for k in cols] for i in range(len(next(iter(cols.values()))))]
    lines = [sep.join(o) for o in [list(cols), *rows]]
    wide = [max(len(k), 8, *(len(o[i]) for o in rows))+2 for i,k in enumerate(cols)]
    if f['format'] in ('aligned','topcat','sextractor','ipac'): lines = [''.join(v.rjust(n) for v,n in zip(o, wide)) for o in [list(cols), *rows]]
    if f['format'] == 'topcat': lines[0] = '#' + lines[0][1:]
    if f['format'] == 'ipac':
        kinds = ['char' if any(isinstance(o, str) for o in v) else 'long' if all(isinstance(o, (int,type(None))) for o in v) else 'double' for v in cols.values()]
        heads = list(cols),kinds,['']*len(cols),[f['missing']]*len(cols)          # names, types, units, and what stands for null
        lines[:1] = ['|' + '|'.join(o.rjust(n-1) for o,n in zip(some, wide)) + '|' for some in heads]
        lines[4:] = [o+' ' for o in lines[4:]]
    if f['format'] == 'sextractor': lines[:1] = [f'# {i+1:3} {k:22} A quantity' for i,k in enumerate(cols)]
    if f['format'] == 'casjobs': lines = ['#Table1'] + lines
    if f['format'] == 'blank_lines': lines = ['', *lines[:3], '', *lines[3:], '', '']
    if f['format'] == 'hash': lines[0] = '#' + lines[0]
    if f['format'] == 'comment': lines = ['# made by me, today; with care','# and more'] + lines
    end = '\r\n' if f['format'] == 'crlf' else '\n'
    raw = (end.join(lines)+end).encode('utf-8-sig' if f['format'] == 'bom' else 'utf-8')
    path.write_bytes(gzip.compress(raw) if f['packed'] == 'gz' else raw)

def odd_column(f, n):
    from decimal import Decimal
    import datetime
    return dict(list=[[1.,2.]]*n, struct=[dict(a=1)]*n, decimal=[Decimal('1.5')]*n, time=[datetime.datetime(2020, 1, 1)]*n if f['format'] == 'parquet' else ['2020-01-01T00:00:00']*n,
                bool=[True,False,True][:1]*n, null=[None]*n).get(f['odd'])

def write_parquet(cols, path, f):
    import pyarrow as pa, pyarrow.parquet as pq
    out = {}
    for k,v in cols.items():
        kind = pa.uint64() if f['id'] == 'uint64' and k == f['id_name'] else None
        out[k] = pa.array(v, kind)
        if k == f['klass'] and f['class_dress'] == 'category': out[k] = out[k].dictionary_encode()
    odd = odd_column(f, len(next(iter(cols.values()))))
    if odd is not None: out['odd'] = pa.array(odd)
    pq.write_table(pa.table(out), path)

def as_table(cols, unit, f):
    "astropy's Table, missing values masked as the format does it"
    t = Table()
    for k,v in cols.items():
        gone = [o is None for o in v]
        kind = next((type(o) for o in v if o is not None), float)
        whole = np.uint64 if f['id'] == 'uint64' and k == f['id_name'] else np.int64
        x = np.array([(0 if kind is int else np.nan if kind is float else '') if o is None else o for o in v], dtype=whole if kind is int else None)
        if kind is str and any(gone): x = np.array([f['missing'] if o is None else o for o in v])     # text has no other way to say so
        t[k] = MaskedColumn(x, mask=gone) if any(gone) and kind is int else Column(x)
        if k in unit: t[k].unit = unit[k]
    n = len(t)
    if f['shape'] == 'column' and f['redshift'] != 'none': t[f['redshift']] = np.asarray(t[f['redshift']])[:,None]
    if f['odd'] == '2d': t['odd'] = np.ones((n,2,2))
    elif f['odd'] == 'big_endian': t['odd'] = np.arange(n, dtype='>i4')
    elif f['odd'] in ('bool','time'): t['odd'] = odd_column(f, n)
    return t

def write_votable(t, path):
    "By hand, since the C code that writes TABLEDATA for astropy (8.0.2) runs over the end of its buffer"
    from xml.sax.saxutils import escape
    fields,kinds = '',dict(i='long', u='unsignedLong', f='double', b='boolean')
    for k in t.colnames:
        kind = kinds.get(t[k].dtype.kind) if t[k].dtype != np.uint64 else 'char'
        unit = f' unit="{t[k].unit}"' if t[k].unit is not None else ''
        fields += f'<FIELD name="{k}" datatype="{kind or "unicodeChar"}"{unit}' + (' arraysize="*"/>' if kind in (None,'char') else '/>')
    rows = ''.join('<TR>' + ''.join(f'<TD>{"" if np.ma.is_masked(v) else escape(str(v))}</TD>' for v in row) + '</TR>' for row in t)
    path.write_text(f'<?xml version="1.0"?><VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>{fields}'
                    f'<DATA><TABLEDATA>{rows}</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>', encoding='utf-8')

def write_hdf5(t, path, group):
    with h5py.File(path, 'w') as h:
        at = h.create_group('photometry') if group else h
        for k in t.colnames:
            x = np.ma.asarray(t[k])
            if x.dtype.kind == 'U': at[k] = np.array([o.encode() for o in x.data])
            elif np.ma.is_masked(x): at[k] = x.filled(-999) if x.dtype.kind in 'iu' else x.filled(np.nan)
            else: at[k] = np.asarray(x)

def write_compound(t, path):
    "One dataset of named fields, as astropy and PyTables have it"
    plain = Table({k: np.char.encode(np.ma.getdata(t[k]), 'utf-8') if t[k].dtype.kind == 'U' else np.ma.filled(np.ma.asarray(t[k]), -999 if t[k].dtype.kind in 'iu' and np.ma.is_masked(t[k]) else None) for k in t.colnames})
    with h5py.File(path, 'w') as h: h['table'] = plain.as_array()

def table_family(f, rng, folder, said):
    from astromask.data.cutouts import class_labels, redshifts
    from astromask.data.ingest import read_catalog
    cols,unit,truth = columns_of(f, rng)
    ends = dict(fits='.fits', parquet='.parquet', ecsv='.ecsv', votable='.vot', votable_binary='.xml', tsv='.tsv', spaces='.txt', aligned='.txt', topcat='.ascii', sextractor='.cat', ipac='.tbl', hdf5='.h5', hdf5_group='.hdf5', hdf5_compound='.hdf').get(f['format'], '.csv')
    path = folder/f'table{ends}{".gz" if f["packed"] else ""}'
    if f['format'] == 'parquet': write_parquet(cols, path, f)
    elif f['format'] not in BINARY: write_text(cols, path, f)
    else:
        t = as_table(cols, unit, f)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            if ends == '.fits': t.write(path)
            elif ends == '.ecsv': t.write(path, format='ascii.ecsv')
            elif ends == '.vot': write_votable(t, path)
            elif ends == '.xml': t.write(path, format='votable', tabledata_format='binary2')
            elif f['format'] == 'hdf5_compound': write_compound(t, path)
            else: write_hdf5(t, path, f['format'] == 'hdf5_group')
    t = read_catalog(path)
    expect(len(t) == len(truth['id']), f'{len(t)} rows of {len(truth["id"])}')
    check_ids([str(o) for o in t['id']], f, truth, 'table', said)
    for k in ('ra','dec'):
        wrong = close(np.ma.filled(np.ma.asarray(t[k], float), np.nan), truth[k], 1e-9)
        wrong = wrong if wrong and not np.allclose(np.ma.filled(np.ma.asarray(t[k], float), np.nan), truth[k], atol=1e-7, rtol=0, equal_nan=True) else ''
        expect(not wrong, f'{k}: {wrong}')
    check_redshifts(redshifts(t), truth['z'])
    check_classes(class_labels, t, truth['klass'], said)
    if f['odd'] != 'none': expect('odd' in t.colnames or any('odd' in o for _,o in said.lines), 'the odd column is gone without a word')

def check_ids(got, f, truth, stem, said):
    if f['id'] == 'none': return expect(len(set(got)) == len(got), f'ids {got[:3]} repeat')
    right = [o.strip() for o in truth['id']]
    bad = next(((a,b) for a,b in zip(got, right) if a != b and b), None)
    expect(bad is None, f'id {bad and bad[1]!r} became {bad and bad[0]!r}')
    expect(all(b or a.lower() not in ('none','nan','0','-999') for a,b in zip(got, right)), f'a missing id became {[a for a,b in zip(got, right) if not b]}')
    if f['id'] == 'repeated': expect(said.told('repeat','twice','same id','id of another'), 'ids repeat without a word')

def check_redshifts(got, right):
    wrong = close(np.asarray(got, float), right, 1e-6)
    expect(not wrong, f'redshifts: {wrong}')

def check_classes(class_labels, t, right, said):
    from astromask.core import AstroMaskError
    if right is None: return
    labels,names = class_labels(t)
    got = [str(names[k]) if k >= 0 else None for k in labels] if len(names) else [None if k < 0 else str(k) for k in labels]
    bad = next(((a,b) for a,b in zip(got, right) if a != b), None)
    expect(bad is None, f'class {bad and bad[1]!r} became {bad and bad[0]!r} (classes {list(names)[:6]})')

# ---- arrays in HDF5

def array_family(f, rng, folder, said):
    from astromask.data.cutouts import Cutouts, class_labels, redshifts
    n,bands = 6,('g','r','i','z')
    v = rng.normal(size=(n,4,12,12))*20+100
    v = v.clip(0, 255).astype('u1') if f['dtype'] == 'u1' else v.astype(f['dtype'])
    ivar,bad = rng.uniform(.5, 2, v.shape).astype('f4'),np.zeros(v.shape, bool)
    if f['dtype'] != 'u1': v[1,2,3,4] = np.nan
    if f['mask'] == 'yes': bad[0,1,2,3] = True
    if f['ivar'] == 'yes': ivar[2,0,5,5] = 0
    right = v.astype(float)
    if f['mask'] == 'yes' and not (f['dataset'] == 'image_array' and f['ivar'] == 'yes'): right[bad] = np.nan
    if f['ivar'] == 'yes': right[ivar == 0] = np.nan
    ids,numbers_ = ids_of({'text': 'text', 'none': 'none'}.get(f['id'], f['id']), n, rng)
    z,klass,truth = rng.uniform(.1, 2, n),[('spiral','smooth','merger')[i % 3] for i in range(n)],dict(id=ids, klass=None)
    if f['sentinel'] != 'none': z[2] = float(f['sentinel'])
    truth['z'] = np.where((np.arange(n) == 2) & (f['sentinel'] != 'none'), np.nan, z)
    unit = dict(none=(None,None), nanomaggy=('nanomaggy',22.5), nJy=('nJy',31.4), text_zero=('counts','27.0'), number=('counts',27.))[f['unit']]
    with h5py.File(path := folder/'a.h5', 'w') as h:
        at = h.require_group(f['group']) if f['group'] else h
        x = v if f['order'] == 'first' else np.moveaxis(v, 1, -1)
        d = at.create_dataset(f['dataset'], data=x, **(dict(compression='gzip', chunks=True) if f['chunks'] == 'gzip' else {}))
        mmu = f['dataset'] == 'image_array'
        def put(k, y): at[k] = y if f['order'] == 'first' else np.moveaxis(y, 1, -1)
        if f['ivar'] == 'yes': put('image_ivar' if mmu else 'ivar', ivar)
        if f['mask'] == 'yes': put('image_mask' if mmu else 'mask', ~bad if mmu else bad)
        holder = d if f['where'] == 'dataset' else at
        if mmu: at['image_band'] = np.array([[b.encode() for b in bands]]*n)
        elif f['spelled'] == 'dataset': at['bands'] = np.array([b.encode() for b in bands])
        else: holder.attrs['bands'] = list(bands) if f['spelled'] == 'str' else np.array([b.encode() for b in bands])
        if unit[0]: holder.attrs['unit'] = unit[0]
        if unit[1] is not None and f['unit'] != 'nJy': holder.attrs['zero_point'] = unit[1]
        if f['id'] != 'none':
            own = ids if numbers_ is None else np.array(numbers_, np.uint64 if f['id'] == 'uint64' else np.int64)
            at['object_id' if mmu else 'id'] = np.array([f'{o}  '.encode() if f['id'] == 'padded' else o.encode() for o in own]) if numbers_ is None else own
        if f['redshift'] != 'none': at['redshift'] = z[:,None] if f['redshift'] == 'column' else z
        whole = np.array([0,1,2]*2)
        if f['klass'] in ('text','padded'): at['class'],truth['klass'] = np.array([(o+'   '*(f['klass'] == 'padded')).encode() for o in klass]),klass
        if f['klass'] == 'whole': at['label'],truth['klass'] = whole,[str(o) for o in whole]
        if f['klass'] == 'one_hot': at['label'] = np.eye(3)[whole]
    c = Cutouts.open(path)
    expect(tuple(c.bands) == bands, f'bands {c.bands}')
    wrong = close(c[:], right, 1e-6)
    expect(not wrong, f'pixels: {wrong}')
    zero = None if unit[1] is None else float(unit[1])
    expect(c.zero_point == zero or zero and c.zero_point is not None and abs(c.zero_point-zero) < 1e-9, f'zero point {c.zero_point}, not {zero} (unit {c.unit!r})')
    expect(c.has_ivar == (f['ivar'] == 'yes'), f'has_ivar {c.has_ivar}')
    if c.has_ivar:
        wrong = close(c.ivar(slice(None)), np.where(np.isnan(right), 0, ivar), 1e-5)
        expect(not wrong, f'inverse variances: {wrong}')
    t = c.catalog
    check_ids([str(o) for o in t['id']], f, truth, 'a', said)
    if f['redshift'] == 'none': truth['z'][:] = np.nan
    if f['redshift'] == '1d' or np.isfinite(redshifts(t)).any() or not said.told('redshift'): check_redshifts(redshifts(t), truth['z'])
    if f['klass'] == 'one_hot':
        got,_ = class_labels(t)
        expect((got == whole).all() or (got < 0).all() and said.told('label'), f'a one-hot label became {got}')
    else: check_classes(class_labels, t, truth['klass'], said)

# ---- one combination, and the fewest facts that fail

def excuses(family, f):
    "What a refusal may name: everything else should be read"
    out = []
    if f.get('differ') in ('unknown','files','bands'): out += ['unit','zero point']
    if str(f.get('unit', '')).startswith('MAGZERO '): out += ['MAGZERO']
    if family in ('cutout','tile') and f['size'] in ('1e-20','1e-40'): out += ['float32','float64']
    if family == 'array' and f['dtype'] == 'u1' and f['klass'] == 'one_hot': out += []
    return out

def outcome(family, f, seed):
    "'' if right, 'refused: ...' if refused in a true sentence, else what is wrong"
    from astromask.core import AstroMaskError
    said,rng,folder = Said(),np.random.default_rng(seed),Path(tempfile.mkdtemp(prefix='fuzz-'))
    logger,level = logging.getLogger('astromask'),logging.getLogger('astromask').level
    logger.addHandler(said)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('always')
            warnings.showwarning = lambda m,*a,**k: said.lines.append((logging.WARNING, str(m)))
            globals()[f'{family}_family'](f, rng, folder, said)
    except Wrong as e: return f'WRONG {e}'
    except AstroMaskError as e:
        text = str(e).replace(str(folder), '')
        if '\n' in text: return f'REFUSED in more than one line: {text}'
        return 'refused' if any(re.search(w, text, re.I) for w in excuses(family, f)) else f'REFUSED {text}'
    except Exception as e:
        at = e.__traceback__
        while at.tb_next: at = at.tb_next
        return f'CRASHED {type(e).__name__}: {" ".join(str(e).split())[:200]} ({Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno})'
    finally:
        logger.removeHandler(said)
        logger.setLevel(level)
        shutil.rmtree(folder, ignore_errors=True)
    return ''

def smallest(family, f, seed):
    "The fewest facts that still fail in the same way"
    kind = outcome(family, f, seed).split(' ')[0]
    plain = possible(family, {k: v[0] for k,v in FAMILIES[family].items()})
    for k in f:
        less = possible(family, f | {k: plain[k]})
        if less != f and outcome(family, less, seed).split(' ')[0] == kind: f = less
    return f,{k: v for k,v in f.items() if v != plain[k]}

def combination(seed):
    "The family and facts of a seed"
    rng = np.random.default_rng([seed, 7])
    family = list(FAMILIES)[rng.choice(4, p=[.4,.15,.3,.15])]
    return family,possible(family, draw(family, rng))

def try_seed(seed):
    family,f = combination(seed)
    what = outcome(family, f, seed)
    if what in ('','refused'): return seed,family,what,None
    least,odd = smallest(family, f, seed)
    return seed,family,outcome(family, least, seed),odd

def report(found):
    "Failures of one kind together"
    kinds = {}
    for seed,family,what,odd in found:
        if odd is None: continue
        kinds.setdefault((family, json.dumps(odd, ensure_ascii=False), re.sub(r"\d+|'[^']*'", '#', what)[:40]), []).append((seed, what))
    for (family,odd,_),some in sorted(kinds.items(), key=lambda o: -len(o[1])):
        print(f'{len(some):5} {family} {odd}\n      {some[0][1][:400]}\n      seeds {[s for s,_ in some[:5]]}')
    print(Counter('wrong' if o[3] is not None else o[2] or 'right' for o in found))
    return kinds

def main():
    p = argparse.ArgumentParser(description=__doc__)
    for k,v in dict(n=200, seed=0, jobs=1).items(): p.add_argument(f'--{k}', type=int, default=v)
    p.add_argument('--family', default='', help='This family alone')
    p.add_argument('--facts', default='', help='JSON: this combination of facts alone, the rest plain')
    a = p.parse_args()
    if a.facts:
        f = possible(a.family, {k: v[0] for k,v in FAMILIES[a.family].items()} | json.loads(a.facts))
        what = outcome(a.family, f, a.seed)
        return print(what or 'right')
    seeds = [s for s in range(a.seed, a.seed+a.n) if not a.family or combination(s)[0] == a.family]
    if a.jobs < 2: found = [try_seed(s) for s in seeds]
    else:
        from multiprocessing import get_context
        with get_context('fork').Pool(a.jobs) as pool: found = list(pool.imap_unordered(try_seed, seeds, chunksize=20))
    return int(bool(report(sorted(found, key=lambda o: o[0]))))

if __name__ == '__main__': sys.exit(main())
