"Which columns are redshifts, classes and magnitudes by the names that surveys use, what of them is known, and what is said about the rest"
from pathlib import Path
import numpy as np, pytest
from astropy.table import Column, MaskedColumn, Table
from astromask.core import InputError
from astromask.data.catalogs import match_ids
from astromask.data.cutouts import Cutouts
from astromask.data.labels import (class_labels, find_classes, find_magnitudes, find_redshifts, magnitudes,
                                   read_magnitudes, redshift_kind, redshifts, say_once, catalog_features)

real = Path(__file__).parents[1].parent/'shared'/'data'
needs_real = pytest.mark.skipif(not (real/'sdss_photometry.csv').exists(), reason=f'the real data of {real} are not here')
nan = np.nan
def table(**columns): return Table(columns)
def same(a, b): np.testing.assert_array_equal(np.asarray(a, float), np.asarray(b, float))
def said(found): return ' '.join(found.remarks)

# Redshifts

@pytest.mark.parametrize('name, kind', [
    ('Z','unknown'), ('REDSHIFT','unknown'), ('Redshift','unknown'), ('ZBEST','unknown'), ('Z_BEST','unknown'), ('Z_SPEC','spectroscopic'), ('zspec','spectroscopic'), ('spec_z','spectroscopic'),
    ('specz','spectroscopic'), ('Z spec','spectroscopic'), ('specz_redshift','spectroscopic'), ('photoz','photometric'), ('z_phot','photometric'), ('ZPHOT','photometric'), ('Z_B','photometric'),
    ('photoz_best','photometric'), ('z_phot_median','photometric'), ('z_peak','photometric'), ('redshift_true','simulated'), ('true_redshift_gal','simulated'), ('z_cos','simulated'), ('NSA_Z','unknown'), ('lp_zBEST','unknown')])
def test_redshifts_by_any_name(name, kind):
    t = Table({name: [.1,.2,nan], 'ra': [1.,2,3], 'ERR': [.1]*3})
    same(redshifts(t), [.1,.2,nan])
    assert find_redshifts(t).column == name and redshift_kind(t) == kind

@pytest.mark.parametrize('name', ('redshift_err','z_err','zwarn','z_flag','photoz_err68_min','z_phot_l68','redshift_quality','Z_QUAL','ez','redshift_source','zmag'))
def test_what_only_looks_like_a_redshift(name): assert find_redshifts(Table({name: [.1,.2]})).column == ''

def test_what_stands_for_unknown_is_counted():
    z = np.linspace(.1, 1, 60)
    z[::10],z[5],z[6] = 99,-99,9999
    found = find_redshifts(table(redshift=z))
    assert np.isfinite(found.values).sum() == 52 and said(found) == '8 of 60 values of `redshift` cannot be redshifts and count as unknown: 99 (6), -99 (1), 9999 (1)'
    for code in (-1,-9,-99,-999,-9999,99,999,9999,1e20,np.inf,-np.inf,-1e31,-.7,77.5):
        same(redshifts(table(redshift=[.1,.2,.3,code])), [.1,.2,.3,nan])
        same(redshifts(table(redshift=np.array([.5,.25,code], 'f4'))), [.5,.25,nan])
    same(redshifts(table(redshift=[.1,9.9999,9.9999])), [.1,nan,nan])          # VIPERS
    same(redshifts(table(redshift=[-.0009,13.2,1.3])), [-.0009,13.2,1.3])      # M86 and the farthest are redshifts
    same(redshifts(table(redshift=MaskedColumn([1,2,-1], mask=[True,False,False]))), [nan,2,nan])

@pytest.mark.parametrize('column, words', [([1500.,3200.,700.], 'run from 700 to 3200'), ([[.1,.2],[.3,.4]], '2 values for each object'), (['near','far'], "is text, such as 'far'"),
                                           (Column([1500.,3200.], unit='km/s'), 'is in km / s')])
def test_columns_that_are_no_redshifts_are_named(column, words):
    t = table(redshift=column, zspec=[.1]*len(column))
    found = find_redshifts(t)
    assert found.column == 'zspec' and words in said(found)
    with pytest.raises(InputError, match=words): redshifts(t, 'redshift')

