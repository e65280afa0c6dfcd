"Units: every way in which headers say what a pixel is, compared with astropy alone; and what brings one set to another"
import re, warnings
import numpy as np, pytest
from astropy import constants, units as u
from astropy.io import fits
from astromask.core import DataError, InputError
from astromask.resample import resampled
from astromask.units import (UNIT_WORDS, ZERO_POINT_CARDS, Measure, Photometry, conversion, flux_factor, header_photometry, scale_ratio, unit_name, unit_zero_point)

NANOMAGGY = 10**(-0.4*22.5)*3630.780547701003*u.Jy

def ab(flux, wave=None): return flux.to_value(u.ABmag, u.spectral_density(wave*u.AA) if wave else [])

def head(**cards):
    h = fits.Header()
    for k,v in cards.items(): h[k] = v
    return h

def says(primary=None, area=None, wave=None, **cards): return header_photometry(head(**cards), primary, area, wave)

SPELLINGS = {'nJy': u.nJy, 'njy': u.nJy, 'NJY': u.nJy, 'nanoJansky': u.nJy, 'nanojanskys': u.nJy, '10.0*nanoJansky': 10*u.nJy, 'uJy': u.uJy, 'µJy': u.uJy, 'μJy': u.uJy, 'microJy': u.uJy, 'mJy': u.mJy, 'milliJansky': u.mJy,
             'Jy': u.Jy, 'JY': u.Jy, 'Jansky': u.Jy, 'MJy': u.MJy, 'kJy': u.kJy, 'Jy/pixel': u.Jy, 'Jy pix-1': u.Jy, 'Jy per pixel': u.Jy, '1e-6 Jy': u.uJy, '1.0E-06 Jy': u.uJy, '10**-6 Jy': u.uJy, '10^-6 Jy': u.uJy, '10^(-6) Jy': u.uJy,
             '10-6 Jy': u.uJy, '1.5*10**-6 Jy': 1.5*u.uJy, '2**-10 Jy': 2.**-10*u.Jy, 'nanomaggy': NANOMAGGY, 'nanomaggies': NANOMAGGY, 'Nanomaggies': NANOMAGGY, 'NMGY': NANOMAGGY, 'nmgy': NANOMAGGY, 'nMgy': NANOMAGGY, 'maggies': 1e9*NANOMAGGY, 'mgy': 1e9*NANOMAGGY,
             '10**(-0.4*30) maggies': 10**-3.*NANOMAGGY, 'erg/s/cm2/Hz': u.erg/u.s/u.cm**2/u.Hz, 'erg s-1 cm-2 Hz-1': u.erg/u.s/u.cm**2/u.Hz, '1e-29 erg/s/cm^2/Hz': 1e-29*u.erg/u.s/u.cm**2/u.Hz, 'W/m2/Hz': u.W/u.m**2/u.Hz, 'W m-2 Hz-1': u.W/u.m**2/u.Hz}

@pytest.mark.parametrize('text', SPELLINGS)
def test_fluxes_by_frequency(text): assert unit_zero_point(text) == pytest.approx(ab(1*SPELLINGS[text]), abs=1e-7)

FLAM = u.erg/u.s/u.cm**2/u.AA
BY_WAVELENGTH = {'erg/s/cm2/A': 1., 'erg/s/cm2/Angstrom': 1., 'erg/s/cm**2/Angstrom': 1., 'ergs/cm^2/s/Ang': 1., 'erg / (Angstrom cm2 s)': 1., 'erg s-1 cm-2 A-1': 1., 'erg.s^-1.cm^-2.Å^-1': 1., 'ERG/S/CM2/A': 1., 'FLAM': 1., '10**-20 erg/s/cm**2/Angstrom': 1e-20,
                 '10**(-20)*erg/s/cm**2/Angstrom': 1e-20, '1e-17 erg/s/cm2/Ang': 1e-17, '1E-17 erg/cm^2/s/Ang/spaxel': 1e-17, '10^-20 erg s^-1 cm^-2 angstrom^-1': 1e-20, '10-20 erg/s/cm2/A': 1e-20, '2**-66 erg/s/cm2/A': 2.**-66}

@pytest.mark.parametrize('text', BY_WAVELENGTH)
def test_fluxes_by_wavelength(text):
    assert unit_zero_point(text) is None
    assert unit_zero_point(text, wavelength=6231.) == pytest.approx(ab(BY_WAVELENGTH[text]*FLAM, 6231.), abs=1e-7)

