"Pictures as they are drawn: what overlaps is measured with the renderer"
import base64, io, json
from itertools import combinations
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from astropy.table import Table
from matplotlib.transforms import Affine2D
from astromask.evaluate import figures
from astromask.evaluate.metrics import binned, classification_metrics, confusion, per_class, redshift_metrics, reliability
from astromask.plots import (colour_image, comparison_figure, history_figure, neighbours_figure, progress_figure, reconstruction_figure,
                             show_cutouts)

GALAXY10 = ('Disturbed Galaxies', 'Merging Galaxies', 'Round Smooth Galaxies', 'In-between Round Smooth Galaxies', 'Cigar Shaped Smooth Galaxies',
            'Barred Spiral Galaxies', 'Unbarred Tight Spiral Galaxies', 'Unbarred Loose Spiral Galaxies', 'Edge-on Galaxies without Bulge',
            'Edge-on Galaxies with Bulge')

# ---- nothing lies on something else

def corners(text, renderer):
    "(4,2) pixels of a text's box, turned as it is"
    angle,text_angle = text.get_rotation(),0
    text.set_rotation(0)
    flat = text.get_window_extent(renderer)
    text.set_rotation(angle)
    real = text.get_window_extent(renderer)
    x,y = np.array([[-1,1,1,-1], [-1,-1,1,1]])/2
    box = np.stack([x*(flat.width-2), y*(flat.height-2)], 1)             # a pixel to spare on each side
    turn = Affine2D().rotate_deg(angle).transform(box)
    return turn + [(real.x0+real.x1)/2, (real.y0+real.y1)/2]

def apart(a, b):
    "Is there a line between two convex outlines?"
    for p in (a, b):
        for edge in np.roll(p, 1, 0)-p:
            normal = np.array([-edge[1], edge[0]])
            if (a@normal).max() <= (b@normal).min() or (b@normal).max() <= (a@normal).min(): return True
    return False

def laid(fig):
    "What is written in a figure as it is saved, and where"
    fig.set_dpi(150)
    fig.canvas.draw()
    renderer,found = fig.canvas.get_renderer(),[]
    legends = [l for l in [*fig.legends, *(ax.get_legend() for ax in fig.axes)] if l]
    texts = list(fig.texts)
    if fig._suptitle: texts.append(fig._suptitle)
    for ax in fig.axes:
        if not ax.axison: continue
        texts += [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
        for axis in (ax.xaxis, ax.yaxis):
            low,high = sorted(axis.get_view_interval())
            texts += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_visible()]
    for t in dict.fromkeys(texts):
        if t.get_visible() and t.get_text().strip(): found.append((t.get_text(), corners(t, renderer)))
    for l in legends:
        b = l.get_window_extent(renderer)
        found.append(('legend', np.array([[b.x0,b.y0], [b.x1,b.y0], [b.x1,b.y1], [b.x0,b.y1]])))
    return found

def collisions(fig):
    "Pairs of texts and legends that lie on each other, and what hangs over the edge"
    found = laid(fig)
    w,h = fig.canvas.get_width_height()
    out = [name for name,o in found if o.min() < -1 or o[:,0].max() > w+1 or o[:,1].max() > h+1]
    return out,[(a,b) for (a,p),(b,q) in combinations(found, 2) if not apart(p, q)]

def nothing_overlaps(fig): assert collisions(fig) == ([],[])

def test_the_measure_sees_what_overlaps():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    fig = Figure((2,1))
    FigureCanvasAgg(fig)
    fig.text(.5, .5, 'one')
    fig.text(.5, .55, 'another')
    fig.text(.9, .1, 'over the edge')
    assert collisions(fig) == (['over the edge'], [('one','another')])

rng = np.random.default_rng(0)
probability = rng.dirichlet([.3]*10, 4000)
labels = np.array([rng.choice(10, p=p) for p in probability])
guesses = probability.argmax(1)

