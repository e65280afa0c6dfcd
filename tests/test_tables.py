"Tables of every kind that people have, with the right values: ids to the letter, positions to 1e-9 degrees"
import bz2, gzip, lzma, os, subprocess, sys, time, urllib.request, zipfile
import h5py, numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest
from datetime import date, datetime, timedelta
from decimal import Decimal
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from astropy.time import Time
from astromask.core import AstroMaskError, DataError, InputError
from astromask.data.cutouts import Cutouts
from astromask.data.tables import read_catalog, read_table

nan = np.nan
big = 1237648720693755918

def text(tmp_path, raw, name='t.csv'):
    (tmp_path/name).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return tmp_path/name

def is_at(t, ids, ra, dec):
    assert t.colnames[:3] == ['id','ra','dec'] and [str(o) for o in t['id']] == ids and str(t['ra'].unit) == str(t['dec'].unit) == 'deg'
    np.testing.assert_allclose(t['ra'], ra, rtol=0, atol=1e-9)
    np.testing.assert_allclose(t['dec'], dec, rtol=0, atol=1e-9)

# Text, as spreadsheets, archives and tools write it

rows = 'a,150.1,2.25\nb,150.2,-2.5\n'
dressed = dict(
    plain='id,ra,dec\n'+rows, bom=('id,ra,dec\n'+rows).encode('utf-8-sig'), utf16=('id,ra,dec\n'+rows).encode('utf-16'), utf16_be=b'\xfe\xff'+('id,ra,dec\n'+rows).encode('utf-16-be'),
    utf16_no_bom=('id,ra,dec,what\n'+rows.replace('\n', ',some words of this and that\n')).encode('utf-16-le'), crlf=('id,ra,dec\n'+rows).replace('\n', '\r\n'), cr=('id,ra,dec\n'+rows).replace('\n', '\r'),
    blank_lines='\n\nid,ra,dec\n\n'+rows.replace('\n', '\n\n'), no_last_end=('id,ra,dec\n'+rows).rstrip(), semicolons=('id;ra;dec\n'+rows.replace(',', ';')),
    decimal_commas='id;ra;dec\na;150,1;2,25\nb;150,2;-2,5\n', decimal_commas_of_three='id;ra;dec\na;150,100;2,250\nb;150,200;-2,500\n', quoted_decimal_commas='id,ra,dec\na,"150,1","2,25"\nb,"150,2","-2,5"\n',
    tabs=('id,ra,dec\n'+rows).replace(',', '\t'), bars=('id,ra,dec\n'+rows).replace(',', '|'), spaces='id ra dec\na 150.1 2.25\nb 150.2 -2.5\n', aligned='  id     ra    dec\n   a  150.1   2.25\n   b  150.2  -2.5 \n',
    padded='id , ra, dec\n a , 150.1, 2.25\nb, 150.2 ,-2.5\n', quoted='"id","ra","dec"\n"a","150.1","2.25"\n"b","150.2","-2.5"\n', hash='#id,ra,dec\n'+rows, hash_space='# id, ra, dec\n'+rows,
    comment='# made by me, today, with care\nid,ra,dec\n'+rows, comment_as_long='# id: mine, ra: theirs, dec: none\nid,ra,dec\n'+rows, comments_between='id,ra,dec\n# one\n'+rows.replace('\nb', '\n# two, three, four\nb')+'#end',
    casjobs='#Table1\nid,ra,dec\n'+rows, topcat='#  id ra    dec\n  "a" 150.1 2.25\n  b  150.2 -2.5\n', hash_words='# by me\n# id ra dec\n# and more words\na 150.1 2.25\nb 150.2 -2.5\n', excel='sep=;\nid;ra;dec\na;150,1;2,25\nb;150,2;-2,5\n',
    trailing='id,ra,dec\n'+rows.replace('\n', ',\n'), trailing_too='id,ra,dec,\n'+rows.replace('\n', ',\n'), pandas=',id,ra,dec\n0,'+rows.replace('\nb', '\n1,b'), upper='ID,RA,DEC\n'+rows,
    vizier='#\n#   VizieR\n#Column\tRAJ2000\t(A10)\n\nid\tRAJ2000\tDEJ2000\n \t"h:m:s"\t"d:m:s"\n---\t----------\t----------\na\t10 00 24.0\t+02 15 00\nb\t10 00 48.0\t-02 30 00\n', rdb='id\tra\tdec\n5S\t10N\t10N\na\t150.1\t2.25\nb\t150.2\t-2.5\n',
    ipac='\\fixlen = T\n|  id  |   ra    |   dec  |\n| char | double  | double |\n|      | deg     | deg    |\n| null | null    | null   |\n  a      150.1     2.25  \n  b      150.2    -2.5  \n',
    sextractor='#   1 NUMBER          Running object number\n#   2 ALPHA_J2000     Right ascension  [deg]\n#   3 DELTA_J2000     Declination      [deg]\na 150.1 +2.25\nb 150.2 -2.5\n',
    ecsv="# %ECSV 1.0\n# ---\n# delimiter: ','\n# datatype:\n# - {name: id, datatype: string}\n# - {name: ra, unit: deg, datatype: float64}\n# - {name: dec, unit: deg, datatype: float64}\n# schema: astropy-2.0\nid,ra,dec\n"+rows,
    mrt='Title: x\nAuthors: y\nTable: z\n'+'='*80+'\nByte-by-byte Description of file: a.txt\n'+'-'*80+'\n   Bytes Format Units  Label     Explanations\n'+'-'*80+'\n   1-  5 A5     ---    ID      name\n   7- 12 F6.2   deg    RAdeg     ra\n  14- 19 F6.2   deg    DEdeg     dec\n'+'-'*80+
        '\nNote (1): x\n'+'-'*80+'\na     150.10  +2.25\nb     150.20  -2.50\n',
    sexagesimal='id,ra,dec\na,10:00:24.0,+02:15:00\nb,10:00:48.0,-02:30:00\n', hms='id,ra,dec\na,10h00m24.0s,+02d15m00s\nb,10h00m48.0s,-02d30m00s\n', fortran='id,ra,dec\na,1.501D+02,2.25D0\nb,1.502D2,-2.5d0\n')

