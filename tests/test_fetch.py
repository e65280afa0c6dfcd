"Downloads from a server that cuts, delays, lies, changes its mind and fails; kills, full disks, two at once; tables of the hub"
import hashlib, json, os, resource, signal, subprocess, sys, tempfile, threading, time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import numpy as np, pytest
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from astromask.cli import main
from astromask.core import AstroMaskError, DataError, InputError, StorageError, Unfinished
from astromask.data import download as module, fetch as fetching
from astromask.data.cutouts import Cutouts
from astromask.data.download import FetchError, download
from astromask.data.fetch import FileSource, HubSource, fetch, fetch_hub, sources

GOOD = b'\x89HDF\r\n\x1a\n' + np.random.default_rng(0).bytes(400_000)
OTHER = b'\x89HDF\r\n\x1a\n' + np.random.default_rng(1).bytes(400_000)
def sha(b): return 'sha256:' + hashlib.sha256(b).hexdigest()

class Handler(BaseHTTPRequestHandler):
    "Serves `content`; each request takes one dict from `moods`, which says what goes wrong in it"
    def log_message(self, *a): pass
    def do_GET(self):
        s = self.server
        try: self.answer(s, s.always | (s.moods.pop(0) if s.moods else {}))
        except OSError: pass   # the client went away, as it may

    def answer(self, s, mood):
        asked,whole = self.headers.get('Range'),mood.get('content', s.content)
        s.asked.append(asked)
        time.sleep(mood.get('delay', 0))
        if self.path == '/other': whole = OTHER
        if 'goto' in mood or self.path == '/loop':
            return self.head(302, Location=mood.get('goto', '/loop'))
        if mood.get('status') or self.path == '/404':
            return self.head(mood.get('status', 404), **mood.get('headers', {}), Content_Length=0)
        tag = mood.get('tag', f'"{hashlib.md5(whole).hexdigest()}"')
        changed = self.headers.get('If-Range') not in (None, tag)
        a = int(asked[6:-1]) if asked and not changed and not mood.get('no_range') else 0
        if asked and a >= len(whole): return self.head(416, Content_Range=f'bytes */{len(whole)}', Content_Length=0)
        more = dict(Content_Range=f'bytes {a + mood.get("shift", 0)}-{len(whole)-1}/{len(whole)}') if a else {}
        if tag: more['ETag'] = tag
        length = mood.get('length', len(whole)-a)
        self.head(206 if a else 200, Content_Length=None if mood.get('no_length') else length, **more, **mood.get('headers', {}))
        body = whole[a:mood.get('cut')]
        if mood.get('gate'):
            self.wfile.write(body[:200_000-a])
            mood['gate'].wait(30)
            return
        step = mood.get('step', len(body) or 1)
        for i in range(0, len(body), step):
            self.wfile.write(body[i:i+step])
            time.sleep(mood.get('pause', 0))

    def head(self, status, **headers):
        self.send_response(status)
        for k,v in headers.items():
            if v is not None: self.send_header(k.replace('_', '-'), v)
        self.end_headers()

@contextmanager
def serving(*moods, content=GOOD, **always):
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as s:
        s.daemon_threads,s.block_on_close = True,False
        s.moods,s.content,s.always,s.asked = list(moods),content,always,[]
        s.url = f'http://127.0.0.1:{s.server_port}/f.h5'
        threading.Thread(target=s.serve_forever, args=(0.02,), daemon=True).start()
        try: yield s
        finally: s.shutdown()

def get(urls, path, checksum=sha(GOOD), tries=4, **kw): return download(urls, path, checksum, tries, wait=0.001, **kw)

def left(folder): return sorted(p.name for p in Path(folder).iterdir())

@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, len(GOOD)-1), max_size=3), tag=st.booleans(), no_range=st.booleans(), known=st.booleans(),
       change=st.booleans())