def test_redshifts_in_other_dress():
    same(redshifts(table(redshift=[[.1],[.2]])), [.1,.2])
    same(redshifts(table(redshift=['0.1','null',' 0.3 ','N/A'])), [.1,nan,.3,nan])
    same(redshifts(table(redshift=[b'0.1',b'0.2\0'])), [.1,.2])
    found = find_redshifts(table(redshift=['0.1','0.2','0.3','bad']))
    same(found.values, [.1,.2,.3,nan])
    assert "such as 'bad'" in said(found)
    same(redshifts(table(redshift=['0,1','0,2'])), [.1,.2])
    same(redshifts(table(redshift=['1.2D-1','−0.001'])), [.12,-.001])
    for odd in (['1,234','2,345'],['1_0','2_0']): assert find_redshifts(table(redshift=odd)).column == '' and f'is text, such as {odd[0]!r}' in said(find_redshifts(table(redshift=odd)))   # thousands? a name?

def test_z_is_a_redshift_or_a_magnitude():
    ugriz = {b: [19.,18.] for b in 'ugriz'}
    assert find_redshifts(Table(ugriz)).column == '' and not find_redshifts(Table(ugriz)).remarks
    assert find_redshifts(Table(ugriz | {'redshift': [.1,.2]})).column == 'redshift'
    assert find_redshifts(Table(ugriz | {'Z': [.1,.2], 'ZWARN': [0,0]})).column == 'Z'
    assert find_redshifts(Table({b.upper(): v for b,v in ugriz.items()})).column == ''
    assert find_redshifts(table(Z=[.1,.2], ZWARN=[0,0], SPECTYPE=['GALAXY']*2)).column == 'Z'
    assert find_redshifts(table(g=[19.,18], r=[18.,17], z=[.1,.2], ZWARN=[0,0])).column == 'z'
    assert find_redshifts(table(z=[.1,.2])).column == 'z' and find_redshifts(table(z=[.1,.2], x=[4.5,9.1], y=[1.,2.])).column == 'z'
    for t in (table(g=[19.,18], r=[18.,17], z=[.1,.2]), table(z=np.linspace(.1, 25, 40)), table(z=[3,1,2])):
        found = find_redshifts(t)
        assert found.column == '' and 'say redshift=z' in said(found)
        assert find_redshifts(t, 'z').column == 'z'
    same(redshifts(table(r=[20.1,20.2], z=[19.5,-99])), [nan,nan])

def test_two_that_may_be_it():
    found = find_redshifts(table(first_redshift=[.1], second_redshift=[.2]))
    assert found.column == '' and 'first_redshift or second_redshift' in said(found)
    assert find_redshifts(table(redshift=[nan], zspec=[.2])).column == 'zspec'

def test_doubts_are_said():
    found = find_redshifts(table(Z=[.1,.2,nan], ZWARN=[0,4,4]))
    assert '1 of 2 redshifts of `Z` have a ZWARN other than 0' in said(found)
    assert '2 redshifts of `redshift` are exactly 0' in said(find_redshifts(table(redshift=[0.,0,.1])))

def test_kind_by_description_and_by_what_stands_beside():
    assert redshift_kind(Table([Column([.1], name='z', description='Photometric redshift (BPZ)')])) == 'photometric'
    assert redshift_kind(table(redshift=[.1], plate=[266], mjd=[51602], fiberid=[1])) == 'spectroscopic'
    assert redshift_kind(table(redshift=[.1])) == redshift_kind(table(ra=[1.])) == 'unknown'

def test_what_a_column_says_of_itself_travels(tmp_path):
    t = Table([Column([.1,.2], name='redshift', description='Spectroscopic redshift')])
    c = Cutouts.open(Cutouts.write(tmp_path/'a.h5', np.ones((2,1,4,4), 'f4'), 'r', catalog=t))
    assert redshift_kind(c) == redshift_kind(c.catalog) == 'spectroscopic'
    c = Cutouts.open(Cutouts.write(tmp_path/'b.h5', np.ones((2,1,4,4), 'f4'), 'r', catalog=t, provenance=dict(simulator=5)))
    assert redshift_kind(c) == 'simulated'

def test_a_name_that_is_not_there():
    t = table(id=['a'], Z_SPEC=[.1], label=[1])
    assert find_redshifts(t, 'z_spec').column == 'Z_SPEC'
    for read in (redshifts,class_labels,magnitudes):
        with pytest.raises(InputError, match="no column 'q'; it has id, Z_SPEC, label"): read(t, 'q')

