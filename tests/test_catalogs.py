"Cross-matching against all pairs, files merged and divided without a changed byte"
import h5py, numpy as np, pytest
from astropy.table import MaskedColumn, Table
from click.testing import CliRunner
from astromask.cli import main
from astromask.core import InputError
from astromask.files import file_digest
from astromask.data.catalogs import cross_match, match_sky, merge, partition, write_rows
from astromask.data.cutouts import Cutouts

def apart(ra, dec, ra2, dec2):
    "Separations of all pairs in arcsec, by the haversine formula"
    ra,dec,ra2,dec2 = (np.radians(o) for o in (ra,dec,ra2,dec2))
    h = np.sin((dec[:,None]-dec2)/2)**2+np.cos(dec[:,None])*np.cos(dec2)*np.sin((ra[:,None]-ra2)/2)**2
    return np.degrees(2*np.arcsin(np.sqrt(h)))*3600

@pytest.mark.parametrize('pole', (0., 89.9, -45.))
def test_matches_against_all_pairs(pole):
    rng = np.random.default_rng(int(pole)%7)
    ra,ra2 = (rng.uniform(-1, 1, n)*20/3600/np.cos(np.radians(pole))%360 for n in (200,150))
    dec,dec2 = (pole+rng.uniform(-1, 1, n)*20/3600 for n in (200,150))
    d = apart(ra, dec, ra2, dec2)
    t,other = Table(dict(ra=ra, dec=dec)),Table(dict(ra=ra2, dec=dec2))
    match,separation = match_sky(t, other, once=False)
    expected = np.where(d.min(1) <= 1, d.argmin(1), -1)
    assert (match == expected).all() and np.allclose(separation[match >= 0], d.min(1)[match >= 0], atol=1e-6)
    once,_ = match_sky(t, other)
    used = once[once >= 0]
    assert len(set(used)) == len(used) == len(set(expected[expected >= 0]))
    for k in used: assert d[once == k,k] == d[expected == k,k].min()          # the closest one keeps it

def test_cross_match_fills_and_keeps():
    t = Table(dict(ra=[1.,2,3,np.nan], dec=[0.,0,0,0], z=MaskedColumn([.5,9,9,9], mask=[False,True,True,True])))
    other = Table(dict(ra=[1.,2,2.1], dec=[0.,0,0], z=[.7,.8,.9], kind=['a','b','c'], error=[1.,np.nan,2]))
    out = cross_match(t, other, ['z','kind','error'])
    assert out['z'].filled(-1).tolist() == [.5,.8,-1,-1] and out['kind'].filled('').tolist() == ['a','b','','']
    assert out['error'].mask.tolist() == [False,True,True,True]
    assert out.meta['cross_match']['matched'] == 2 and out.meta['cross_match']['filled'] == dict(z=1, kind=2, error=1)
    assert 'kind' not in t.colnames
    with pytest.raises(InputError, match='more than 0'): match_sky(t, other, within=0)
    with pytest.raises(InputError, match='more than one value'): cross_match(t, Table(dict(ra=[1.], dec=[0.], p=[[1,2]])), 'p')

def test_what_cannot_be_filled_in_is_refused():
    t = Table(dict(ra=[1.,2.], dec=[0.,0.], kind=['a','b']))
    with pytest.raises(InputError, match="no column 'zz'"): cross_match(t, t, 'zz')
    with pytest.raises(InputError, match='no columns ra and dec'): cross_match(t, t['kind',], 'kind')
    with pytest.raises(InputError, match='rename one'): cross_match(t, Table(dict(ra=[1.], dec=[2.], kind=[3])), 'kind')
    assert match_sky(t, t[:0])[0].max() == -1