def test_cut_anywhere(cuts, tag, no_range, known, change):
    "Wherever it breaks before its end, with and without ranges, validators and a checksum, even if the file is replaced: one whole file"
    moods = [dict(cut=k) for k in cuts]
    if change: moods[:1] = [o | dict(content=OTHER) for o in moods[:1]]
    with tempfile.TemporaryDirectory() as d, serving(*moods, no_range=no_range, **({} if tag else dict(tag=''))) as s:
        path = get(s.url, f'{d}/a.h5', sha(GOOD) if known else '', tries=8)        # four faults in a row may be too many
        got = path.read_bytes()
        assert got == GOOD or (got == OTHER and not known and change)
        assert left(d) == ['a.h5', 'a.h5.source.json']
        assert json.loads((path.parent/'a.h5.source.json').read_text())['sha256'] == sha(got)[7:]

@pytest.mark.parametrize('mood', [
    dict(status=500), dict(status=503, headers={'Retry-After': '0'}), dict(status=429), dict(delay=0.5), dict(cut=0),
    dict(length=len(GOOD)+999), dict(step=10, pause=0.05), dict(cut=300_000, shift=5)], ids=str)
def test_bad_once_then_good(tmp_path, mood):
    with serving(mood, mood) as s:
        assert get(s.url, tmp_path/'a.h5', patience=0.25).read_bytes() == GOOD
        assert len(s.asked) == 3

@pytest.mark.parametrize('mood,error,says', [
    (dict(status=500), Unfinished, 'status 500.*0 B are here'), (dict(delay=0.5), Unfinished, 'no answer in time'),
    (dict(step=10, pause=0.05), Unfinished, r'only \d+ bytes came'), (dict(length=len(GOOD)+9), Unfinished, 'the connection broke'),
    (dict(cut=100_000, no_range=True), Unfinished, 'same command goes on'), (dict(status=404), FetchError, 'status 404'),
    (dict(status=403), FetchError, 'status 403'), (dict(length=1000), FetchError, 'not the published'),
    (dict(content=OTHER), FetchError, 'not the published'), (dict(content=b'<html>'), FetchError, 'it is a web page'),
    (dict(content=b''), FetchError, 'not the published'), (dict(goto='file:///etc/passwd'), FetchError, 'No connection adapters'),
    (dict(goto='ftp://x/y'), FetchError, 'No connection adapters'), (dict(goto='/loop'), FetchError, 'redirects'),
    (dict(headers={'Content-Encoding': 'gzip'}), FetchError, 'compressed')], ids=str)
def test_bad_always(tmp_path, mood, error, says):
    "One sentence with the address, and nothing at the final path"
    with serving(**mood) as s, pytest.raises(error, match=says) as e:
        get(s.url, tmp_path/'a.h5', tries=2, patience=0.25)
    assert s.url in str(e.value) and '\n' not in str(e.value) and not (tmp_path/'a.h5').exists()
    if error is FetchError: assert left(tmp_path) == []

def test_without_checksum(tmp_path):
    with serving() as s:
        assert get(s.url, tmp_path/'a.h5', '').read_bytes() == GOOD
        with pytest.raises(FetchError, match='no .npz file'): get(s.url, tmp_path/'a.npz', '')
    with serving(no_length=True) as s, pytest.raises(FetchError, match='does not tell the size'): get(s.url, tmp_path/'b.h5', '')
    with serving(no_length=True) as s: assert get(s.url, tmp_path/'b.h5').read_bytes() == GOOD
    with serving(content=b'<html>') as s, pytest.raises(FetchError, match='web page'): get(s.url, tmp_path/'c.h5', '')

def test_names_of_the_server_are_not_listened_to(tmp_path):
    with serving(headers={'Content-Disposition': 'attachment; filename="../../evil.h5"'}) as s: get(s.url, tmp_path/'a'/'a.h5')
    assert left(tmp_path) == ['a'] and left(tmp_path/'a') == ['a.h5', 'a.h5.source.json']

def test_no_connection(tmp_path):
    with serving() as s: url = s.url
    with pytest.raises(Unfinished, match='no connection'): get(url, tmp_path/'a.h5', tries=2)
    with pytest.raises(FetchError, match='connection adapters'): get('file:///etc/passwd', tmp_path/'a.h5')

