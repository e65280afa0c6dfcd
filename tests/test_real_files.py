"Files as surveys write them: 200 random combinations of facts with known truth (10,000: `python tests/fuzz_files.py`), and real data beside astropy alone"
import os
import pytest
from fuzz_files import FAMILIES, outcome, possible, try_seed
from real_files import DATA, SETS, compare

cases,pieces = int(os.environ.get('ASTROMASK_FUZZ', 200)),8

@pytest.mark.parametrize('piece', range(pieces))
def test_right_or_refused_in_a_true_sentence(piece):
    found = [try_seed(s) for s in range(piece, cases, pieces)]
    wrong = [f'seed {s}: {family} {odd}: {what}' for s,family,what,odd in found if odd is not None]
    assert not wrong, '\n'.join(wrong)

@pytest.mark.parametrize('family', FAMILIES)
def test_plain_files_are_read(family):
    assert outcome(family, possible(family, {k: v[0] for k,v in FAMILIES[family].items()}), 0) == ''

def test_the_fuzz_can_fail(monkeypatch):
    "A zero point that is off by 4.5 magnitudes is found, and the facts that matter are named"
    from astromask import units
    plain = possible('cutout', {k: v[0] for k,v in FAMILIES['cutout'].items()})
    read = units.header_photometry
    def wrong(*a, **k):
        p = read(*a, **k)
        return units.Photometry(p.unit, p.zero_point and p.zero_point+4.5, p.source)
    for room in ('astromask.units','astromask.data.fits','astromask.data.layouts','astromask.data.formats'):
        monkeypatch.setattr(f'{room}.header_photometry', wrong, raising=False)
    assert outcome('cutout', plain, 0).startswith('WRONG fluxes')

@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason='the real data (../shared/data) are not here')
@pytest.mark.parametrize('name', SETS)
def test_real_data_beside_astropy(name):
    "From the file as it is to an embedding; what is compared is in real_files.py"
    wrong = [f'{what}: {right} by astropy, {got} by AstroMASK' for what,right,got,ok in compare(name) if not ok]
    assert not wrong, '\n'.join(wrong)
