"What inspection finds in bad files, and what it writes"
import json
from pathlib import Path
import h5py, numpy as np, pytest
from click.testing import CliRunner
from astromask.cli import main
from astromask.data.cutouts import Cutouts
from astromask.core import InputError
from astromask.data.inspect import contact_sheet, inspect_cutouts, write_report
from astromask.plots import missing_colour

real = Path(__file__).parents[1].parent/'shared'/'data'
needs_real = pytest.mark.skipif(not (real/'gz2_train.h5').exists(), reason=f'the real data of {real} are not here')
def call(*args): return CliRunner().invoke(main, [str(a) for a in args])
def noise(n=40, c=3): return np.random.default_rng(0).normal(size=(n,c,24,24)).astype(np.float32)
def wrong(tmp_path, x, **kw): return inspect_cutouts(Cutouts.write(tmp_path/'a.h5', x, bands='gri', overwrite=True, **kw))['wrong']

def test_each_fault_has_its_sentence(tmp_path):
    assert wrong(tmp_path, noise()) == []
    def with_fault(where, value):
        x = noise()
        x[where] = value
        return ' '.join(wrong(tmp_path, x))
    for where,value,words in ((np.s_[3], np.nan, '1 of 40 cutouts are NaN in all bands'), (np.s_[:4,1], np.nan, '4 of 40 cutouts are NaN in band r'),
                              (np.s_[:,2,:20], np.nan, '83% of the pixels of band i'), (np.s_[5,0], 3., '1 of 40 cutouts are constant in band g'),
                              (np.s_[6,0,:5], 0, 'exactly 0 in over a tenth of band g'), (np.s_[7,2,4:7,4:7], 40., 'saturated in band i'),
                              (np.s_[8,1,:3], -99, '-99, -999 or -9999 in band r'), (np.s_[9], noise()[2], '1 pair of cutouts have the same pixels'),
                              (np.s_[9], 3*noise()[2,:,::-1], '1 pair of cutouts are copies')):
        assert words in with_fault(where, value), words

def test_catalogue_faults(tmp_path):
    t = dict(id=['a']*2+list(map(str, range(38))), ra=[0,0,400.5,*np.arange(10, 46),45], dec=[0.]*40, label=[0]*35+[1]*5)
    said = ' '.join(wrong(tmp_path, noise(), catalog=t))
    for words in ('1 rows have the id', 'has ra = 400.5, which is no ra in degrees', '2 of 40 positions are numbers such as -99 or (0,0)', 'fewer than 10 objects: 1 (5)', '1 pair of cutouts are within 1 arcsec'):
        assert words in said, said

def test_what_stands_for_nothing_and_what_is_not_used_is_said(tmp_path):
    z = np.linspace(.1, 1, 40)
    z[::10],z[5] = 99,-99
    r = inspect_cutouts(Cutouts.write(tmp_path/'a.h5', noise(), bands='gri', catalog=dict(redshift=z[:,None], label=np.eye(2)[np.arange(40)%2], mag_g=[20.]*39+[99.])))
    page = str(r)
    assert r['redshifts']['known'] == 35 and r['classes'] == {'0': 20, '1': 20} and r['magnitudes'] == dict(mag_g='g')
    assert 'redshifts 35 from' in page and '(column redshift)' in page and 'magnitudes in g (columns mag_g)' in page
    for words in ('5 of 40 values of `redshift` cannot be redshifts and count as unknown: 99 (4), -99 (1)', '1 of 40 values of `mag_g` stand for nothing'): assert f'- {words}' in page
    r = inspect_cutouts(Cutouts.write(tmp_path/'b.h5', noise(), bands='gri', catalog=dict(redshift=['high']*40, label=np.full((40,3), 1/3), zspec=z)))
    for words in ("the column `redshift` is text, such as 'high'", '`label` has 3 values for each object that are not one 1 and zeros'): assert words in ' '.join(r['wrong'])
    assert r['redshifts']['column'] == 'zspec' and r['redshifts']['kind'] == 'spectroscopic' and not r['classes']

def test_what_is_unknown_is_called_unknown(tmp_path):
    page = str(inspect_cutouts(Cutouts.write(tmp_path/'a.h5', noise(), bands='gri')))
    for line in ('unit      unknown', 'zero      unknown', 'pixels    of unknown size; row 0 is at the bottom', 'survey    unknown'): assert line in page, page
    page = str(inspect_cutouts(Cutouts.write(tmp_path/'b.h5', noise(), bands='gri', unit='nJy', zero_point=31.4, pixel_scale=.2)))
    for line in ('unit      nJy', 'zero      31.4 mag AB is one unit', 'pixels    of 0.2 arcsec'): assert line in page, page