def test_mirrors(tmp_path):
    "The second goes on where the first broke off; a mirror with other bytes is passed over"
    with serving(cut=300_000) as a, serving() as b:
        assert get([a.url, a.url.replace('f.h5', '404'), b.url], tmp_path/'a.h5', tries=1).read_bytes() == GOOD
        assert b.asked == [f'bytes={300_000-(1 << 16)}-']
        assert json.loads((tmp_path/'a.h5.source.json').read_text())['url'] == b.url
    with serving(content=OTHER) as a, serving() as b: assert get([a.url, b.url], tmp_path/'b.h5').read_bytes() == GOOD
    with serving(cut=300_000) as a, serving(content=OTHER) as b, serving() as c:
        assert get([a.url, b.url, c.url], tmp_path/'c.h5', tries=1).read_bytes() == GOOD

def test_a_resumed_file_that_is_wrong_is_fetched_anew(tmp_path):
    with serving() as s:
        bad = bytearray(GOOD[:300_000])
        bad[1000] ^= 1
        (tmp_path/'.a.h5.part').write_bytes(bad)
        assert get(s.url, tmp_path/'a.h5').read_bytes() == GOOD
        assert s.asked == [f'bytes={300_000-(1 << 16)}-', None]

@pytest.mark.parametrize('known', (True, False))
@pytest.mark.parametrize('note', ('', '[1]', '{"url": "elsewhere"}', '{"url": 3, "size": "x"}'))
def test_any_leftovers(tmp_path, known, note):
    with serving() as s:
        (tmp_path/'.a.h5.part').write_bytes(OTHER[:200_000])
        (tmp_path/'.a.h5.part.json').write_text(note)
        (tmp_path/'.a.h5.lock').write_text('1 on elsewhere')
        assert get(s.url, tmp_path/'a.h5', sha(GOOD) if known else '').read_bytes() == GOOD
    assert left(tmp_path) == ['a.h5', 'a.h5.source.json']

def test_what_is_there_is_kept(tmp_path):
    path = tmp_path/'a.h5'
    with serving() as s:
        path.write_bytes(GOOD)
        assert get(s.url, path) == path and get(s.url, path, '') == path and not s.asked
        path.write_bytes(OTHER)
        with pytest.raises(DataError, match='move it away'): get(s.url, path)
        assert path.read_bytes() == OTHER
        (tmp_path/'folder').mkdir()
        with pytest.raises(InputError, match='is a folder'): get(s.url, tmp_path/'folder')

def test_disks(tmp_path, monkeypatch):
    (tmp_path/'file').touch()
    with serving() as s:
        with pytest.raises(StorageError, match='Could not write'): get(s.url, tmp_path/'file'/'a.h5')
        full = type('Usage', (), dict(free=1000))
        monkeypatch.setattr(module.shutil, 'disk_usage', lambda p: full)
        with pytest.raises(StorageError, match='needs 390.6 KiB more, and .* has 1000 B'): get(s.url, tmp_path/'a.h5')
    assert not (tmp_path/'a.h5').exists()

CHILD = '''
import sys, resource
from pathlib import Path
from astromask.core import AstroMaskError
from astromask.data.download import download
url, path, checksum, limit = sys.argv[1:]
if int(limit): resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try: download(url, path, checksum, 3, 0.01, 20)
except AstroMaskError as e: sys.exit(f'{type(e).__name__} {e}')
'''
def child(s, path, limit=0):
    args = [sys.executable, '-c', CHILD, s.url, str(path), sha(GOOD), str(limit)]
    return subprocess.Popen(args, stderr=subprocess.PIPE, text=True)

def until(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)

def test_full_disk_then_space(tmp_path):
    with serving() as s:
        p = child(s, tmp_path/'a.h5', 250_000)
        err = p.communicate()[1]
        assert p.returncode == 1 and err.startswith('StorageError Could not write') and 'free some space' in err, err
        assert (tmp_path/'.a.h5.part').stat().st_size == 250_000 and not (tmp_path/'a.h5').exists()
        assert get(s.url, tmp_path/'a.h5').read_bytes() == GOOD
        assert s.asked == [None, f'bytes={250_000-(1 << 16)}-']