@pytest.mark.parametrize('how', dressed)
def test_text_in_every_dress(tmp_path, how): is_at(read_catalog(text(tmp_path, dressed[how])), ['a','b'], [150.1,150.2], [2.25,-2.5])

@pytest.mark.parametrize('end,pack', [('gz',gzip.compress), ('bz2',bz2.compress), ('xz',lzma.compress), ('CSV',lambda x: x)])
def test_packed_text(tmp_path, end, pack): is_at(read_catalog(text(tmp_path, pack(dressed['plain'].encode()), f'my.t.{end}')), ['a','b'], [150.1,150.2], [2.25,-2.5])

@pytest.mark.parametrize('ids', [['0001234','0001235'], ['12E3','15E4'], ['1.10','1.20'], ['1.0','2.0'], ['+5','-5'], ['0x1F','1e5'], ['18446744073709551616','7'], [str(2**63+5),'1'], ['NGC 1','a,b'], ['TRUE','inf'], ['ä','β']])
@pytest.mark.parametrize('name', ['id','TARGETID','objid'])
def test_ids_of_text_are_as_written(tmp_path, ids, name):
    for q in ('"{}"','{}') if ',' not in ids[1] else ('"{}"',):
        t = read_catalog(text(tmp_path, f'{name},ra,dec\n' + ''.join(f'{q.format(k)},{i},2\n' for i,k in enumerate(ids))))
        assert [str(o) for o in t['id']] == ids

@pytest.mark.parametrize('word', ['null','NULL','N/A','n/a','\\N','None','nan','NaN','','--','<NA>','INDEF',' '])
def test_missing_words_of_text(tmp_path, word):
    t = read_catalog(text(tmp_path, f'id,ra,dec,z,n,kind,ok\na,1,2,0.5,{big},STAR,True\n{word},{word},{word},{word},{word},{word},{word}\n'))
    is_at(t, ['a','t:1'], [1,nan], [2,nan])
    assert t['z'].dtype == float and np.isnan(t['z'][1]) and t['n'].dtype == np.int64 and t['n'][0] == big and t['n'].mask[1]
    assert list(t['kind']) == ['STAR',''] and t['ok'].dtype == bool and t['ok'].mask[1]