@pytest.mark.parametrize('text,flux', [('MJy/sr', u.MJy/u.sr), ('MJY/SR', u.MJy/u.sr), ('MJy sr-1', u.MJy/u.sr), ('MJy.sr^-1', u.MJy/u.sr), ('Jy/arcsec2', u.Jy/u.arcsec**2), ('Jy/arcsec^2', u.Jy/u.arcsec**2), ('mJy/sq arcsec', u.mJy/u.arcsec**2)])
def test_surface_brightness_needs_the_pixel(text, flux):
    assert unit_zero_point(text) is None
    for side in (.03, .063, .11, 1.5):
        area = (side*u.arcsec)**2
        assert unit_zero_point(text, area.to_value(u.sr)) == pytest.approx(ab((1*flux*area).to(u.Jy)), abs=1e-7)

@pytest.mark.parametrize('text', ['', ' ', 'adu', 'ADU', 'counts', 'COUNTS/S', 'electron/s', 'ELECTRONS', 'e-/s', 'DN', 'DN/s', 'ph', 'mag', 'ABmag', 'MJY', 'mjy/sr', 'Jy/beam', 'K', 'm/s', 'Pa', 'nothing', '(((', '1e-17', '10**', '--', 'nJy/', '8-bit colour image', 'sigma', '5', '1e400 Jy', '0 Jy', '-1 Jy', None])
def test_what_is_no_flux(text): assert unit_zero_point(text) is None and unit_zero_point(text, 1e-13, 5000.) is None

def test_a_zero_point_in_words():
    for text,zero in {'27 mag AB': 27, '30 mag AB': 30, '27.0 mag (AB)': 27, '22.5 AB mag': 22.5, '25.123 ABmag': 25.123}.items(): assert unit_zero_point(text) == zero
    for zero in (0, 22.5, 27, 31.4, 28.0866123, 25.12345, -48.6): assert unit_zero_point(unit_name(zero)) == pytest.approx(zero, abs=1e-6)

def test_what_surveys_write():
    for cards,zero in [(dict(BUNIT='nJy'), 31.4), (dict(FLUXMAG0=63095734448.0194), 27), (dict(MAGZERO=30.), 30), (dict(MAGZPT=25.5), 25.5), (dict(ZEROPOINT='26.2'), 26.2), (dict(ZP=24.), 24), (dict(PHOTZP=30., BUNIT='adu'), 30),
                       (dict(MAGZP=26.3), 26.3), (dict(ABMAGZP=25.), 25), (dict(ZEROPNT=0.), 0), (dict(BUNIT='nanomaggy', MAGZERO=22.5), 22.5), (dict(BUNIT='ADU', MAGZPT=(25., 'zero point for 1 sec exposure'), EXPTIME=100.), 30),
                       (dict(BUNIT='ADU/s', MAGZPT=(25., 'zero point [mag/s]'), EXPTIME=100.), 25), (dict(BUNIT='adu', MAGZERO=29.837, MAGZPT=(24.951, '[mag] Magnitude zero point per sec'), EXPTIME=90.), 29.837)]:
        assert says(**cards).zero_point == pytest.approx(zero, abs=1e-7), cards

def test_hubble_and_webb():
    flam,plam,seconds = 7.0767e-20,8045.5,2028.
    zero = ab(flam*FLAM, plam)
    assert zero == pytest.approx(-2.5*np.log10(flam) - 5*np.log10(plam) - 2.408, abs=1e-4)                          # in STScI's words
    for unit in ('ELECTRONS/S','electron/s','COUNTS/S','counts / sec','cps'): assert says(BUNIT=unit, PHOTFLAM=flam, PHOTPLAM=plam, PHOTZPT=-21.1, EXPTIME=seconds).zero_point == pytest.approx(zero, abs=1e-7)
    for unit in ('ELECTRONS','COUNTS'): assert says(BUNIT=unit, PHOTFLAM=flam, PHOTPLAM=plam, EXPTIME=seconds).zero_point == pytest.approx(zero+2.5*np.log10(seconds), abs=1e-7)
    assert says(PHOTFLAM=flam, PHOTPLAM=plam, EXPTIME=seconds).zero_point is None                                   # of a second, or of all of them?
    fnu = (flam*FLAM*(plam*u.AA)**2/constants.c).to_value(u.Jy)
    assert says(BUNIT='ELECTRONS/S', PHOTFNU=fnu).zero_point == pytest.approx(zero, abs=1e-6)
    area = 9.31e-14
    for cards in (dict(PIXAR_SR=area), dict(PIXAR_A2=(area*u.sr).to_value(u.arcsec**2))): assert says(BUNIT='MJy/sr', PHOTMJSR=3.1, **cards).zero_point == pytest.approx(ab(area*1e6*u.Jy), abs=1e-6)
    assert says(BUNIT='DN/s', PHOTMJSR=3.1, PIXAR_SR=area).zero_point == pytest.approx(ab(3.1*area*1e6*u.Jy), abs=1e-6)
    assert says(BUNIT='MJy/sr', area=area).zero_point == pytest.approx(ab(area*1e6*u.Jy), abs=1e-6)

