"Columns of other people's tables: what is missing, what is whole, what is text, where an object is"
import logging
from datetime import date, datetime
from decimal import Decimal
import numpy as np, pytest
from astropy import units as u
from astropy.coordinates import Angle
from astropy.table import Column, MaskedColumn, Table
from astropy.time import Time
from astromask.core import DataError, InputError
from astromask.data.columns import (MISSING_WORDS, NAMES, clean_column, counts_from_one, degrees, find_column, first_columns, is_missing, numbers, plain_column,
                                    repeats, rounded_ids, find_positions, texts)

nan = np.nan
def same(a, b): np.testing.assert_array_equal(np.ma.filled(np.ma.asarray(a), nan) if np.asarray(a).dtype.kind == 'f' else a, b)

# What is missing

words = '', ' ', 'null', 'NULL', 'None', 'N/A', 'n/a', 'NA', 'nan', 'NaN', '\\N', '<NA>', '--', 'INDEF', '#N/A'

@pytest.mark.parametrize('word', words)
def test_missing_words_in_text_and_in_numbers(word):
    same(texts(['STAR', word, 'QSO']), ['STAR','','QSO'])
    same(numbers(['0.5', word, '2']), [.5,nan,2])
    same(is_missing(np.array([word, word.center(20), 'x'])), [True,True,False])
    same(degrees(['10.5', word], 'ra', 'ra'), [10.5,nan])

def test_every_missing_word_is_told():
    assert is_missing(np.array(MISSING_WORDS)).all() and not is_missing(np.array(['0','-1','nano','nullity','NAB','STAR'])).any()

@pytest.mark.parametrize('none', [None, nan, np.ma.masked, np.datetime64('NaT'), Decimal('NaN')])
def test_missing_objects(none):
    c = plain_column([1237648720693755918, none, 7], 'n')[0]
    assert c.dtype == np.int64 and c[0] == 1237648720693755918 and list(c.mask) == [False,True,False]
    same(texts([1237648720693755918, none]), ['1237648720693755918',''])

def test_pandas_na_is_missing():
    pd = pytest.importorskip('pandas')
    for col in (pd.array([1, None], 'Int64'), pd.Series([1, pd.NA], dtype=object)): same(texts(list(col)), ['1',''])

# Whole numbers stay whole

@pytest.mark.parametrize('values,dtype', [([2**63-1, -5], 'i8'), ([2**64-1, 0], 'u8'), ([2**64, 0], 'U'), ([-2**63-1, 0], 'U'), ([Decimal(2**60), None], 'i8'),
                                          ([Decimal('1.5'), 2], 'f8'), ([True, None], 'b1'), ([1, 2.5], 'f8'), ([1, 'x'], 'U')])
def test_python_numbers(values, dtype):
    c = plain_column(values, 'x')[0]
    assert c.dtype.kind == 'U' if dtype == 'U' else c.dtype == np.dtype(dtype)
    if dtype in ('i8','u8','U'): assert [str(o) for o in c if o is not np.ma.masked] == [str(o) for o in values if o is not None]

@pytest.mark.parametrize('dtype', ['i1','>i2','i4','>i8','u1','u2','>u4','u8'])
def test_integers_keep_their_type(dtype):
    x = np.array([1, np.iinfo(dtype).max], dtype)
    c,m = plain_column(x, 'x')[0],plain_column(MaskedColumn(x, mask=[0,1]), 'x')[0]
    assert c.dtype == np.dtype(dtype).newbyteorder('=') == m.dtype and int(c[1]) == np.iinfo(dtype).max and list(m.mask) == [False,True]

def test_floats_are_nan_where_masked_and_never_masked():
    c = plain_column(MaskedColumn([1.,1e20], mask=[0,1]), 'x')[0]
    assert not isinstance(c, MaskedColumn) and np.isnan(c[1])

# Text

@pytest.mark.parametrize('col,want', [
    (np.array([b'ab  ', b' c\0\0', b'ab\0junk'], 'S8'), ['ab','c','ab']), (np.array(['Möbius'.encode(), b'x'], 'S8'), ['Möbius','x']),
    (np.array(['Möbius'.encode('latin-1'), b'x'], 'S8'), ['Möbius','x']), ([b'a ', 'b', None], ['a','b','']), (Column(['a','b']), ['a','b']),
    (np.array(['2020-01-02','NaT'], 'M8[D]'), ['2020-01-02','']), ([date(2020,1,2), None], ['2020-01-02','']), ([datetime(2020,1,2,3), None], ['2020-01-02T03:00:00','']),
    (Time(['2020-01-02']), ['2020-01-02T00:00:00.000'])])