def test_matches_in_radians_and_what_was_found_before_is_kept():
    t = Table(dict(ra=[10.,20,0,0], dec=[1.,2,0,0], separation=[5.,6,7,8]))
    other = Table(dict(RA=np.radians([20.,10]), DEC=np.radians([2.,1]), z=[.2,.1]), units=dict(RA='rad', DEC='rad'))
    out = cross_match(t, other, 'z')
    assert out['z'].filled(-1).tolist() == [.1,.2,-1,-1] and out['separation'].tolist() == [5,6,7,8]
    assert out['separation_2'].mask.tolist() == [False,False,True,True] and out['separation_2'][:2].max() < 1e-6
    match,separation = match_sky(Table(dict(ra=['00:40:00'], dec=['1:00:00'])), other)      # h:m:s and d:m:s
    assert match.tolist() == [1] and separation[0] < 1e-6
    with pytest.raises(InputError, match='no angle'): match_sky(Table(dict(ra=['ten'], dec=['1:00:00'])), other)

def test_joined_by_ids(caplog):
    big = 1237648720693755918
    t = Table(dict(id=[str(big),f'{big+1}','7','',' x '], ra=[0.]*5, dec=[0.]*5))
    other = Table(dict(OBJID=[big+1,7,big,7], zspec=[.1,.2,.3,.9], kind=['null','a','b','c']))
    out = cross_match(t, other, ['ZSPEC','kind'], on=('id','objid'))
    assert out['zspec'].filled(-1).tolist() == [.3,.1,.2,-1,-1] and out['kind'].filled('').tolist() == ['b','','a','','']
    assert out.meta['cross_match'] == dict(objects=5, matched=3, filled=dict(zspec=3, kind=2)) and 'separation' not in out.colnames
    assert "repeat an id, such as '7': the first row of each counts" in caplog.text
    with pytest.raises(InputError, match="no column 'name'; it has OBJID"): cross_match(t, other, 'kind', on=('id','name'))

def test_what_says_nothing_is_filled():
    t = Table(dict(ra=[1.,2,3,4], dec=[0.]*4, redshift=[99.,-1,.3,9999], SPECTYPE=['None','STAR','nan','']))
    out = cross_match(t, Table(dict(ra=[1.,2,3,4], dec=[0.]*4, redshift=[.1,.2,.9,-99], SPECTYPE=['QSO','GALAXY','GALAXY','N/A'])), ['redshift','SPECTYPE'])
    assert out['redshift'][:3].tolist() == [.1,.2,.3] and out['SPECTYPE'][:3].tolist() == ['QSO','STAR','GALAXY'] and out['redshift'].mask.tolist() == [False]*3+[True]

def test_merge_and_partition(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600,2,12,12)).astype(np.float32)
    ivar = rng.uniform(1, 2, x.shape).astype(np.float32)
    x[5,0,0,0],ivar[5,0,0,0] = np.nan,0
    t = Table(dict(id=[f'a{i}' for i in range(600)], ra=rng.uniform(0, 9, 600), z=MaskedColumn(np.arange(600), mask=np.arange(600)%3 == 0)))
    whole = Cutouts.write(tmp_path/'whole.h5', x, bands='gr', catalog=t, ivar=ivar, survey='hsc', unit='nJy')
    pieces = partition(whole, tmp_path/'p', size=250)
    back = Cutouts.open(merge(pieces, tmp_path/'back.h5'))
    np.testing.assert_array_equal(back[:], x)
    np.testing.assert_array_equal(back.ivar(slice(None)), ivar)
    assert back.catalog['id'].tolist() == t['id'].tolist() and (back.catalog['z'].mask == t['z'].mask).all()
    assert (back.bands,back.unit,back.survey) == (('g','r'),'nJy','hsc')
    again = merge(partition(back, tmp_path/'q', size=77), tmp_path/'again.h5')
    assert file_digest(again) == file_digest(tmp_path/'back.h5')
    some = Cutouts.open(write_rows(tmp_path/'some.h5', back, [9,3,5]))
    np.testing.assert_array_equal(some[:], x[[9,3,5]])
    assert some.catalog['id'].tolist() == ['a9','a3','a5']
    with pytest.raises(InputError, match='exists'): merge(pieces, tmp_path/'back.h5')
    with pytest.raises(InputError, match='one object or more'): partition(whole, tmp_path/'r', size=0)

