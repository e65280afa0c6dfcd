"Build the site into _docs/: with Quarto where it is installed, with smalldocs where it is not. `make docs` calls this."
import argparse, json, re, shutil, sys, tempfile
from pathlib import Path
from nbdev.config import get_config
from nbdev.quarto import nbdev_docs, refresh_quarto_yml
from nbdev.serve import proc_nbs
from smalldocs.cli import main as smalldocs

def for_smalldocs(folder):
    """Give pages the names that nbdev's links use: 10_data.cutouts.ipynb becomes data.cutouts.ipynb, in links and sidebar too
    (Quarto does that by itself, from each page's `output-file`, which smalldocs does not know)"""
    names = {}
    for nb in folder.rglob('*.ipynb'):
        front = ''.join(json.loads(nb.read_text())['cells'][0]['source'])
        if page := re.search(r'^output-file: (\S+)\.html$', front, re.M): names[nb] = nb.with_name(f'{page[1]}.ipynb')
    for file in [*folder.rglob('*.ipynb'), folder/'_quarto.yml']:
        text = re.sub(r'"output-file: .*?\\n",?', '', file.read_text())
        for old,new in names.items(): text = re.sub(rf'(?<![\w.]){re.escape(old.name)}', new.name, text)
        file.write_text(text)
    for old,new in names.items(): old.rename(new)
    config = folder/'nbdev.yml'
    config.write_text(config.read_text().split('format-links:')[0])

def small_site(out):
    "Render what nbdev has processed with smalldocs"
    refresh_quarto_yml()
    pages = proc_nbs(n_workers=2)
    with tempfile.TemporaryDirectory() as d:
        site = shutil.copytree(pages, Path(d)/'site', ignore=shutil.ignore_patterns('_docs'))
        for_smalldocs(site)
        if smalldocs(['render', '--quiet', str(site)]): sys.exit('smalldocs could not render the site')
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(site/get_config().doc_path.name, out)

def live(model, out):
    "Put the live page of a model into the site"
    from astromask.data.cutouts import Cutouts
    from astromask.discover.live import example_cutouts, live_page
    from astromask.models.weights import load_model
    m = load_model(model)
    return live_page(m, out, Cutouts.open(example_cutouts(m, 24)), overwrite=True)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default=get_config().doc_path, type=Path, help='where the site goes')
    parser.add_argument('--live', metavar='MODEL', help='a pretrained model, whose live page goes to live/index.html')
    args = parser.parse_args()
    out = args.out.absolute()
    if shutil.which('quarto'):
        nbdev_docs.__wrapped__()
        if out != get_config().doc_path: shutil.copytree(get_config().doc_path, out, dirs_exist_ok=True)
    else: small_site(out)
    if args.live: live(args.live, out/'live')
    print(f'The site is in {out}: open {out}/index.html')