def test_text(col, want):
    c = plain_column(col, 'x')[0]
    assert not isinstance(c, MaskedColumn) and list(c) == want

def test_text_of_numbers_is_exact():
    same(texts(np.array([1.2e18, 5, nan])), ['1200000000000000000','5',''])
    same(texts(np.array([.1, 2], 'f4')), ['0.1','2'])
    same(texts(np.array([2**64-1], 'u8')), ['18446744073709551615'])
    same(texts(np.array([[7],[8]])), ['7','8'])
    with pytest.raises(DataError, match='several values'): texts(np.ones((2,2)))

# Columns that are odd

@pytest.mark.parametrize('col,why', [(np.array([1j,2]), 'complex'), (np.ones((2,3,4)), 'shape'), ([{'a':1},{'a':2}], 'dict'), ([[1],[1,2]], 'one length'),
                                     (np.array([1,2], 'm8[s]'), 'durations'), (np.zeros(2, 'i4,f4'), 'several named')])
def test_odd_columns_are_left_out_with_a_word(col, why, caplog):
    with caplog.at_level('WARNING', 'astromask'): assert clean_column(col, 'odd') is None
    assert why in caplog.text and "'odd'" in caplog.text

def test_lists_of_one_length_have_several_values_a_row():
    same(plain_column([[1,2],[3,4]], 'x')[0], [[1,2],[3,4]])
    c = plain_column([[1.,None],None,[3,4]], 'x')[0]
    same(c, [[1,nan],[nan,nan],[3,4]])

def test_a_text_that_memory_cannot_hold_is_left_out(monkeypatch):
    monkeypatch.setattr('astromask.data.columns._most', 1000)
    assert plain_column(['a','b'*1000], 'x') == (None,'text of up to 1000 characters')

# Numbers, sentinels

@pytest.mark.parametrize('role,good,bad', [('magnitude', [22.5,-1.,0], [99,-99,999,-999,9999,-9999]), ('redshift', [0,.5,6], [-1,-9,-99,-999,-9999,99,999,9999])])
def test_sentinels_are_unknown_in_their_role_and_said_once(role, good, bad, caplog):
    with caplog.at_level('WARNING', 'astromask'): out = numbers(Column([*good,*bad], name='q', dtype='f4'), role, 't.fits')
    same(out, np.array([*good,*[nan]*len(bad)]))
    assert len(caplog.messages) == 1 and f'{len(bad)} of {len(good)+len(bad)} rows' in caplog.text and "t.fits: the column 'q'" in caplog.text
    same(numbers([*good,*bad]), [*good,*bad])

def test_texts_that_are_no_numbers_are_said(caplog):
    with caplog.at_level('WARNING', 'astromask'): same(numbers(['1D+2','<23.5','−1',' 1,5 ']), [100,nan,-1,1.5])
    assert "'<23.5'" in caplog.text
    same(numbers(['1,234','12,345']), [nan,nan])          # thousands or decimals: nobody knows

# Which column

def test_the_first_column_that_holds_something_wins():
    t = Table(dict(RA=[nan,nan], RAJ2000=['10:00:00','x'], ra_deg=[1.,2.], Dec=[1.,2.], TARGETID=[5,6], id=['','null']))
    assert find_column(t, 'ra') == 'ra_deg' and find_column(t, 'id') == 'TARGETID' and find_column(t, 'dec') == 'Dec' and find_column(t, 'x') is None
    assert find_column(t, 'ra', 'raj2000') == 'RAJ2000'
    with pytest.raises(InputError, match="no column 'alpha': name the one that holds ra among RA, RAJ2000"): find_column(t, 'ra', 'alpha')

@pytest.mark.parametrize('name', ['id','ID','#id',' # object_id','objectId','TARGETID','SOURCE_ID','COADD_OBJECT_ID','objID','NUMBER','IDENT','Name','diaObjectId','Object ID','obj-id','source.id [none]'])
def test_names_of_ids(name): assert find_column({name: [1,2], 'x': [1,2]}, 'id') == name