def test_what_columns_of_text_become(tmp_path):
    t = read_table(text(tmp_path, 'whole,u,huge,zeros,f,sci,mixed,true,yes,day,pct,bad\n-5,18446744073709551615,184467440737095516150,007,1.5,1E3,1237648720693755918,TRUE,Y,2020-01-02,5%,***\n'
                                  '7,1,2,010,2,2,1.24E+18,false,N,2020-01-03,6%,22.5\n'))
    assert [t[k].dtype.kind for k in t.colnames] == list('iuUUffUbUUUU')
    assert t['u'][0] == 2**64-1 and list(t['huge']) == ['184467440737095516150','2'] and list(t['zeros']) == ['007','010'] and t['mixed'][0] == str(big) and list(t['sci']) == [1000,2]

def test_thousands_are_not_taken_for_decimals(tmp_path):
    t = read_table(text(tmp_path, 'id,n,x,m\na,"1,234","1,23",1.5\nb,"12,345","1,5",2\n'))
    assert list(t['n']) == ['1,234','12,345'] and list(t['x']) == [1.23,1.5]
    assert list(read_table(text(tmp_path, 'id\tn\tm\na\t1,234\t1.5\n'))['n']) == ['1,234']
    assert list(read_table(text(tmp_path, 'id\tn\tm\na\t1,234\t1,5\n'))['n']) == [1.234]

@pytest.mark.parametrize('raw,why', [
    ('id,ra,dec\na,1,2\nb,1,2,3\n', 'has 4 values in line 3, but 3 columns'), ('# c\nid,ra,dec\n\n"a\nb",1,2\nc,1\n', 'has 2 values in line 6, but 3'), ('id,ra,dec\n', 'has no rows'), ('# only\n# words\n', 'has no rows'), ('\n \n', 'no rows'),
    ('1,2,3\n4,5,6\n', 'no line with the names of its columns'), ('a,b\n1,2\n', "no column 'ra': name the one that holds ra among a, b"), ('ra,x\n1,2\n', "no column 'dec'"), ('ra,dec\n1,2\nx,3\n', "'x' in row 1, which is no angle"),
    ('ra,dec\n1,91\n', 'Row 0 of .*t.csv has dec = 91'), (b'', r'empty \(0 bytes\)'), (b'\x80\x04K\x01.', 'pickle'), ('{"a": 1}', 'JSON'), ('<!DOCTYPE html><html>', 'HTML'), (b'\x89PNG\r\n\x1a\n' + b'\0'*99, 'PNG'), (b'id,ra\0,dec\n1,2,3\n', 'no text'),
    ('x'*2_000_000, 'first line has more than a million letters'), ('id,ra,dec\n' + 'y'*200_000 + ',1,2\n', 'cannot be read as a table')])
def test_what_is_no_table_is_refused_in_a_true_sentence(tmp_path, raw, why):
    path = text(tmp_path, raw)
    with pytest.raises(InputError, match=why) as e: read_catalog(path)
    assert 't.csv' in str(e.value) and '\n' not in str(e.value)

def test_an_excel_workbook_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path/'t.xlsx', 'w') as z: z.writestr('xl/workbook.xml', '<x/>')
    with pytest.raises(DataError, match='Excel workbook: save its sheet as CSV'): read_table(tmp_path/'t.xlsx')

def test_names_that_come_twice(tmp_path, caplog):
    with caplog.at_level('WARNING', 'astromask'): t = read_catalog(text(tmp_path, 'id,ra,dec,ra,mask,a/b,Ra\na,1,2,3,4,5,6\n'))
    is_at(t, ['a'], [1], [2])
    assert t.colnames[3:] == ['ra_2','catalog_mask','a_b','Ra'] and 'several columns called ra' in caplog.text

def test_latin_1(tmp_path): assert list(read_table(text(tmp_path, 'id,name\n1,Möbius\n'.encode('latin-1')))['name']) == ['Möbius']

def test_units_of_headers(tmp_path):
    is_at(read_catalog(text(tmp_path, 'id,RA (hours),Dec [deg]\na,10.00666666666667,2\n')), ['a'], [150.1], [2])

def test_gaia_writes_null_in_ecsv(tmp_path):
    head = '# %ECSV 1.0\n# ---\n# delimiter: \',\'\n# datatype:\n' + ''.join(f'# - {{name: {k}, datatype: {d}}}\n' for k,d in dict(source_id='int64', ra='float64', dec='float64', parallax='float64', n='int16', lib='string').items())
    t = read_catalog(text(tmp_path, head + f'source_id,ra,dec,parallax,n,lib\n{2**62+1},44.99,0.005,null,null,"null"\n5,45.,0.02,0.359,5,"MARCS"\n'))
    is_at(t, [str(2**62+1),'5'], [44.99,45], [.005,.02])
    assert np.isnan(t['parallax'][0]) and list(t['n'].mask) == [True,False] and list(t['lib']) == ['','MARCS'] and t['source_id'][0] == 2**62+1