# Classes

@pytest.mark.parametrize('column, labels, names', [
    (['b','a',''], [1,0,-1], ('a','b')), ([b'STAR  \0',b'GALAXY',b'null'], [1,0,-1], ('GALAXY','STAR')), ([2.,0.,nan], [1,0,-1], ('0','2')), ([True,False,True], [1,0,1], ('False','True')),
    ([[1],[0],[-1]], [1,0,-1], ('0','1')), (np.eye(3)[[2,0,1]], [2,0,1], ('0','1','2')), ([[0,1],[0,0],[1,0]], [1,-1,0], ('0','1')), (np.array([0,1,255], 'u1'), [0,1,-1], ('0','1')),
    ([0,99,1], [0,-1,1], ('0','1')), (MaskedColumn([0,1,5], mask=[False,False,True]), [0,1,-1], ('0','1')), (['nan','None','E'], [-1,-1,0], ('E',)), (['UNKNOWN','?','E'], [-1,-1,0], ('E',)),
    (np.array(['x',None,'y'], object), [0,-1,1], ('x','y'))])
def test_classes_in_any_dress(column, labels, names):
    found = class_labels(Table(dict(label=column)))
    assert (list(found[0]),found[1]) == (labels,names) and found[0].dtype == np.int64

@pytest.mark.parametrize('name', ('class','CLASS','Class Name','SPECTYPE','label','LABEL','morphology','gz2_class','visual_class','ans','objtype','subclass','colour_class'))
def test_classes_by_any_name(name): assert find_classes(Table({name: ['a','b'], 'ra': [1.,2]})).column == name

def test_the_better_class_wins():
    assert find_classes(Table({'subclass': ['AGN','']} | {'class': ['GALAXY','STAR']})).column == 'class'
    assert find_classes(table(label=np.arange(60), ans=[0,1]*30)).column == 'ans'                           # sources of a segmentation
    assert find_classes(Table({'class': [0,1], 'class_name': ['star','galaxy']})).names == ('galaxy','star')
    assert find_classes(table(type=[3,6])).column == '' and find_classes(table(type=['PSF','EXP'])).column == 'type' and find_classes(table(type=[3,6]), 'type').names == ('3','6')
    assert find_classes(Table({'class': [f'g{i}' for i in range(60)], 'SPECTYPE': ['STAR','QSO']*30})).column == 'SPECTYPE'

@pytest.mark.parametrize('column, words', [([.2,.9], 'not whole, such as 0.2'), ([[.2,.8],[.5,.5]], 'not one 1 and zeros'), (np.array([2**63,1], 'u8'), 'beyond')])
def test_columns_that_are_no_classes_are_named(column, words):
    found = find_classes(table(label=column, ans=[0,1]))
    assert found.column == 'ans' and words in said(found)
    with pytest.raises(InputError, match=words): class_labels(table(label=column), 'label')

def test_names_of_classes():
    t = Table([Column([0,2,-1,7], name='class', meta=dict(names=['star','galaxy','qso','x','x','x','x','unknown']))])
    labels,names = class_labels(t)
    assert list(labels) == [0,2,-1,-1] and names[2] == 'qso'                    # a class called unknown is none
    assert 'differ in capitals only: GALAXY, Galaxy' in said(find_classes(Table({'class': ['Galaxy','GALAXY']})))
    assert class_labels(Table([Column(np.eye(2), name='label', meta=dict(names=['E','S']))]))[1] == ('E','S')
    assert '3 of 4 values of `label` count as unknown: -99 (2), 99 (1)' in said(find_classes(table(label=[1,-99,-99,99])))

# Magnitudes