def test_rows_that_are_not_there_make_no_file(tmp_path):
    a,b = (Cutouts.write(tmp_path/f'{k}.h5', np.ones((20,1,8,8), 'f4'), bands='r') for k in 'ab')
    c = Cutouts.open([a,b])
    partition(c, tmp_path/'pieces', size=16)
    more = tmp_path/'more'
    for words,ask in (('one of the files', lambda: merge([a,b], b)), ('exists', lambda: partition(c, tmp_path/'pieces', size=16)),
                      ('either size', lambda: partition(c, more)), ('leave it out', lambda: partition(c, more, parts=dict(train=[1,2], test=[]))),
                      ("Row 99 of the part 'a'", lambda: partition(c, more, parts=dict(a=[99]))), ('whole numbers', lambda: partition(c, more, parts=dict(a=['x']))),
                      ('No rows', lambda: write_rows(tmp_path/'none.h5', c, []))):
        with pytest.raises(InputError, match=words): ask()
    assert not more.exists() and not (tmp_path/'none.h5').exists()

def test_merge_of_files_with_other_columns_and_half_precision(tmp_path):
    x = np.random.default_rng(0).normal(size=(20,1,8,8)).astype(np.float16)
    a = Cutouts.write(tmp_path/'a.h5', x[:10], bands='r', dtype='float16', catalog=dict(z=np.arange(10.)))
    b = Cutouts.write(tmp_path/'b.h5', x[10:], bands='r', dtype='float16', catalog=dict(name=['x']*10))
    c = Cutouts.open(merge([a,b], tmp_path/'c.h5'))
    assert c.dtype == np.float16 and c.catalog['id'][[0,10]].tolist() == ['a:0','b:0']
    np.testing.assert_array_equal(c[:], x.astype(np.float32))

def test_pack_rewrites_any_layout(tmp_path):
    "The verb: pixels, NaN, columns and ids as they were; in chunks of a MiB; what it cannot do is said"
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path/'sdss.h5', 'w') as f:                          # Galaxy10 SDSS's layout
        f['images'],f['ans'] = rng.integers(0, 256, (30,69,69,3)).astype('u1'),np.arange(30)%10
    x = rng.normal(size=(40,2,16,16)).astype('f4')
    x[3,1] = np.nan
    for k in range(2): Cutouts.write(tmp_path/f'part-{k}.h5', x[20*k:20*k+20], bands='gr', ivar=np.isfinite(x[20*k:20*k+20])*4., catalog=dict(id=[f'{k}.{i}' for i in range(20)]))
    def pack(*args): return CliRunner().invoke(main, ['pack', *map(str, args)])
    for source,out in ((tmp_path/'sdss.h5', tmp_path/'a.h5'), (tmp_path/'part-*.h5', tmp_path/'b.h5')):
        r,old = pack(source, '--out', out),Cutouts.open(source)
        assert r.exit_code == 0 and str(out) in r.output, r.output
        new = Cutouts.open(out)
        np.testing.assert_array_equal(new[:], old[:])
        assert new.bands == old.bands and list(new.catalog['id']) == list(old.catalog['id']) and new.chunk_rows > 30
    assert new.has_ivar and (new.ivar(slice(None)) == old.ivar(slice(None))).all() and new.dtype == np.float32
    assert Cutouts.open(tmp_path/'a.h5').dtype == np.float16                # holds whole numbers to 2,048 exactly
    r = pack(tmp_path/'sdss.h5', '--out', tmp_path/'a.h5')
    assert r.exit_code == 2 and 'exists' in r.stderr
    r = pack(tmp_path/'b.h5', '--out', tmp_path/'b.h5', '--overwrite')
    assert r.exit_code == 2 and 'one of the files' in r.stderr
    assert pack(tmp_path/'b.h5', '--out', tmp_path/'c.h5', '--dtype', 'float16').exit_code == 0 and Cutouts.open(tmp_path/'c.h5').dtype == np.float16
