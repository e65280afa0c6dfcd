"""Bundle the pages in web/ into astromask/web/, each with its script, style and the licences of what it brings:
`make web`, or `python tools/web.py` (needs npm and the network, once). What is made is committed, so that users need neither."""
import hashlib, json, re, subprocess
from pathlib import Path

root = Path(__file__).parent.parent
web = root/'web'
ALONE = 'onnxruntime-web',      # the file of it that we take has nothing of the packages that it names but what its text in web/licences/ says

def pages(): return sorted(web.glob('*.html'))

def sources(page):
    "The files that a page is made of, and what they say in sum"
    files = [page, page.with_suffix('.css'), page.with_suffix('.js'), web/'package-lock.json']
    return hashlib.sha256(b'\0'.join(f.read_bytes() for f in files)).hexdigest()

def brings(packages):
    "These packages and all that they need: some come with their dependencies already inside"
    lock = json.loads((web/'package-lock.json').read_text())['packages']
    found,left = set(),list(packages)
    while left:
        package = left.pop()
        if package in found: continue
        found.add(package)
        if package not in ALONE: left += lock[f'node_modules/{package}'].get('dependencies', {})
    return sorted(found)

def bundle(script):
    "A script with all that it imports, and the packages that these are"
    made,facts = web/'node_modules/.made.js', web/'node_modules/.made.json'
    subprocess.run([web/'node_modules/.bin/esbuild', script, '--bundle', '--minify', '--format=iife', '--target=es2020', '--charset=utf8',
                    '--legal-comments=none', '--log-level=warning', f'--outfile={made}', f'--metafile={facts}'], cwd=web, check=True)
    inputs = json.loads(facts.read_text())['inputs']
    return made.read_text(), brings({m[1] for f in inputs if (m := re.match(r'node_modules/((?:@[^/]+/)?[^/]+)', f))})

def licence(package):
    "What must go along with a package; web/licences/ has what others copied into it"
    folder = web/'node_modules'/package
    facts = json.loads((folder/'package.json').read_text())
    texts = [*sorted(p for p in folder.iterdir() if re.match('licen[cs]e', p.name, re.I))[:1], *web.glob(f'licences/{package}.txt')]
    if not texts: raise SystemExit(f'{package} brings no licence: put its text into web/licences/{package}.txt')
    return f'{package} {facts["version"]} ({facts["license"]})\n\n' + '\n\n'.join(p.read_text().strip() for p in texts) + '\n'

def build(page):
    "Write a page with everything in it but its title and its data"
    script,packages = bundle(page.with_suffix('.js'))
    own = f'astromask (MIT)\n\n{(root/"LICENSE").read_text().strip()}\n'
    texts = dict(style=page.with_suffix('.css').read_text(), script=script, licences='\n'.join([own, *map(licence, packages)]), sources=sources(page))
    assert not any('</script' in t or '<!--' in t for t in texts.values()), 'this text would end its element'
    out = root/'astromask/web'/page.name
    out.write_text(re.sub(r'\{\{(style|script|licences|sources)\}\}', lambda m: texts[m[1]], page.read_text()))
    print(f'{out.relative_to(root)}: {out.stat().st_size/1e3:.0f} kB, with {", ".join(packages)}')

if __name__ == '__main__':
    subprocess.run(['npm', 'ci', '--no-audit', '--no-fund', '--silent'], cwd=web, check=True)
    for page in pages(): build(page)