# Parquet

def parquet(tmp_path, name='t.parquet', **columns):
    pq.write_table(pa.table(columns), tmp_path/name)
    return tmp_path/name

def test_parquet_types(tmp_path, caplog):
    with caplog.at_level('WARNING', 'astromask'):
        t = read_catalog(parquet(tmp_path, id=pa.array([big,big+1,None], pa.int64()), targetid=pa.array([big,None,big+2], pa.int64()), ra=pa.array([1.,2,None]), dec=[1.,2,3], u=pa.array([2**64-1,None,1], pa.uint64()),
            kind=pa.array(['STAR','GALAXY',None]).dictionary_encode(), code=pa.array([5,None,6]).dictionary_encode(), dec20=pa.array([Decimal('12376487206937559181'),None,Decimal(1)], pa.decimal128(20,0)), dec_f=[Decimal('1.50'),None,Decimal('2.25')],
            day=pa.array([date(2020,1,2)]*3), at=pa.array([datetime(2020,1,2,3,4,5),None,None]), ok=pa.array([True,None,False]), no=pa.nulls(3), big=pa.array(['x ','null',None], pa.large_string()), raw=pa.array([b'x',b'y ',None]), h=pa.array(np.array([1,2,3], 'f2')),
            vec=pa.array([[1.,2],[3,4],[5,6]], pa.list_(pa.float32(), 2)), same=pa.array([[1,2],[3,4],[5,6]]), nested=pa.array([{'a':1}]*3), ragged=pa.array([[1],[1,2],None]), took=pa.array([timedelta(1)]*3)))
    is_at(t, [str(big),str(big+1),'t:2'], [1,2,nan], [1,2,3])
    assert t['targetid'].dtype == np.int64 and t['targetid'][2] == big+2 and list(t['targetid'].mask) == [False,True,False]
    assert t['u'].dtype == np.uint64 and t['u'][0] == 2**64-1 and list(t['kind']) == ['STAR','GALAXY',''] and t['code'].dtype == np.int64 and t['code'].mask[1] and t['dec20'][0] == 12376487206937559181
    assert t['dec_f'][0] == 1.5 and list(t['day']) == ['2020-01-02']*3 and list(t['at']) == ['2020-01-02T03:04:05','',''] and t['ok'].dtype == bool and t['ok'].mask[1] and np.isnan(t['no']).all()
    assert list(t['big']) == ['x','',''] and list(t['raw']) == ['x','y',''] and t['h'].dtype == np.float16 and t['vec'].shape == (3,2) and t['vec'].dtype == np.float32 and t['same'][2].tolist() == [5,6]
    assert len(caplog.messages) == 1 and not {'nested','ragged','took'} & set(t.colnames) and all(k in caplog.text for k in ('nested','ragged','took'))

def test_parquet_units_and_folders_named_like_columns(tmp_path):
    (tmp_path/'ra=5').mkdir()
    t = Table(dict(ra=[.5,1.], dec=[.1,-.2]), units=dict(ra='rad', dec='rad'))
    t.write(tmp_path/'ra=5/t.parquet')
    is_at(read_catalog(tmp_path/'ra=5/t.parquet'), ['t:0','t:1'], np.degrees([.5,1]), np.degrees([.1,-.2]))

def test_parquet_of_text(tmp_path): is_at(read_catalog(parquet(tmp_path, id=['001','002'], ra=['150.1','N/A'], dec=['+02 15 00','null'])), ['001','002'], [150.1,nan], [2.25,nan])

def test_float_ids_are_said(tmp_path, caplog):
    with caplog.at_level('WARNING', 'astromask'):
        assert list(read_catalog(parquet(tmp_path, id=[12.,None], ra=[1.,2], dec=[1.,2]))['id']) == ['12','t:1'] and not caplog.messages
        assert list(read_catalog(parquet(tmp_path, id=[1.2e18,1.3e18], ra=[1.,2], dec=[1.,2]))['id']) == ['1200000000000000000','1300000000000000000']
    assert 'have lost digits' in caplog.text

# FITS

def binary(tmp_path, *columns, name='t.fits', **k):
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, **k)]).writeto(tmp_path/name)
    return tmp_path/name

