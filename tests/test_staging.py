"Copies on a node's own disk: whole, checked, made once, and refused before they fill it"
import multiprocessing, os, time
from collections import namedtuple
import numpy as np, pytest
from astromask.core import DataError, StorageError
from astromask.data import staging
from astromask.data.cutouts import Cutouts
from astromask.data.staging import staged

@pytest.fixture
def survey(tmp_path):
    "Two files of one name, without ids of their own"
    for k,name in enumerate('ab'):
        (tmp_path/'shared'/name).mkdir(parents=True)
        np.save(tmp_path/'shared'/name/'cut.npy', np.random.default_rng(k).normal(size=(8,1,12,12)).astype('f4'))
    return tmp_path/'shared'

def test_the_same_set(survey, tmp_path):
    "Pixels and names of objects are those of the originals: a run may go on with or without copies"
    here,there = (Cutouts.open(staged(f'{survey}/*/cut.npy', stage), bands='r') for stage in ('', tmp_path/'node'))
    np.testing.assert_array_equal(here[:], there[:])
    assert here.catalog['id'].tolist() == there.catalog['id'].tolist() and all(f.startswith(str(tmp_path/'node')) for f in map(str, there.files))

def test_what_changed_is_copied_again(survey, tmp_path):
    def times(): return {p.parent.name: p.stat().st_mtime_ns for p in (tmp_path/'node').rglob('cut.npy')}
    paths = staged(f'{survey}/*/cut.npy', tmp_path/'node')
    first = times()
    assert staged(f'{survey}/*/cut.npy', tmp_path/'node') == paths and times() == first
    np.save(survey/'a'/'cut.npy', np.zeros((8,1,12,12), 'f4'))                    # another original
    with open(paths[1], 'r+b') as f: f.write(b'X')                                # a copy that somebody wrote to
    staged(f'{survey}/*/cut.npy', tmp_path/'node')
    for p,name in zip(paths, 'ab'): assert open(p, 'rb').read() == (survey/name/'cut.npy').read_bytes()

def test_no_room_is_told_first(survey, tmp_path, monkeypatch):
    monkeypatch.setattr(staging.shutil, 'disk_usage', lambda p: namedtuple('Usage', 'total used free')(1<<20, 1<<20, 900))
    with pytest.raises(StorageError, match='GiB free, and the copies need .* give stage another folder, or none'): staged(survey, tmp_path/'node')
    assert not list((tmp_path/'node').rglob('cut.npy'))

def test_a_bad_copy_is_refused(survey, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, 'file_digest', lambda p: 'another')
    with pytest.raises(StorageError, match='not what was written'): staged(survey, tmp_path/'node')
    assert not list((tmp_path/'node').rglob('cut.npy'))
    monkeypatch.undo()
    state = staging.file_state
    monkeypatch.setattr(staging, 'file_state', lambda p: [*state(p)[:1],time.monotonic_ns()])
    with pytest.raises(DataError, match='changed while it was copied'): staged(survey, tmp_path/'node')

def _stage(source, stage, to):
    made = staging.copy_checked
    def counted(path, copy):
        time.sleep(.05)
        with open(to, 'a') as f: f.write(f'{os.getpid()}\n')
        return made(path, copy)
    staging.copy_checked = counted
    staged(source, stage)

def test_one_of_a_node_copies(survey, tmp_path):
    context = multiprocessing.get_context('fork')
    ranks = [context.Process(target=_stage, args=(survey, tmp_path/'node', tmp_path/'log')) for _ in range(4)]
    for p in ranks: p.start()
    for p in ranks: p.join(60)
    assert [p.exitcode for p in ranks] == [0]*4 and len((tmp_path/'log').read_text().split()) == 2