def test_the_image_comes_before_the_primary_header():
    assert says(head(MAGZERO=26., BUNIT='Jy'), BUNIT='adu').zero_point == 26
    assert says(head(MAGZERO=26.), MAGZERO=27.).zero_point == 27 and says(head(BUNIT='nJy')) == Photometry('nJy', 31.4, 'BUNIT')
    assert says(head(EXPTIME=10.), BUNIT='adu', MAGZPT=(25., 'per second')).zero_point == 27.5
    assert header_photometry(dict(BUNIT='uJy')).zero_point == pytest.approx(23.9)

def test_a_zero_point_of_0_is_told(caplog):
    assert says(ZEROPOINT=0.).zero_point == 0 and 'ZEROPOINT is 0, which may only mean that nobody set it' in caplog.text
    caplog.clear()
    for cards in (dict(BUNIT='maggy', MAGZERO=0.), dict(FLUXMAG0=1.), dict(MAGZERO=25.)): assert says(**cards).zero_point is not None and not caplog.text

def test_contradictions_are_told(caplog):
    for cards,zero,words in ((dict(BUNIT='nJy', MAGZERO=27.), 31.4, 'MAGZERO says 27'), (dict(FLUXMAG0=1e10, PHOTZP=30.), 25, 'PHOTZP says 30'), (dict(MAGZERO=30., MAGZPT=25.), 30, 'MAGZPT says 25')):
        caplog.clear()
        assert says(**cards).zero_point == pytest.approx(zero) and words in caplog.text
    caplog.clear()
    assert says(BUNIT='nJy', MAGZERO=31.4005).zero_point == 31.4 and not caplog.text

VEGA = [dict(MAGZP=20.5, TELESCOP='WISE'), dict(MAGZP=20.5, ORIGIN='2MASS'), dict(MAGZPT=23., INSTRUME='VIRCAM'), dict(MAGZPT=23., PHOTSYS='VEGA'), dict(MAGZERO=25., MAGSYS='Vega'), dict(PHOTZP=25., PHOTSYS='VEGAMAG'), dict(MAGZERO=(22.5, 'Zero point (Vega)')), dict(MAGZERO=25., MAGSYS='STMAG'), dict(BUNIT='nanomaggy', MAGSYS='Vega')]

@pytest.mark.parametrize('cards', VEGA, ids=str)
def test_a_vega_zero_point_is_no_ab_zero_point(cards, caplog):
    assert says(**cards).zero_point is None and 'unknown' in caplog.text and re.search('vega|STMAG', caplog.text, re.I)

def test_ab_in_words_beats_the_camera():
    assert says(MAGZPT=30., INSTRUME='VIRCAM', MAGSYS='AB').zero_point == 30 and says(MAGZPT=(30., 'AB zero point'), INSTRUME='VIRCAM').zero_point == 30

def test_nothing_is_assumed():
    for cards in (dict(), dict(BUNIT='adu'), dict(BUNIT=''), dict(TELESCOP='Subaru'), dict(MAGZERO=-99.), dict(MAGZERO='UNKNOWN'), dict(MAGZERO=None), dict(MAGZERO=''), dict(MAGZERO=-999), dict(BUNIT='MJy/sr'), dict(BUNIT='erg/s/cm2/A'), dict(PHOTFLAM=0., PHOTPLAM=5e3), dict(MAGZPT=(25., 'per second'))):
        assert says(**cards).zero_point is None, cards
    assert says(BUNIT=' adu ') == Photometry('adu')

def test_cards_that_may_tell_a_zero_point_are_told_of(caplog):
    for card in ('ZPT','MAGZEROP','ABZERO','HIERARCH mag_zeropoint'):
        caplog.clear()
        assert says(BUNIT='adu', **{card: 27.3}).zero_point is None and f'{card.split()[-1]} = 27.3' in caplog.text
    for cards in (dict(BZERO=32.), dict(PHOTZPT=-21.1), dict(ZPERR=.02), dict(ZPTEXT='good'), dict(BUNIT='nJy', ZPT=27.3)):
        caplog.clear()
        assert says(**cards).zero_point in (None,31.4) and not caplog.text, cards

@pytest.mark.parametrize('cards', [dict(MAGZERO=1e9), dict(MAGZERO='bright'), dict(MAGZERO=True), dict(MAGZPT=-1e5), dict(FLUXMAG0=-1.), dict(FLUXMAG0=0.), dict(FLUXMAG0='much'), dict(PHOTZP=1e300)], ids=str)
def test_values_that_cannot_be(cards):
    with pytest.raises(DataError, match=next(iter(cards))): says(**cards)