C = fits.Column
def test_fits_types(tmp_path, caplog):
    path = binary(tmp_path, C('ID', '20A', array=['ab  ','cd']), C('RA', 'D', unit='hourangle', array=[10.,20]), C('DEC', 'E', array=[1,-2]), C('N', 'K', array=[big,-99], null=-99), C('U', 'K', bzero=2**63, array=np.array([2**64-1,2], 'u8')),
                  C('L', 'L', array=[True,False]), C('S', 'I', array=[5,-1], null=-1), C('vec', '3E', array=np.ones((2,3))), C('words', '10A', array=np.array([['a','b'],['c','d']], 'S5'), dim='(5,2)'), C('cls', '6A', array=['N/A','QSO']),
                  C('V', 'PD()', array=np.array([np.array([1.]),np.array([1.,2])], object)), C('M', 'M', array=[1j,2]))
    with caplog.at_level('WARNING', 'astromask'): t = read_catalog(path)
    is_at(t, ['ab','cd'], [150,300], [1,-2])
    assert t['N'].dtype == np.int64 and t['N'][0] == big and t['N'].mask[1] and t['U'].dtype == np.uint64 and t['U'][0] == 2**64-1 and list(t['L']) == [True,False] and t['S'].dtype == np.int16 and list(t['S'].mask) == [False,True]
    assert t['vec'].shape == (2,3) and t['words'].tolist() == [['a','b'],['c','d']] and list(t['cls']) == ['','QSO'] and not {'V','M'} & set(t.colnames) and 'V (lists' in caplog.text and 'M (complex' in caplog.text

def test_fits_text_ends_at_nul(tmp_path): assert list(read_table(binary(tmp_path, C('ID', '8A', array=np.array([b'ab\0\0xyz',b'q'], 'S8'))))['ID']) == ['ab','q']

def test_fits_truths_that_are_none(tmp_path):
    path = binary(tmp_path, C('ok', 'L', array=[True,False,True]))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'TFT', b'TF\0'))
    assert list(read_table(path)['ok'].mask) == [False,False,True]

def test_fits_tables_of_ascii(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), fits.TableHDU.from_columns([C('ID','A5',array=['a','b']), C('RA','F10.4',array=[1.5,2]), C('DEC','F10.4',array=[1.,-2]), C('K','I5',array=[1,-9],null='-9')])]).writeto(tmp_path/'t.fits')
    t = read_catalog(tmp_path/'t.fits')
    is_at(t, ['a','b'], [1.5,2], [1,-2])
    assert t['K'][0] == 1 and t['K'].mask[1]

@pytest.mark.parametrize('name,pack', [('t.fits.gz',gzip.compress), ('T.FIT',lambda x: x), ('t.fits.bz2',bz2.compress)])
def test_the_table_with_positions_is_read_and_the_others_named(tmp_path, caplog, name, pack):
    tables = [fits.BinTableHDU.from_columns([C(k,'D',array=[1.,2]) for k in ks], name=n) for n,ks in (('INFO',('x','y')), ('CAT',('RA','DEC')))]
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((3,3))), *tables]).writeto(tmp_path/'x.fits')
    (tmp_path/name).write_bytes(pack((tmp_path/'x.fits').read_bytes()))
    with caplog.at_level('WARNING', 'astromask'): is_at(read_catalog(tmp_path/name), [f'{name.split(".")[0]}:{i}' for i in range(2)], [1,2], [1,2])
    assert 'holds 2 tables (HDU 2 INFO, HDU 3 CAT): HDU 3 CAT is read' in caplog.text

def test_images_are_no_tables(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(np.ones((30,30), 'f4'))]).writeto(tmp_path/'c.fits')
    with pytest.raises(DataError, match='holds no table with rows: it has HDU 0 Primary, HDU 1 CompImage'): read_table(tmp_path/'c.fits')

# VOTable

def votable(inside): return f'<?xml version="1.0"?>\n<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE>{inside}</RESOURCE></VOTABLE>'
def vot(fields, cells, name='t'): return votable(f'<TABLE name="{name}">{fields}<DATA><TABLEDATA>' + ''.join('<TR>' + ''.join(f'<TD>{o}</TD>' for o in row) + '</TR>' for row in cells) + '</TABLEDATA></DATA></TABLE>')
sky = '<FIELD name="RA_ICRS" datatype="double" unit="deg"/><FIELD name="DE_ICRS" datatype="double" unit="deg"/>'