def test_killed_while_another_waits(tmp_path):
    "The first is killed at half; the second, which waited, goes on; a third beside it asks for nothing"
    gate,path = threading.Event(),tmp_path/'a.h5'
    part = tmp_path/'.a.h5.part'
    with serving(dict(gate=gate), dict(delay=0.3)) as s:
        first = child(s, path)
        until(lambda: part.exists() and part.stat().st_size == 200_000)
        others = [child(s, path) for _ in range(2)]
        time.sleep(0.5)
        assert len(s.asked) == 1 and not path.exists()
        first.send_signal(signal.SIGKILL)
        gate.set()
        for p in others: assert p.wait(60) == 0, p.stderr.read()
        first.wait()
        assert s.asked == [None, f'bytes={200_000-(1 << 16)}-']
    assert path.read_bytes() == GOOD and left(tmp_path) == ['a.h5', 'a.h5.source.json']

def test_killed_at_any_time(tmp_path):
    "Whenever it is killed, the file is whole or not there, and the bytes that came are not lost"
    path,part,rng = tmp_path/'a.h5',tmp_path/'.a.h5.part',np.random.default_rng(0)
    with serving(step=4000, pause=0.004) as s:
        for share in rng.uniform(0, 1, 8):
            p,had = child(s, path),part.stat().st_size if part.exists() else 0
            goal = had + share*(len(GOOD)-had)/2
            until(lambda: p.poll() is not None or (part.exists() and part.stat().st_size > goal))
            p.kill()
            p.communicate()
            assert not path.exists() and part.stat().st_size > had
    with serving() as s: assert get(s.url, path).read_bytes() == GOOD
    assert left(tmp_path) == ['a.h5', 'a.h5.source.json'] and s.asked[0]

def test_progress(capsys):
    with module._bar('a.h5', 0, 5 << 29, every=0) as bar: bar.update(1 << 30)
    assert capsys.readouterr().out.splitlines()[1].startswith('a.h5: 1.00GB of 2.50GB, ')

def test_girder(tmp_path):
    class Girder(Handler):
        def do_GET(self):
            if not self.path.endswith('/files'): return super().do_GET()
            self.server.asked.append(self.path)
            body = self.server.listing.encode()
            self.head(200, Content_Length=len(body))
            self.wfile.write(body)
    with serving(dict(cut=300_000)) as s:
        s.RequestHandlerClass = Girder
        item = 'girder+' + s.url.replace('f.h5', 'api/v1/item/7')
        s.listing = '[{"_id": "abc", "name": "sdss.npz"}]'
        assert get(item, tmp_path/'a.h5').read_bytes() == GOOD
        assert s.asked[1:3] == [None, '/api/v1/item/7/files']
        for listing,says in (('[]', 'holds 0 files'), ('<html>', 'as a Girder server'), ('{"a": 1}', 'as a Girder server')):
            s.listing = listing
            with pytest.raises(FetchError, match=says): get(item, tmp_path/'b.h5')

def test_sources():
    assert sources['galaxy10-decals'].checksum.endswith(':19aefc477c41bb7f77ff07599a6b82a038dc042f889a111b0d4d98bb755c1571')
    assert sources['galaxy10-decals-nodup'].checksum == 'md5:a920094d5e470e3705f4691c0d6dff54'
    for s in sources.values():
        if isinstance(s, FileSource): assert all(u.removeprefix('girder+').startswith('https://') for u in s.urls)

def test_command_line(tmp_path, monkeypatch):
    def call(*args): return CliRunner().invoke(main, ['fetch', *map(str, args)])
    r = call()
    assert r.exit_code == 0 and all(name in r.output for name in sources)
    for args,says in ((['galaxy11'], 'known are'), (['galaxy10-sdss','--n','3'], 'comes whole'), (['mmu-gz10','--bands','u'], '')):
        r = call(*args, '--out', tmp_path)
        assert r.exit_code in (2,75) and says in r.stderr and r.stderr.count('\n') == 1, r.stderr
    with serving(dict(status=404)) as s:
        monkeypatch.setitem(sources, 'toy', FileSource('', 'a.h5', (s.url,), sha(GOOD)))
        assert call('toy', '--out', tmp_path).exit_code == 1
        r = call('toy', '--out', tmp_path/'new')
        assert r.exit_code == 0 and r.output.strip().endswith('new/a.h5')

