"Make the figures that notebooks store sharp and small: `python tools/figures.py [notebook...]`, after they were executed"
import base64, io, json, sys
from pathlib import Path
from PIL import Image

root = Path(__file__).parent.parent
MOST = 60_000       # bytes

def small(png):
    "The same picture in as few colours as it needs to be small"
    im = Image.open(io.BytesIO(png))
    found = png
    for colours in (256, 128, 64, 32):
        if im.mode == 'P': return png                    # it was done before
        out = io.BytesIO()
        flat = Image.new('RGB', im.size, 'white')
        flat.paste(im, mask=im.convert('RGBA').getchannel('A'))
        flat.quantize(colours, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE).save(out, 'png', optimize=True, dpi=im.info.get('dpi', (72,72)))
        if len(out.getvalue()) < len(found): found = out.getvalue()
        if len(found) <= MOST: break
    return found

def size(png):
    "Width and height at which it is shown: half of its pixels where it was drawn twice as sharp"
    im = Image.open(io.BytesIO(png))
    k = 2 if im.info.get('dpi', (72,72))[0] > 130 else 1
    return dict(width=im.width//k, height=im.height//k)

def sharpen(path):
    "Rewrite a notebook's figures where that makes a difference; returns their sizes in bytes"
    nb = json.loads(path.read_text())
    sizes = []
    for o in (o for c in nb['cells'] for o in c.get('outputs', []) if 'image/png' in o.get('data', {})):
        png = small(base64.b64decode(''.join(o['data']['image/png'])))
        o['data']['image/png'] = base64.b64encode(png).decode()
        o['metadata'] = o.get('metadata', {}) | {'image/png': size(png)}
        sizes.append(len(png))
    text = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True)+'\n'
    if text != path.read_text(): path.write_text(text)
    return sizes

if __name__ == '__main__':
    paths = [Path(o) for o in sys.argv[1:]] or sorted(p for p in (root/'nbs').rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(root).parts))
    for p in paths:
        if sizes := sharpen(p): print(p.name, *(f'{n/1000:.0f} kB' for n in sizes))