def test_votable_types(tmp_path):
    fields = sky + ('<FIELD ID="col1" name="Source" datatype="long"><VALUES null="-99"/></FIELD><FIELD name="n" datatype="int"><VALUES null="-1"/></FIELD><FIELD name="s" datatype="unicodeChar" arraysize="*"/>'
                    '<FIELD name="b" datatype="boolean"/><FIELD name="v" datatype="float" arraysize="2"/>')
    t = read_catalog(text(tmp_path, vot(fields, [(1,2,2**62+1,-1,' ä ','T','1 2'),('NaN','',-99,5,'','','')]), 't.xml'))
    is_at(t, [str(2**62+1) if 'Source' in () else 't:0','t:1'], [1,nan], [2,nan])
    assert t['Source'][0] == 2**62+1 and t['Source'].mask[1] and list(t['n'].mask) == [True,False] and list(t['s']) == ['ä',''] and t['b'].mask[1] and t['v'].shape == (2,2)

@pytest.mark.parametrize('kind', ['binary','binary2','tabledata'])
def test_votable_encodings(tmp_path, kind):
    Table(dict(id=[big,2], ra=[1.,2], dec=[3.,4])).write(tmp_path/'t.vot', format='votable', tabledata_format=kind)
    is_at(read_catalog(tmp_path/'t.vot'), [str(big),'2'], [1,2], [3,4])

def test_degrees_go_before_sexagesimal_text(tmp_path):
    s = '<FIELD name="RAJ2000" datatype="char" arraysize="10*" unit="&quot;h:m:s&quot;"/><FIELD name="DEJ2000" datatype="char" arraysize="10*" unit="&quot;d:m:s&quot;"/>'
    d = '<FIELD name="_RAJ2000" datatype="double" unit="deg"/><FIELD name="_DEJ2000" datatype="double" unit="deg"/>'
    is_at(read_catalog(text(tmp_path, vot(s+d, [('10 00 24.0','+02 12 00',150.5,2.5)]))), ['t:0'], [150.5], [2.5])
    is_at(read_catalog(text(tmp_path, vot(s, [('10 00 24.0','-00 12 00')]))), ['t:0'], [150.1], [-.2])

def test_what_a_server_says(tmp_path, caplog):
    with pytest.raises(DataError, match="it says 'no such column: rra'"): read_table(text(tmp_path, votable('<INFO name="QUERY_STATUS" value="ERROR">no such column: rra</INFO>')))
    with caplog.at_level('WARNING', 'astromask'): read_table(text(tmp_path, votable(vot(sky, [(1,2)]).split('<RESOURCE>')[1].split('</RESOURCE>')[0] + '<INFO name="QUERY_STATUS" value="OVERFLOW"/>')))
    assert 'cut it off' in caplog.text

stream = '<TABLE><FIELD name="ra" datatype="double"/><DATA><{0}><{1}STREAM a="&gt;"\n {2} = "{3}"/></{0}></DATA></TABLE>'
elsewhere = [votable(stream.format(a, b, c, d)) for a,b,c,d in (('BINARY','','href','http://127.0.0.1:9/x'), ('BINARY2','','HREF','file:///etc/passwd'), ('FITS','','href','/etc/passwd'), ('BINARY','vot:','href','ftp://x/y'))]
elsewhere += ['<?xml version="1.0"?><!DOCTYPE v [<!ENTITY a SYSTEM "file:///etc/passwd">]><VOTABLE>&a;</VOTABLE>', '<?xml version="1.0"?><!DOCTYPE v [<!ENTITY a "aa"><!ENTITY b "&a;&a;&a;">]><VOTABLE>&b;</VOTABLE>',
              '<?xml version="1.0"?><!DOCTYPE v [<!ATTLIST STREAM href CDATA "http://x/y">]>' + votable(stream.format('BINARY','','x','y'))[21:]]

@pytest.mark.parametrize('raw', elsewhere)
def test_nothing_outside_the_file_is_opened(tmp_path, raw, monkeypatch):
    opened = []
    monkeypatch.setattr(urllib.request, 'urlopen', lambda *a, **k: opened.append(a))
    monkeypatch.setattr('socket.socket.connect', lambda *a: opened.append(a))
    with pytest.raises(DataError, match='nothing outside the file is read'): read_table(text(tmp_path, raw, 't.vot'))
    assert not opened