def drawn(kind):
    if kind == 'confusion': return figures.confusion_figure(confusion(labels, guesses, GALAXY10)*1000, GALAXY10)
    if kind == 'confusion of two': return figures.confusion_figure(confusion(labels[:40]%2, guesses[:40]%2, GALAXY10[3:5]), GALAXY10[3:5])
    if kind == 'roc': return figures.roc_figure(labels, probability, GALAXY10)
    if kind == 'per class': return figures.per_class_figure(per_class(labels, guesses, GALAXY10))
    names = 'forest','random probe','pretrained probe','cnn','pretrained finetune'
    if kind == 'reliability': return figures.reliability_figure({k: reliability(labels, probability) for k in names})
    if kind == 'bins':
        table = {k: binned(classification_metrics, rng.lognormal(2, 1, 4000), labels, guesses, bins=6, bootstrap=0) for k in names}
        return figures.binned_figure(table, 'accuracy', 'S/N in g', 'accuracy', log=True)
    if kind == 'redshift':
        z = rng.uniform(.01, 1, 3000)
        return figures.redshift_figure(z, z+.02*rng.normal(size=3000), redshift_metrics(z, z*1.01), truth='photometric redshift (photo_z_best)')
    if kind == 'pit': return figures.pit_figure({k: rng.uniform(size=3000) for k in ('before calibration of the network','after calibration')})
    if kind == 'comparison': return comparison_figure({k: (.5+.1*i, .02) for i,k in enumerate(GALAXY10[:5])}, 'Balanced accuracy')
    if kind == 'labels': return figures.label_efficiency_figure({k: Table(dict(n=[10,100,1000], mean=[.5,.6+.1*i,.7], std=[.01]*3)) for i,k in enumerate(names)}, 'balanced accuracy', chance=.1)
    x = rng.normal(size=(16,3,12,12))
    if kind == 'sheet': return show_cutouts(x, 'gri', [*GALAXY10, *(f'DESI_3962784{i}1234567890_really_long' for i in range(6))])
    if kind == 'long ids': return show_cutouts(x, 'gri', [f'{587722981736120347+i} {k} z=0.123' for i,k in enumerate((*GALAXY10, *GALAXY10[:6]))])
    if kind == 'small sheet': return show_cutouts(x, 'gri', [*GALAXY10, *GALAXY10[:6]], size=.6)
    if kind == 'neighbours': return neighbours_figure(x[:2], x[2:].reshape(2,7,3,12,12), [[*GALAXY10[:8]], [*GALAXY10[2:]]], 'gri')
    if kind == 'reconstruction': return reconstruction_figure(x[:6], np.ones((6,1,12,12), bool), x[:6], 'gri', GALAXY10[:6])
    if kind == 'pdfs':
        grid = np.linspace(0, 1, 50)
        return figures.pdf_page(x[:7], grid, np.exp(-(grid-rng.uniform(.2, .8, 7)[:,None])**2*200), rng.uniform(.2, .8, 7), 'gri', [f'J123456.78+12345{i}.7, unconfirmed candidate' for i in range(7)])
    step = np.arange(1, 30)*1000
    history = dict(step=step, train_loss=1/step, valid_loss=1/step, lr=1/step)
    if kind == 'history': return history_figure(history | dict(balanced_accuracy=1-1/step, nmad=1/step))
    return progress_figure(history, dict(step=step, probe_accuracy=1/step, knn_accuracy=1/step, probe_nmad=1/step, knn_nmad=1/step, rankme=step))

KINDS = ('confusion','confusion of two','roc','per class','reliability','bins','redshift','pit','comparison','labels','sheet','long ids','small sheet','neighbours',
         'reconstruction','pdfs','history','progress')

@pytest.mark.parametrize('kind', KINDS)
def test_names_titles_and_legends_do_not_overlap(kind): nothing_overlaps(drawn(kind))

# ---- colours

def star(seed=0, flux=(.3,.6,1.), n=33):
    "A bright star in three bands of noise"
    y,x = np.mgrid[:n,:n]-n//2
    light = 1e5*np.exp(-(x**2+y**2)/18)
    return np.array(flux)[:,None,None]*light + np.random.default_rng(seed).normal(size=(3,n,n))

@pytest.mark.parametrize('k', [1e-20, 1e-12, 1e12])
@pytest.mark.parametrize('noise', [1, 0])
def test_a_picture_does_not_depend_on_the_unit(k, noise):
    x = star() if noise else np.where(star() > 1000, star(), 0)
    rgb = colour_image(x, ('g','r','z'))
    assert rgb.max() > .9
    np.testing.assert_allclose(colour_image(k*x, ('g','r','z')), rgb, atol=1e-9)
    if k > 1e-13: np.testing.assert_allclose(colour_image((k*x).astype('float32'), ('g','r','z')), rgb, atol=1e-4)