def test_pictures_are_not_saturated(tmp_path):
    x = np.random.default_rng(0).integers(0, 200, (40,3,24,24)).astype('f4')
    x[3,1,8:12,8:12],x[4,0,:12] = 255,0
    assert wrong(tmp_path, x) == []                                                # white and black of a picture
    with h5py.File(tmp_path/'p.h5', 'w') as f: f['images'],f['ans'] = np.moveaxis(x, 1, -1).astype('u1'),np.arange(40)%10
    assert not any('saturated' in o for o in inspect_cutouts(tmp_path/'p.h5', bands='irg')['wrong'])
    x += .25*(x < 255)
    assert any('saturated' in o for o in wrong(tmp_path, x))

def test_twins_with_other_labels(tmp_path):
    x = noise()
    x[20:25] = x[:5]
    said = ' '.join(wrong(tmp_path, x, catalog=dict(label=np.arange(40)%2 + (np.arange(40) == 20))))
    assert '5 pairs of cutouts have the same pixels' in said and '1 pair of cutouts that are the same object have different labels' in said

def test_large_sets_are_sampled(tmp_path):
    r = inspect_cutouts(Cutouts.write(tmp_path/'a.h5', noise(300), bands='gri'), n=50, twins_up_to=100)
    assert r['sampled'] == r['twins']['searched'] == 50 and '(of 50 cutouts)' in str(r)

def test_bands_with_the_same_fault_share_a_sentence(tmp_path):
    x = noise()
    x[5,:2] = 3
    x[6,0] = 4
    assert wrong(tmp_path, x) == ['up to 2 of 40 cutouts are constant in bands g (2), r (1)']

def test_the_sheet_shows_what_is_missing(tmp_path):
    x = noise()
    x[7,:,:12] = np.nan
    x[8] = np.nan
    path = Cutouts.write(tmp_path/'a.h5', x, bands='gri')
    fig = contact_sheet(path, n=40)
    tiles = [ax.images[0].get_array() if ax.images else None for ax in fig.axes]
    titles = [ax.get_title() for ax in fig.axes]
    gone = lambda t: (np.asarray(t) == missing_colour).all(-1)
    assert gone(tiles[7])[:12].all() and not gone(tiles[7])[12:].any() and gone(tiles[8]).all() and not gone(tiles[9]).any()
    assert titles[40] == '8: blank in g + 2' and not any(titles[41:])

def test_command(tmp_path):
    x = noise()
    x[5,2] = 0
    path = Cutouts.write(tmp_path/'a.h5', x, bands='gri')
    r = call('inspect', path, '--sheet', tmp_path/'s.png', '--json', tmp_path/'r.json', '--n', 30)
    assert r.exit_code == 0 and '30 cutouts' in r.output, r.output
    assert (tmp_path/'s.png').read_bytes().startswith(b'\x89PNG') and json.loads((tmp_path/'r.json').read_text())['n'] == 40
    assert call('inspect', path, '--json', tmp_path/'r.json').exit_code == 2
    assert call('inspect', path, '--json', tmp_path/'r.json', '--overwrite').exit_code == 0
    before = set(tmp_path.iterdir())
    assert call('inspect', path).exit_code == 0 and set(tmp_path.iterdir()) == before      # nothing is written unasked
    with h5py.File(tmp_path/'b.h5', 'w') as f: f['cutouts'] = x
    assert 'does not tell its bands' in call('inspect', tmp_path/'b.h5').output
    assert 'does not tell its bands' not in call('inspect', tmp_path/'b.h5', '--bands', 'gri').output

def test_report_and_sheet_are_written(tmp_path):
    path = Cutouts.write(tmp_path/'a.h5', noise(), bands='gri')
    r = inspect_cutouts(path, n=4)
    write_report(r, contact_sheet(path, r, n=8), tmp_path/'s.png', tmp_path/'r.json')
    assert r['sampled'] == 4 and (tmp_path/'s.png').read_bytes().startswith(b'\x89PNG') and json.loads((tmp_path/'r.json').read_text())['wrong'] == r['wrong']
    with pytest.raises(InputError, match='exists'): write_report(r, json_path=tmp_path/'r.json')

@needs_real
def test_real_files():
    r = inspect_cutouts(real/'nircam7_train.h5')
    assert r['n'] == 90 and r['sky']['known'] and r['redshifts']['known'] > 50 and not any(r['twins'][k] for k in ('equal','near','sky'))
    contact_sheet(real/'nircam7_train.h5', r, n=8)