@pytest.mark.parametrize('raw', [votable('').replace('"1.0"?', '"1.0" encoding="cp037"?'), ('\ufeff'+votable('').replace('"1.0"?', '"1.0" encoding="utf-16"?')).encode('utf-16-le')])
def test_letters_that_hide_are_refused(tmp_path, raw):
    with pytest.raises(DataError, match='write it again in UTF-8'): read_table(text(tmp_path, raw, 't.vot'))

# HDF5

def hdf5(tmp_path, write):
    with h5py.File(tmp_path/'t.h5', 'w') as f: write(f)
    return tmp_path/'t.h5'

def put(g, **k):
    for name,x in k.items(): g[name] = x
data = dict(id=np.array([big,7]), ra=[1.,2.], dec=[3.,4.])
def compound(f):
    f['cat'] = np.array([(big,1.,3.,b'x '),(7,2.,4.,b'null')], dtype=[('id','i8'),('ra','f8'),('dec','f8'),('cls','S5')])

@pytest.mark.parametrize('write', [lambda f: put(f, **data), lambda f: put(f.create_group('photometry'), **data), lambda f: put(f.create_group('a/b'), **data, images=np.ones((2,3,4,4))), compound,
                                   lambda f: [put(f.create_group(f'table/columns/{k}'), data=x) for k,x in data.items()]], ids=['root','group','deep','compound','vaex'])
def test_hdf5_tables(tmp_path, write): is_at(read_catalog(hdf5(tmp_path, write)), [str(big),'7'], [1,2], [3,4])

def test_hdf5_of_astropy_keeps_units(tmp_path):
    Table(dict(id=['a','b'], ra=[.5,1.]*u.rad, dec=[.1,.2]*u.rad)).write(tmp_path/'t.h5', path='data', serialize_meta=True)
    is_at(read_catalog(tmp_path/'t.h5'), ['a','b'], np.degrees([.5,1]), np.degrees([.1,.2]))

def test_hdf5_that_is_refused(tmp_path):
    def pandas(f): f.create_group('df').attrs['pandas_type'] = b'frame'
    with pytest.raises(DataError, match='pandas'): read_table(hdf5(tmp_path, pandas))
    with pytest.raises(DataError, match='holds no table'): read_table(hdf5(tmp_path, lambda f: None))
    np.arange(2.).tofile(tmp_path/'out.bin')
    with pytest.raises(DataError, match='in other files'): read_table(hdf5(tmp_path, lambda f: f.create_dataset('ra', (2,), 'f8', external=[(str(tmp_path/'out.bin'),0,16)])))
    def links(f): f['ra'],f['dec'],f['id'] = h5py.SoftLink('/id'),h5py.ExternalLink('other.h5', '/x'),[1,2]
    with pytest.raises(InputError, match="no column 'ra': name the one that holds ra among id"): read_catalog(hdf5(tmp_path, links))

# Tables in memory, and mixtures

def test_tables_of_astropy(tmp_path):
    t = QTable(dict(id=[1,2], where=SkyCoord([10,20], [1,2], unit='deg'), at=Time(['2020-01-01','2021-01-01']), d=[1,2]*u.Mpc, m=MaskedColumn([1,2], mask=[0,1])))
    t.write(tmp_path/'t.ecsv')
    for c in (read_catalog(t), read_catalog(tmp_path/'t.ecsv')):
        is_at(c, ['1','2'], [10,20], [1,2])
        assert c['at'][0] == '2020-01-01T00:00:00.000' and str(c['d'].unit) == 'Mpc' and c['m'].mask[1]
    is_at(read_catalog(read_table(tmp_path/'t.ecsv')), ['1','2'], [10,20], [1,2])

def test_positions_are_asked_for_or_not(tmp_path):
    path = text(tmp_path, 'id,x,mag_g\na,1,22\n')
    with pytest.raises(InputError, match="no column 'ra'"): read_catalog(path)
    c = read_catalog(path, sky=False)
    assert c.colnames == ['id','ra','dec','catalog_x','mag_g'] and np.isnan(c['ra']).all()
    is_at(read_catalog(text(tmp_path, 'id,A,B\nq,1,2\n'), ra='a', dec='B'), ['q'], [1], [2])
    with pytest.raises(InputError, match="no column 'zz'"): read_catalog(path, ra='zz')