# tables of the hub, from folders

@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    "Tables in the structures of Multimodal Universe, now and formerly, and of Galaxy10"
    import datasets as ds
    from PIL import Image
    ds.disable_progress_bars()
    root,rng = tmp_path_factory.mktemp('hub'),np.random.default_rng(0)
    flux,ivar = rng.normal(size=(2,23,3,6,6)).astype(np.float32)
    band = dict(band=ds.Value('string'), flux=ds.Array2D((6,6), 'float32'), ivar=ds.Array2D((6,6), 'float32'),
                mask=ds.Array2D((6,6), 'bool'), scale=ds.Value('float32'))
    more = dict(object_id=ds.Value('string'), ra=ds.Value('float64'), flags=ds.List(ds.Value('bool')), n=ds.Value('int64'))
    def row(i, bands='gri', masked=True):
        image = [dict(band=f'DES-{b.upper()}', flux=flux[i,j], scale=0.2, mask=flux[i,j] < 1) | (dict(ivar=ivar[i,j]) if masked else {})
                 for j,b in enumerate(bands)]
        return dict(image=image, object_id=f'o{i}', ra=i/7, flags=[True], n=2**60+i if i % 5 else None)
    def save(name, rows, features, shards=1):
        t = ds.Dataset.from_list(rows, ds.Features(features))
        for k in range(shards):
            (root/name/'data').mkdir(parents=True, exist_ok=True)
            t.shard(shards, k, contiguous=True).to_parquet(root/name/'data'/f'train-{k:05d}-of-{shards:05d}.parquet')
    save('mmu', [row(i) for i in range(23)], more | dict(image=ds.List(band)), 3)
    before = {k: v for k,v in band.items() if k != 'ivar'}
    def turned(r): return r | dict(image={k: [o[k] for o in r['image']] for k in before})
    save('former', [turned(row(i, masked=False)) for i in range(4)], more | dict(image={k: ds.List(v) for k,v in before.items()}))
    save('mixed', [row(0), row(1, 'gr'), row(2, 'i')], more | dict(image=ds.List(band)))
    eight = rng.integers(0, 256, (5,4,4,3)).astype(np.uint8)
    pictures = [dict(image=Image.fromarray(x), label=i) for i,x in enumerate(eight)]
    save('rgb', pictures[:3], dict(image=ds.Image(), label=ds.Value('int64')))
    t = ds.Dataset.from_list(pictures[3:], ds.Features(dict(image=ds.Image(), label=ds.Value('int64'))))
    t.to_parquet(root/'rgb'/'data'/'test-00000-of-00001.parquet')
    return dict(root=root, flux=flux, ivar=ivar, eight=eight)

def same(a, b): np.testing.assert_array_equal(a, b)

def test_multiband_tables(hub, tmp_path):
    s = HubSource('', str(hub['root']/'mmu'), survey='legacy')
    c = Cutouts.open(fetch_hub(s, tmp_path/'a.h5', block=5))
    same(c[:], np.where(hub['ivar'] > 0, hub['flux'], np.nan))
    assert c.bands == ('g','r','i') and list(c.catalog['id']) == [f'o{i}' for i in range(23)] and c.catalog['flags'].shape == (23,1)
    same(c.catalog['n'].mask, np.arange(23) % 5 == 0)
    same(c.catalog['n'][1:5], 2**60 + np.arange(1, 5))
    c = Cutouts.open(fetch_hub(HubSource('', str(hub['root']/'former')), tmp_path/'b.h5', n=3, bands='r'))
    same(c[:], np.where(hub['flux'] < 1, hub['flux'], np.nan)[:3,1:2])
    mixed = HubSource('', str(hub['root']/'mixed'))
    same(np.isnan(Cutouts.open(fetch_hub(mixed, tmp_path/'c.h5'))[:]).all((2,3)), [[0,0,0],[0,0,1],[1,1,0]])
    with pytest.raises(DataError, match='Row 2 of .* has no band of g, r; it has i'): fetch_hub(mixed, tmp_path/'d.h5', bands='gr')
    assert not (tmp_path/'d.h5').exists()