def test_tables_are_what_the_code_uses():
    names = [k for k,_ in ZERO_POINT_CARDS]
    assert len(set(names)) == len(names) and len({k for k,_ in UNIT_WORDS}) == len(UNIT_WORDS)
    for k in names[2:14]: assert says(**{k: 26.5}).zero_point == 26.5 and says(**{k: 26.5}).source == k, k

def test_conversion_is_exact():
    assert conversion(Measure('nJy', 31.4), Measure('nJy', 31.4)) == 1. == flux_factor(22.5, 22.5)
    for a,b in (('nJy','nanomaggy'), ('uJy','Jy'), ('MJy/sr','nJy'), ('27 mag AB','nanomaggy')):
        f = conversion(Measure(a, None, .03), Measure(b, None, .03))
        flux = lambda text: {'nJy': u.nJy, 'nanomaggy': NANOMAGGY, 'uJy': u.uJy, 'Jy': u.Jy, '27 mag AB': (27*u.ABmag).to(u.Jy), 'MJy/sr': (1*u.MJy/u.sr*(.03*u.arcsec)**2).to(u.Jy)}[text]
        assert f == pytest.approx((1*flux(a)/(1*flux(b))).to_value(u.dimensionless_unscaled), rel=1e-7)
        assert f*conversion(Measure(b, None, .03), Measure(a, None, .03)) == pytest.approx(1, rel=1e-12)

def test_units_without_a_zero_point_that_differ_by_a_number():
    "Two sets of one kind, each multiplied by the power of two that its own fluxes asked for"
    for a,b,factor in (('2**-66 adu','2**-68 adu',4.), ('adu','2**-3 ADU',8.), ('2**-66 erg/s/cm2/Angstrom','erg/s/cm2/A',2.**-66), ('2**3 1e-17 erg/s/cm2/Ang','1e-17 erg/cm^2/s/Ang',8.), ('1e-17 erg/s/cm2/A','1e-20 erg/s/cm2/A',1e3)):
        assert conversion(Measure(a), Measure(b)) == pytest.approx(factor, rel=1e-12) and conversion(Measure(b), Measure(a)) == pytest.approx(1/factor, rel=1e-12)

def test_what_cannot_be_converted(caplog):
    for has,wants in ((Measure('8-bit colour image'), Measure('nanomaggy', 22.5)), (Measure('nanomaggy', 22.5), Measure('8-bit colour image')), (Measure('adu'), Measure('nJy')), (Measure('adu'), Measure(zero_point=27.)), (Measure('adu'), Measure('electron')), (Measure('8-bit image'), Measure('16-bit image')), (Measure('2**66 adu'), Measure('2**66 electron')), (Measure('erg/s/cm2/A'), Measure('erg/s/cm2/Hz'))):
        with pytest.raises(InputError, match='cannot be converted'): conversion(has, wants, 'a.h5')
    assert not caplog.text
    for has,wants,words in ((Measure(), Measure('nJy', 31.4), 'a.h5 does not say its unit'), (Measure('nJy', 31.4), Measure(), 'does not say the unit that it was trained on')):
        caplog.clear()
        assert conversion(has, wants, 'a.h5') == 1. and words in caplog.text
    caplog.clear()
    for m in (Measure(), Measure('adu'), Measure('8-bit colour image, uint8 as stored')): assert conversion(m, m) == 1.
    assert conversion(Measure('8-bit colour image, uint8 as stored'), Measure('8-bit colour image')) == 1. and not caplog.text

def test_a_measure_comes_back_from_a_file():
    m = Measure('nJy', 31.4, .168)
    assert Measure.from_config(m.config()) == m and Measure.from_config({}) == Measure() == Measure.from_config(None)
    for bad in (dict(zero_point='x'), dict(pixel_scale=[1]), dict(zero_point=True), dict(zero_point=float('nan'))):
        with pytest.raises(InputError): Measure.from_config(bad)

def test_pixels_of_another_size():
    assert scale_ratio(Measure(pixel_scale=.2), Measure(pixel_scale=.2001)) == 1. and scale_ratio(Measure(pixel_scale=.4), Measure(pixel_scale=.2)) == 2.
    n = 61
    r = np.arange(n)-(n-1)/2
    for ratio in (.4, .7, 1.3, 2):
        sigma = 5.
        g = 7*np.exp(-(r[:,None]**2+r**2)/(2*sigma**2))/(2*np.pi*sigma**2)
        y = resampled(np.stack([g, np.full_like(g, np.nan)]), ratio)
        t = np.arange(y.shape[-1])-(y.shape[-1]-1)/2
        assert y[0].sum() == pytest.approx(7, rel=2e-3) and np.sqrt((y[0].sum(0)*t**2).sum()/y[0].sum())/ratio == pytest.approx(sigma, rel=.01) and np.isnan(y[1]).all()
        assert resampled(g, ratio, flux=False).max() == pytest.approx(g.max(), rel=.1)