def test_ids_lost_in_a_spreadsheet(tmp_path, caplog):
    with caplog.at_level('WARNING', 'astromask'): t = read_catalog(text(tmp_path, 'objid,ra,dec\n1.24E+18,1,2\n1.24E+18,2,2\n'))
    assert list(t['id']) == ['t:0','t:1'] and list(t['objid']) == ['1.24E+18']*2 and "'objid' have lost digits, as in 1.24E+18" in caplog.text

def test_repeated_ids_are_said(tmp_path, caplog):
    with caplog.at_level('WARNING', 'astromask'): assert list(read_catalog(text(tmp_path, 'id,ra,dec\na,1,2\na,2,2\n'))['id']) == ['a','a']
    assert "1 of 2 rows" in caplog.text and "such as 'a'" in caplog.text

# What is no file

@pytest.mark.parametrize('path,why', [('/dev/zero','a device'), ('/dev/null','a device'), ('pipe','a pipe'), ('nothing.csv','No such file'), ('.','is a folder')])
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch, path, why):
    monkeypatch.chdir(tmp_path)
    os.mkfifo('pipe')
    with pytest.raises(DataError, match=why): read_catalog(path)

# The columns of cutout files

def test_catalogues_of_cutouts(tmp_path):
    x = np.zeros((3,1,4,4), 'f4')
    def write(**columns):
        with h5py.File(tmp_path/'c.h5', 'w') as f:
            f['cutouts'],f.attrs['bands'] = x,['r']
            for k,v in columns.items(): f[k] = v
        return Cutouts.open(tmp_path/'c.h5').catalog
    t = write(object_id=np.array([1.2e18,5,np.nan]), ra=np.full(3, nan), dec=np.full(3, nan), RAJ2000=[1.,2,3], DEJ2000=[1.,2,91], u=np.array([2**64-1,0,1], 'u8'), n=np.array([big,1,2]), cls=np.array([b'STAR  ',b'null',b'x']), z=np.array([b'0.5',b'N/A',b'1']))
    is_at(t, ['1200000000000000000','5','c:2'], [1,2,3], [1,2,nan])
    assert t['u'][0] == 2**64-1 and t['n'][0] == big and list(t['cls']) == ['STAR','','x'] and list(t['z']) == ['0.5','','1']
    is_at(write(id=np.array([b' 007 ',b'',b'x\0\0']), ra=np.array([b'10:00:24',b'',b'1.5']), dec=np.array([b'-00:12:00',b'null',b'2'])), ['007','c:1','x'], [150.1,nan,1.5], [-.2,nan,2])

# Speed

def test_a_long_text_is_read_fast(tmp_path):
    "A hundred thousand rows take less than a third of what astropy's fast reader, with its guesses, may take on a slow day"
    n,rng = 100_000,np.random.default_rng(0)
    path = text(tmp_path, 'id,ra,dec,kind,' + ','.join(f'm{i}' for i in range(8)) + '\n' + ''.join(f'{big+i},{i/300:.6f},{i/2000:.6f},STAR,' + '22.5123,null,'*4 + '\n' for i in range(n)).replace(',\n', '\n'))
    t = time.process_time()
    c = read_catalog(path)
    assert time.process_time()-t < 10 and len(c) == n and c['id'][-1] == str(big+n-1) and np.isnan(c['m1']).all() and c['m0'].dtype == float

# Files that claim more than there is

def test_bombs_are_refused(tmp_path):
    with pytest.raises(DataError, match='300 times its size'): read_table(text(tmp_path, gzip.compress(b'id,ra,dec\n' + b'1,2,3\n'*12_000_000, 9), 't.csv.gz'))
    with pytest.raises(DataError, match='claims 74.5 GiB'): read_table(hdf5(tmp_path, lambda f: f.create_dataset('ra', (10**10,), 'f8', chunks=(10**6,))))
    for odd in (vot(sky, [(1,2)]).replace('<TABLE ', '<TABLE nrows="300000000" '), vot(sky + '<FIELD name="x" datatype="bit" arraysize="99999x9999"/>', [(1,2,1)])):
        with pytest.raises(DataError, match='but has only'): read_table(text(tmp_path, odd, 't.vot'))

def test_one_long_cell_never_costs_the_table(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr('astromask.data.columns._most', 1<<20)
    with caplog.at_level('WARNING', 'astromask'): t = read_catalog(parquet(tmp_path, id=['a','b'], ra=[1.,2], dec=[1.,2], words=['x'*1_000_000,'y']))
    is_at(t, ['a','b'], [1,2], [1,2])
    assert 'words (text of up to 1000000 characters)' in caplog.text
