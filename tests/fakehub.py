"A hub on this machine: the requests that huggingface_hub makes to push and to fetch a model, answered as the Hub's documentation says"
import base64, hashlib, json, threading, yaml
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = 'hf_write'

class FakeHub:
    "with FakeHub() as hub: ... endpoint=hub.url. What was pushed is in hub.repos[name]['commits'][-1]['files']"
    def __init__(self, mode='regular'):
        self.mode = mode                # how weights are uploaded: 'regular', in the commit itself; or 'lfs', beside it
        self.repos,self.objects,self.requests = {},{},[]
        self.cut = 0                    # how many answers with weights break off half way
        self.gated = self.broken = False

    def __enter__(self):
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), type('H', (_Handler,), dict(hub=self)))
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, kwargs=dict(poll_interval=.01), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def commit(self, name, files):
        "A new version: the old files and these"
        commits = self.repos[name]['commits']
        files = (commits[-1]['files'] if commits else {}) | files
        commits.append(dict(files=files, oid=hashlib.sha1(f'{name}{len(commits)}'.encode()).hexdigest()))
        return commits[-1]['oid']

    def at(self, name, revision):
        "The commit that a branch or a hash names"
        commits = self.repos[name]['commits']
        if revision == 'main': return commits[-1]
        return next((c for c in commits if c['oid'] == revision), None)

class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass

    def answer(self, body=b'', status=200, **headers):
        if not isinstance(body, bytes): body,headers = json.dumps(body).encode(), {'Content-Type': 'application/json'} | headers
        self.send_response(status)
        for k,v in headers.items(): self.send_header(k.replace('_', '-'), v)
        if 'Content-Length' not in headers: self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def fail(self, status, code='', message=''):
        self.answer(dict(error=message or code), status, **({'X-Error-Code': code} if code else {}), **({'X-Error-Message': message} if message else {}))

    def handle_request(self):
        self.body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        self.parts = [unquote(o) for o in urlsplit(self.path).path.strip('/').split('/')]
        self.hub.requests.append((self.command, self.path))
        if self.hub.broken: return self.fail(500, message='the hub is ill')
        match self.command, self.parts:
            case 'POST', ['api','repos','create']: self.create()
            case 'POST', ['api','validate-yaml']: self.validate()
            case 'PUT', ['lfs', oid]: self.put(oid)
            case 'POST', ['api','models', owner, name, 'preupload', _]: self.preupload()
            case 'POST', ['api','models', owner, name, 'commit', _]: self.commit(f'{owner}/{name}')
            case 'POST', [owner, git, 'info','lfs','objects','batch']: self.batch()
            case 'GET', ['api','models', owner, name, *rest]: self.info(f'{owner}/{name}', rest)
            case ('GET' | 'HEAD'), [owner, name, 'resolve', revision, *path]: self.resolve(f'{owner}/{name}', revision, '/'.join(path))
            case _: self.fail(404, 'RepoNotFound')

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def allowed(self): return self.headers.get('Authorization') == f'Bearer {TOKEN}'

    # writing
    def create(self):
        if not self.headers.get('Authorization'): return self.fail(401, message='Invalid username or password.')
        if not self.allowed(): return self.fail(403, message='You do not have the rights to create a model under this namespace')
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = dict(url=f'{self.hub.url}/{name}')
        if name in self.hub.repos: return self.answer(url, 409)
        self.hub.repos[name] = dict(private=asked.get('visibility') == 'private', commits=[])
        self.answer(url)

    def validate(self):
        text = json.loads(self.body)['content'].split('---\n')
        good = len(text) > 2 and not text[0] and isinstance(yaml.safe_load(text[1]), dict)
        self.answer(dict(errors=[] if good else [dict(message='no front matter')], warnings=[]), 200 if good else 400)

    def preupload(self):
        if not self.allowed(): return self.fail(403)
        def mode(path): return self.hub.mode if path.endswith('.safetensors') else 'regular'
        self.answer(dict(files=[dict(path=f['path'], uploadMode=mode(f['path']), shouldIgnore=False) for f in json.loads(self.body)['files']]))

    def batch(self):
        objects = [o | dict(actions=dict(upload=dict(href=f'{self.hub.url}/lfs/{o["oid"]}'))) for o in json.loads(self.body)['objects']]
        self.answer(dict(transfer='basic', objects=objects))

    def put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid: return self.fail(400, message='other bytes than announced')
        self.hub.objects[oid] = self.body
        self.answer()

    def commit(self, name):
        if not self.allowed(): return self.fail(403)
        files = {}
        for line in map(json.loads, self.body.splitlines()):
            value = line['value']
            if line['key'] == 'file': files[value['path']] = base64.b64decode(value['content'])
            if line['key'] == 'lfsFile': files[value['path']] = self.hub.objects[value['oid']]
        oid = self.hub.commit(name, files)
        self.answer(dict(success=True, commitOid=oid, commitUrl=f'{self.hub.url}/{name}/commit/{oid}'))

    # reading
    def find(self, name, revision):
        "The commit; or the error that the Hub would answer, and None"
        repo = self.hub.repos.get(name)
        if repo is None or (repo['private'] and not self.allowed()): return self.fail(404 if self.allowed() else 401, 'RepoNotFound')
        if self.hub.gated and not self.allowed(): return self.fail(403, 'GatedRepo')
        return self.hub.at(name, revision) or self.fail(404, 'RevisionNotFound')

    def info(self, name, rest):
        revision = rest[1] if len(rest) > 1 else 'main'
        if not rest and name in self.hub.repos and not self.hub.repos[name]['commits']: return self.answer(dict(id=name, private=self.hub.repos[name]['private']))
        commit = self.find(name, revision)
        if commit is None: return
        if rest and rest[0] == 'tree':
            return self.answer([dict(type='file', path=p, size=len(b), oid=hashlib.sha1(b).hexdigest()) for p,b in commit['files'].items()])
        self.answer(dict(id=name, sha=commit['oid'], private=self.hub.repos[name]['private'], siblings=[dict(rfilename=p) for p in commit['files']]))

    def resolve(self, name, revision, path):
        commit = self.find(name, revision)
        if commit is None: return
        data,headers = commit['files'].get(path), {'X-Repo-Commit': commit['oid']}
        if data is None: return self.answer(b'', 404, **{'X-Error-Code': 'EntryNotFound'}, **headers)
        headers |= dict(ETag=f'"{hashlib.sha256(data).hexdigest()}"')
        if self.command == 'HEAD': return self.answer(data, **headers)
        start = int((self.headers.get('Range') or 'bytes=0-').removeprefix('bytes=').split('-')[0])
        whole,data = len(data), data[start:]
        if start: headers |= {'Content-Range': f'bytes {start}-{whole-1}/{whole}'}
        if path.endswith('.safetensors') and self.hub.cut:
            self.hub.cut -= 1
            self.close_connection = True
            return self.answer(data[:len(data)//2], 206 if start else 200, **headers | {'Content-Length': str(len(data))})
        self.answer(data, 206 if start else 200, **headers)