def test_counts_are_ids_only_where_no_two_are_equal():
    assert find_column(dict(NUMBER=[1,2,1]), 'id') is None and find_column(dict(NUMBER=[1,2,3]), 'id') == 'NUMBER'
    assert find_column(dict(id=[1,1]), 'id') == 'id'
    assert find_column(dict(objid=[0,0], brickid=[1,2]), 'id') is None and find_column(dict(objid=[5,5]), 'id') == 'objid'

def test_ids_that_lost_digits():
    same(rounded_ids(['1.24E+18','12E3','1.10','0001']), [True,False,False,False])
    same(rounded_ids(np.array([1.2e18, 2**53-1])), [True,False])
    same(rounded_ids(np.array([16777216, 16777215], 'f4')), [True,False])
    same(rounded_ids([2**62]), [False])
    assert find_column(dict(objid=['1.24E+18']*2), 'id') is None and find_column(dict(objid=['1.24E+18','1.25E+18']), 'id') == 'objid'

def test_names_of_ra_and_dec_belong_together():
    assert not {'ra','dec'} & {o for o in NAMES['ra'] if 'dec' in o} and len(NAMES['ra']) <= len(NAMES['dec'])
    for a,d in zip(NAMES['ra'], NAMES['dec']): assert find_positions({a: [1.], d: [2.]})[:2] == (a,d), (a,d)
    for a,d in (('Right Ascension','Declination'), ('RA (J2000)','Dec (J2000)'), ('#ra','dec-deg')): assert find_positions({a: [1.], d: [2.]})[:2] == (a,d), (a,d)
    t = dict(ra=[nan,nan], dec=[1.,2.], RAJ2000=[3.,4.], DEJ2000=[5.,6.])
    assert find_positions(t)[:2] == ('RAJ2000','DEJ2000')

# Angles

def test_sexagesimal_as_astropy_reads_it():
    rng = np.random.default_rng(0)
    for sep,hours in ((':',True),(' ',True),('hms',True)):
        h,m,s,d = rng.integers(0, 24, 50),rng.integers(0, 60, 50),rng.uniform(0, 59.99, 50).round(4),rng.integers(0, 90, 50)
        a = [f'{i:02d}h{j:02d}m{k:07.4f}s' if sep == 'hms' else f'{i:02d}{sep}{j:02d}{sep}{k:07.4f}' for i,j,k in zip(h, m, s)]
        b = [f'{"-+"[n % 2]}{i:02d}d{j:02d}m{k:07.4f}s' if sep == 'hms' else f'{"-+"[n % 2]}{i:02d}{sep}{j:02d}{sep}{k:07.4f}' for n,(i,j,k) in enumerate(zip(d, m, s))]
        np.testing.assert_allclose(degrees(a, 'ra', 'ra'), Angle(a, unit='hourangle').deg, rtol=0, atol=1e-9)
        np.testing.assert_allclose(degrees(b, 'dec', 'dec'), Angle(b, unit='deg').deg, rtol=0, atol=1e-9)

@pytest.mark.parametrize('text,axis,unit,want', [
    ('10:00:24.0','ra',None,150.1), ('10 00 24','ra','"h:m:s"',150.1), ('150:06:00','ra',None,150.1), ('10:00:24','ra','"d:m:s"',10+24/3600), ('10:00:24','ra','deg',10+24/3600),
    ('150.1°','ra',None,150.1), ('-0.2 °','dec',None,-.2), ('10h00m24s','ra',None,150.1), ('150d06m00s','ra',None,150.1), ("150°06'00\"",'ra',None,150.1), ('-00 12 00','dec',None,-.2), ('−00:12:00','dec',None,-.2), ('+02:12','dec',None,2.2),
    ('10:00.4','ra',None,150.1), ('150.1','ra',None,150.1), ('150,1','ra',None,150.1), ('10.00666666666667','ra','h',150.1), ('1e2','ra',None,100.)])
def test_one_angle(text, axis, unit, want): np.testing.assert_allclose(degrees(Column([text], unit=unit), 'x', axis), want, rtol=0, atol=1e-9)