def test_columns(caplog):
    rows = [dict(image=0, v=np.arange(3, dtype=np.float32), w=np.arange(i+1), text=np.bytes_(b'ab'), deep=dict(a=1), words=np.array(['a','b'], object),
                 k=np.int64(2**60+1) if i else np.float64('nan'), ok=np.array(True) if i else None, mask=i, big=2**70) for i in range(3)]
    cells = [fetching._catalog_cells(r, 'image') for r in rows]
    with caplog.at_level('WARNING', 'astromask'): t = fetching._catalog(json.loads(json.dumps(cells)), ())
    assert t.colnames == ['v','text','k','catalog_mask','ok'] and t['v'].shape == (3,3) and list(t['text']) == ['ab']*3
    assert t['k'].mask.tolist() == t['ok'].mask.tolist() == [True,False,False] and t['k'][1] == 2**60+1
    assert 'left out: big, deep, w, words' in caplog.text

def test_colour_tables(hub, tmp_path):
    s = HubSource('', str(hub['root']/'rgb'), splits=('train','test'), rgb=('z','r','g'), labels=tuple('abcde'))
    c = Cutouts.open(fetch_hub(s, tmp_path/'a.h5', block=2))
    same(c[:], np.moveaxis(hub['eight'], -1, 1))
    assert c.bands == ('z','r','g') and c.dtype == np.float16 and list(c.catalog['split']) == ['train']*3 + ['test']*2
    assert c.catalog['label'].meta['names'] == list('abcde')
    same(Cutouts.open(fetch_hub(s, tmp_path/'b.h5', n=4, bands='gz'))[:], np.moveaxis(hub['eight'], -1, 1)[:4,[2,0]])
    with pytest.raises(InputError, match='no band u; it has z, r, g'): fetch_hub(s, tmp_path/'c.h5', bands='u')
    with pytest.raises(DataError, match="no column 'img'; it has image, label"):
        fetch_hub(HubSource('', s.repo, image='img', rgb=s.rgb), tmp_path/'c.h5')

def test_a_stream_that_breaks_goes_on(hub, tmp_path, monkeypatch):
    s,load = HubSource('', str(hub['root']/'mmu')),fetching._load
    whole = fetch_hub(s, tmp_path/'whole.h5', block=4).read_bytes()
    class Breaks:
        "Gives a few rows, then the connection is gone"
        def __init__(self, t): self.t,self.state_dict,self.load_state_dict = t,t.state_dict,t.load_state_dict
        def __iter__(self):
            for i,row in enumerate(self.t):
                if i == 7: raise ConnectionError('the hub\nis away')
                yield row
    monkeypatch.setattr(fetching, '_load', lambda *a: Breaks(load(*a)))
    for _ in range(4):
        with pytest.raises(Unfinished, match='ConnectionError: the hub is away.*goes on'): fetch_hub(s, tmp_path/'a.h5', block=4)
        assert not (tmp_path/'a.h5').exists()
    assert len(list((tmp_path/'.a.h5.parts').glob('*.npz'))) == 4
    assert fetch_hub(s, tmp_path/'a.h5', block=4).read_bytes() == whole
    assert left(tmp_path) == ['a.h5', 'whole.h5']

def test_no_hub(tmp_path):
    with pytest.raises(Unfinished, match='MultimodalUniverse/hsc has not come yet'): fetch('mmu-hsc', tmp_path)
    with pytest.raises(FetchError, match='cannot be read'): fetch_hub(HubSource('', str(tmp_path/'none')), tmp_path/'a.h5')

def test_datasets_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(InputError, match=r"pip install 'astromask\[fetch\]'"): fetch('mmu-hsc', tmp_path)
