"Write README.md from nbs/index.ipynb: prose as it is, code and its results fenced, pictures as files. `make readme` calls this."
import base64, json, re
from pathlib import Path

root = Path(__file__).parent.parent

def results(cell):
    "What a code cell gave, in Markdown; pictures are written to nbs/images/"
    for i,o in enumerate(cell['outputs']):
        data = o.get('data', {})
        text = ''.join(data.get('text/plain', '')).rstrip()
        if 'image/png' in data:
            file = root/f'nbs/images/index-{cell["id"]}-{i}.png'
            file.write_bytes(base64.b64decode(data['image/png']))
            yield f'![]({file.relative_to(root)})'
        elif text: yield f'```\n{text}\n```'

def readme():
    "README.md's text"
    parts = ['<!-- Made from nbs/index.ipynb by `make readme`: edit there -->']
    for cell in json.loads((root/'nbs/index.ipynb').read_text())['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(re.sub(r'\]\((?!\w+:|#)', '](nbs/', source)) # links leave from the top
        elif '#| hide' not in source:
            code = re.sub(r'(?m)^#\|.*\n', '', source).strip()
            parts += [f'```python\n{code}\n```', *results(cell)]
    return '\n\n'.join(parts) + '\n'

if __name__ == '__main__': (root/'README.md').write_text(readme())