@pytest.mark.parametrize('unit,want', [('deg',2), ('degree',2), ('rad',np.degrees(2)), ('radians',np.degrees(2)), ('hourangle',30), ('h',30), ('hours',30), ('arcsec',2/3600), ('arcmin',2/60), ('mas',2/3.6e6), ('',2)])
def test_units_of_angles(unit, want): np.testing.assert_allclose(degrees(Column([2.], unit=unit or None), 'x'), want, rtol=1e-12)

@pytest.mark.parametrize('name,want', [('RA (hours)',30), ('ra[deg]',2), ('ra_rad',np.degrees(2)), ('ra_hours',30), ('RA',2)])
def test_units_in_names(name, want): np.testing.assert_allclose(find_positions(Table({name: [2.], 'dec': [1.]}))[2], want, rtol=1e-12)

@pytest.mark.parametrize('text', ['12:72:00','12:00:61','north','1:2:3:4','12-30-00'])
def test_no_angle_is_refused_with_its_row(text):
    with pytest.raises(DataError, match='in row 1, which is no angle'): degrees(['1', text], 'dec', 'dec')

def test_angles_that_are_none():
    for col in (Column([1.], unit='m'), np.ones((2,2)), [True], [{'a':1}]):
        with pytest.raises(DataError, match='give it in degrees'): degrees(col, 'ra')

# Positions

def test_sentinels_of_positions(caplog):
    with caplog.at_level('WARNING', 'astromask'):
        _,_,x,y = find_positions(dict(ra=[10,-99,-999,0,0,1e20,9999], dec=[1,-99,-999.,0,0,5,5]))
    same(x, [10]+[nan]*6)
    same(y, [1]+[nan]*6)
    assert len(caplog.messages) == 1 and '6 of 7 positions' in caplog.text
    same(find_positions(dict(ra=[0.,1], dec=[0.,1]))[2], [0,1])                      # one object may be there
    same(find_positions(dict(ra=[-99.,-98], dec=[1.,1]))[2], [-99,-98])              # right ascensions from -180 to 180
    same(find_positions(dict(ra=[-99.,98], dec=[1.,1]))[2], [nan,98])

def test_impossible_positions():
    for t,why in ((dict(ra=[1.,2], dec=[1.,91]), 'Row 1 of t has dec = 91'), (dict(ra=[361.], dec=[1.]), 'Row 0 of t has ra = 361')):
        with pytest.raises(DataError, match=why): find_positions(t, where='t')
    same(find_positions(dict(ra=[1.,2], dec=[1.,91]), strict=False)[3], [1,nan])
    same(find_positions(dict(ra=['x','y'], dec=[1.,1]), strict=False)[2], [nan,nan])

def test_radians_without_a_unit_are_told(caplog):
    with caplog.at_level('WARNING', 'astromask'): find_positions(Table(dict(coord_ra=[1.,2,3], coord_dec=[.1,.2,.3])))
    assert 'radians' in caplog.text

def test_first_columns():
    t,used = first_columns(Table(dict(object_id=[7,8], ra=[nan,nan], dec=['','']), masked=True), lambda: ['f:0','f:1'])
    assert t.colnames == ['id','ra','dec'] and list(t['id']) == ['7','8'] and used == {'ra','dec'} and np.isnan(t['ra']).all()
    t,used = first_columns({}, lambda: ['f:0','f:1'])
    assert list(t['id']) == ['f:0','f:1'] and len(t['dec']) == 2 and used == set()

@pytest.mark.parametrize('name,one', [('X_IMAGE',True), ('XWIN_IMAGE',True), ('Y_IMAGE_DBL',True), ('XPSF_IMAGE',True), ('xcenter',True), ('Xpos',True), ('x',False), ('xcentroid',False), ('bx',False),
                                      ('base_SdssCentroid_x',False), ('x_world',False)])
def test_who_counts_pixels_from_one(name, one): assert counts_from_one(name) is one

def test_equal_keys_are_no_repeats(monkeypatch):
    "Two texts with one hash are compared as text"
    monkeypatch.setattr('astromask.data.columns._text_keys', lambda x: np.zeros(len(x), np.uint64))
    assert repeats(np.array(['a','b'])) == []
    assert repeats(np.array(['a','b','a'])) == ['a']