@pytest.mark.parametrize('flux', [(.02,.1,1.), (1.,.1,.02), (1.,1.,1.)])
def test_a_core_keeps_its_hue_and_its_peak(flux):
    "Colours that are cut at 1 each by itself turn a red star white and flat"
    rgb = colour_image(star(flux=flux), ('g','r','z'))
    line = rgb[16,8:25]
    bright = line.max(-1)
    assert (np.diff(bright[:9]) > 0).all() and (np.diff(bright[8:]) < 0).all() and bright[8] == 1
    light = np.delete(line-.04, 2-int(np.argmin(flux)), 1)                 # without the faintest, whose noise is seen
    ratio = light[:,0]/light[:,1]
    np.testing.assert_allclose(ratio[4:13], ratio[8], rtol=.02)

def test_one_band_clipped_by_the_detector_leaves_the_others_as_they_are():
    x = star()
    clipped = x.copy()
    clipped[0] = np.minimum(x[0], 5e3)
    a,b = (colour_image(o, ('g','r','z'))[16,10:23] for o in (x, clipped))
    np.testing.assert_allclose(b[:,:2], a[:,:2], atol=2e-3)
    assert b[6,2] < a[6,2] and b.max(-1).argmax() == 6

@pytest.mark.parametrize('bands,colour', [(('F444W','F277W','F115W'), 0), (('f115w','F277W','f444w'), 2), (('HSC-I','HSC-R','HSC-G'), 0), (('W2','W1','r'), 0),
                                          (('Ks','J','g'), 0), (('VIS','NISP_H','NISP_Y'), 1), (('F606W','F062','F814W'), 2), (('one','two','three'), 2), ('zrg', 0)])
def test_red_is_the_longest_band(bands, colour):
    x = np.random.default_rng(0).normal(size=(3,32,32))
    y,z = np.mgrid[:32,:32]-16
    x[colour] += 1000*np.exp(-(y**2+z**2)/18)
    assert colour_image(x, bands)[16,16].argmax() == 0

def test_row_0_of_a_photograph_is_its_top():
    photo = np.full((2,3,16,16), 10)
    photo[:,:,:4] = 200
    hidden = np.zeros((2,1,16,16), bool)
    def top_is_bright(fig):
        fig.canvas.draw()
        image = np.asarray(fig.canvas.buffer_rgba())[...,:3].mean(-1)
        box = fig.axes[0].get_window_extent()
        column = image[:,int((box.x0+box.x1)/2)][::-1][int(box.y0)+3:int(box.y1)-3]
        return column[-len(column)//8] > column[len(column)//8]
    def figures_of(x, **kw):
        return (show_cutouts(x, 'gri', ncols=1, size=2, **kw), neighbours_figure(x, x[:,None], None, 'gri', **kw), reconstruction_figure(x, hidden, x, 'gri', **kw),
                figures.pdf_page(x, np.linspace(0, 1, 20), np.ones((2,20)), None, 'gri', **kw))
    assert all(map(top_is_bright, figures_of(photo)))
    assert not any(map(top_is_bright, figures_of(photo, origin='lower')))
    measured = photo*1.5+.1
    assert not any(map(top_is_bright, figures_of(measured)))
    assert all(map(top_is_bright, figures_of(measured, origin='upper')))

# ---- as notebooks store them

def stored_figures():
    "Name of the notebook, bytes, and what is said of how it is shown"
    for p in sorted((Path(__file__).parent.parent/'nbs').rglob('*.ipynb')):
        for o in (o for c in json.loads(p.read_text())['cells'] for o in c.get('outputs', []) if 'image/png' in o.get('data', {})):
            yield p.name, base64.b64decode(''.join(o['data']['image/png'])), o['metadata'].get('image/png')

@pytest.mark.parametrize('name', sorted({n for n,_,_ in stored_figures()}))
def test_stored_figures_are_small_and_shown_at_their_size(name):
    for _,png,shown in (o for o in stored_figures() if o[0] == name):
        im = Image.open(io.BytesIO(png))
        assert len(png) <= 170_000, f'{name}: {len(png)} bytes: run tools/figures.py on it, or draw less'
        assert shown and im.width//shown['width'] in (1,2), f'{name}: run tools/figures.py on it'