@pytest.mark.parametrize('names, bands, errors', [
    ('mag_g mag_err_g mag_r mag_err_r', 'g r', True), ('gmag e_gmag rmag e_rmag', 'g r', True), ('psfMag_g psfMagErr_g psfMag_r psfMagErr_r', 'g r', True), ('MAG_AUTO_G MAGERR_AUTO_G MAG_AUTO_Y MAGERR_AUTO_Y', 'G Y', True),
    ('MAG_GAAP_u MAGERR_GAAP_u MAG_GAAP_Ks MAGERR_GAAP_Ks', 'u Ks', True), ('mag_g_lsst mag_err_g_lsst mag_y_lsst mag_err_y_lsst', 'g y', True), ('g_cmodel_mag g_cmodel_magerr z_cmodel_mag z_cmodel_magerr', 'g z', True),
    ('g_cModelMag g_cModelMagErr i_cModelMag i_cModelMagErr', 'g i', True), ('gMeanPSFMag gMeanPSFMagErr yMeanPSFMag yMeanPSFMagErr', 'g y', True), ('HSC_g_MAG HSC_g_MAGERR UVISTA_Ks_MAG UVISTA_Ks_MAGERR', 'g Ks', True),
    ('j_m j_msigcom k_m k_msigcom', 'j k', True), ('w1mpro w1sigmpro w4mpro w4sigmpro', 'w1 w4', True), ('phot_g_mean_mag phot_bp_mean_mag', 'g bp', False), ('dered_g dered_r', 'g r', False), ('u g r i z', 'u g r i z', False),
    ('u err_u g err_g', 'u g', True), ('g g_err r r_err', 'g r', True), ('Jmag Hmag', 'J H', False), ('f115w_mag f115w_mag_err f444w_mag f444w_mag_err', 'f115w f444w', True), ('F115W F444W', 'F115W F444W', False),
    ('mag_f0 mag_err_f0', 'f0', True), ('mag_G mag_R', 'G R', False)])
def test_magnitudes_by_any_name(names, bands, errors):
    names = names.split()
    t = Table(dict(id=['a','b','c'], ra=[1.,2,3]) | {k: [20.+i,99,21] if 'rr' not in k and 'sig' not in k and not k.startswith('e_') else [.1,27.,.2] for i,k in enumerate(names)} | dict(mag_abs_r=[-20.]*3, maglim=[24.]*3, redshift=[.1]*3))
    m = magnitudes(t)
    assert m.colnames == names and list(m.meta['bands'].values()) == bands.split() and len(m.meta['errors']) == errors*len(bands.split())
    for k in names: same(m[k], [t[k][0],nan,t[k][2]])                            # an error goes with its magnitude

def test_one_kind_of_magnitude_for_a_band():
    t = Table({f'{k}Mag_{b}': [20.] for k in ('psf','petro','model') for b in 'ugriz'} | {'w1mpro': [18.], 'modelMagErr_u': [.1]})
    taken,left = find_magnitudes(t)
    assert [m.column for m in taken] == [*(f'modelMag_{b}' for b in 'ugriz'),'w1mpro'] and len(left) == 10 and taken[0].error == 'modelMagErr_u'
    assert [m.column for m in find_magnitudes(Table({b: [19.] for b in 'ugriz'} | {'psfMag_r': [19.]}))[0]] == list('ugriz')

def test_what_only_looks_like_a_band():
    assert magnitudes(table(x=[12.,20], y=[20.,13], g=[19.,18])).colnames == []                     # one band alone may be anything
    assert magnitudes(table(u=[.3,120.], g=[2.,3000.])).colnames == magnitudes(table(u=[.3,2.], g=[2.,3.])).colnames == []      # fluxes
    assert magnitudes(Table(dict(u=[19.], g=[18.]), units=dict(u='nanomaggy', g='nanomaggy'))).colnames == []
    assert magnitudes(table(magnification=[20.], image=[20.], mag_zeropoint=[25.], mag_flag_g=[1])).colnames == []

def test_magnitudes_that_are_none():
    codes = (99,-99,999,-999,9999,-9999,99.99,np.inf,1e20)
    for code in codes: same(magnitudes(table(mag_g=[20.,code]))['mag_g'], [20,nan])
    _,remarks = read_magnitudes(table(mag_g=[20.,99,99,-9999]))
    assert remarks == ('3 of 4 values of `mag_g` stand for nothing and count as unknown: 99 (2), -9999 (1)',)
    assert magnitudes(table(g=[99.], r=[99.]), 'g,r')['g'][0] != 99                                 # a row with nothing else
    same(magnitudes(table(r50=[3.,-99,2]), ['r50'])['r50'], [3,nan,2])
    same(magnitudes(table(dx=[3.,-99,-2]), ['dx'])['dx'], [3,-99,-2])                                # may be a value
    for odd in (['a','b'],[[1.,2],[3,4]]):
        with pytest.raises(InputError, match='a magnitude is one number'): magnitudes(table(q=odd), 'q')

def test_names_are_taken_in_their_order():
    t = table(u=[19.], G=[18.], r=[17.])
    assert magnitudes(t, 'R, g').colnames == ['r','G'] and magnitudes(t, ['u']).colnames == ['u']
    with pytest.raises(InputError, match="no column 'z'; it has u, G, r"): magnitudes(t, 'u,z')

# Ids, and what is said

def test_ids_are_compared_exactly(caplog):
    big = 1237648720693755918
    assert list(match_ids([big,big+1,7], [str(big+1),f'{big} ','07'])) == [1,0,-1]
    assert list(match_ids(np.array([b'a ',b'b'], 'S2'), ['b','a','a'], 'x.csv')) == [1,0] and "1 rows of x.csv repeat an id, such as 'a'" in caplog.text
    assert list(match_ids(['',' x'], ['','x'])) == [-1,1] and list(match_ids(['a'], [])) == [-1]

def test_a_sentence_is_said_once(caplog):
    t = table(redshift=[.123,-99,99,-77])
    for _ in range(3): redshifts(t), redshifts(t[:])
    assert caplog.text.count('cannot be redshifts') == 1

@needs_real
def test_real_sdss_rows():
    t = Table.read(real/'sdss_photometry.csv')
    lines = [o.split(',') for o in (real/'sdss_photometry.csv').read_text().splitlines()]
    at = {k: i for i,k in enumerate(lines[0])}
    labels,names = class_labels(t)
    for i in (0,1,999,-1):
        row = lines[1:][i]
        assert names[labels[i]] == row[at['class']] and redshifts(t)[i] == float(row[at['redshift']])
        for b in 'ugriz': np.testing.assert_equal(float(magnitudes(t)[b][i]), float(row[at[b]] or nan))
    assert redshift_kind(t) == 'spectroscopic' and find_redshifts(t).column == 'redshift' and names == ('GALAXY','QSO','STAR') and magnitudes(t).colnames == list('ugriz')
    assert np.bincount(labels).tolist() == [4998,850,4152]

def test_unknown_redshifts_do_not_hide_the_known():
    z = np.where(np.arange(60) < 40, 99., np.linspace(.1, 1, 60))
    assert np.isfinite(redshifts(table(z=z))).sum() == 20                       # of all 60 the median is 99
    assert np.isfinite(redshifts(table(u=[20.1]*60, z=np.where(z == 99, -99, z+19)))).sum() == 0

def test_ids_that_lost_digits_match_nothing(caplog):
    for ids,other in (([1237648720693755918.], ['1237648720693755918']), (['1237648720693755918'], ['1.23765E+18']), ([np.float32(2**24+2)], [2**24+2])):
        with pytest.raises(InputError, match='have lost digits'): match_ids(np.array(ids), np.array(other))
    assert list(match_ids([1,2], [2.,1.])) == [1,0] and list(match_ids(['o1','o2'], [1,2])) == [-1,-1]
    assert "No id is in the other table: 'o1', 'o2' here, and '1', '2' there" in caplog.text

def test_named_magnitudes_need_no_usual_names():
    t = table(G_AUTO=[20.,99,21], R_AUTO=[19.,19.5,-99], SIZE=[1.5,99,2.])
    m = magnitudes(t, 'G_AUTO,R_AUTO,SIZE')
    same(m['G_AUTO'], [20,nan,21]); same(m['R_AUTO'], [19,19.5,nan]); same(m['SIZE'], [1.5,99,2])
    x,names = catalog_features(t, None, ['G_AUTO','R_AUTO'])
    assert names == ['G_AUTO','R_AUTO','G_AUTO-R_AUTO']
    same(x[:,2], [1,nan,nan])
    assert catalog_features(t, 'xy', ['G_AUTO','R_AUTO'])[1] == names and catalog_features(t, 'xy')[1] == []

def test_names_without_our_letters():
    "A column called in another script is nobody's magnitude; an earlier version stopped there"
    t = Table({'\u03bb': [20.], '_': [20.], 'g': [20.], 'r': [19.]})
    assert [m.column for m in find_magnitudes(t)[0]] == ['g','r'] and magnitudes(t).colnames == ['g','r']
