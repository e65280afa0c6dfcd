"Reports of sweeps and arrays, and the page in which runs stand side by side, in a browser"
import json, re
import numpy as np, pyarrow.parquet as pq, pytest, yaml
from click.testing import CliRunner
from astropy.table import Table
from PIL import Image
from browser import chromium, opened, pixels
from astromask.cli import main
from astromask.cluster.pages import runs_page
from astromask.cluster.report import gather, gathered_text, joined_table, report_table
from astromask.cluster.sweeps import plan_sweep, run_sweep
from astromask.core import RunDir
from toys import toy

EVIL = '</script><script>alert("name")</script>'

def call(*args): return CliRunner().invoke(main, [str(a) for a in args])

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Five runs of a sweep, as they were left: three done, one failed, one that never began"
    folder = tmp_path_factory.mktemp('sweep')
    sweep = plan_sweep('pretrain', dict(label=EVIL), dict(vary={}, cross=dict(lr=['1e-4','1e-3','1e-2','1e-1','1'])), folder).save()
    for i,(name,given) in enumerate(list(sweep.points.items())[:4]):
        run = RunDir(sweep/name)
        run.write('params.yaml', yaml.safe_dump(given | dict(seed=0)))
        run.manifest(experiment='pretrain', state='done' if i < 3 else 'failed', error=None if i < 3 else f'The loss is NaN {EVIL}', seconds=60.-i,
                     started='20261129T120000Z', finished='20261129T120100Z', sessions=[{}])
        run.write('history.csv', 'epoch,step,train_loss,valid_loss\n' + ''.join(f'{k},{10*k},{1/(k+i):.4f},{1.1/(k+i):.4f}\n' for k in range(1, 6)))
        if i < 3: run.metrics(pretrain=dict(valid_loss=[.5, .3, .4][i]), scores=[dict(method='probe', score=.7+.1*i)])
        (run/'figures').mkdir()
        Image.fromarray(np.full((40,60,3), [[[200,0,0]], [[0,200,0]], [[0,0,200]], [[90,90,90]]][i], np.uint8)).save(run/'figures/reconstruction.png')
    return folder

# ---- reports

def test_a_report_counts_what_failed_and_writes_all_columns(runs, tmp_path):
    t = report_table(gather(runs))
    assert t['state'].tolist() == ['done']*3 + ['failed','waiting'] and t.meta['settings'] == ['lr']
    said = gathered_text(t)
    assert '5 in all: 3 done, 1 waiting, 1 failed' in said and 'lr=0.1: failed: The loss is NaN' in said
    for ending in ('csv','parquet'):
        r = call('report', runs, '--out', tmp_path/f't.{ending}')
        assert r.exit_code == 0, r.output
    again = Table.read(tmp_path/'t.csv', format='ascii.csv')
    assert again['valid_loss'][:3].tolist() == [.5, .3, .4] and again['valid_loss'].mask[3:].all()
    assert pq.read_table(tmp_path/'t.parquet')['lr'].to_pylist() == [1e-4, 1e-3, 1e-2, .1, 1]
    assert call('report', runs, '--out', tmp_path/'t.fits').exit_code == 2
    assert joined_table(gather(runs), 'scores')['score'].tolist() == pytest.approx([.7, .8, .9])

def test_a_report_says_what_it_lacks(runs, tmp_path):
    for args,why in (([tmp_path], 'There is no run in'), ([runs, '--numbers', 'nmad'], 'No run has nmad'), ([runs, '--table', 'curves'], "No run has a table 'curves'"),
                     ([runs/'x.txt'], 'is no run, no sweep and no table')):
        r = call('report', *args)
        assert r.exit_code == 2 and why in r.stderr

@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was(tmp_path):
    "Points one after the other; one fails, a stop ends the sweep, the same call goes on"
    nb = toy(tmp_path)
    def plan(): return plan_sweep(nb, dict(epochs='3', seconds='0.01'), dict(vary=dict(fail=['InputError'], chatter=['5']), cross={}), tmp_path/'sweep')
    began = []
    def stop():                                                      # as soon as the second point has begun
        began.extend([1] if (tmp_path/'sweep/fail=InputError').exists() else [])
        return bool(began)
    with pytest.raises(Exception, match='Stopped before'): run_sweep(plan(), stop)
    assert [report_table(gather(tmp_path/'sweep'))['state'][i] for i in (0,2)] == ['done','waiting']
    assert run_sweep(plan()) == {'fail=InputError': 2, 'chatter=5': 0}
    t = report_table(gather(tmp_path/'sweep'))
    assert t['state'].tolist() == ['done','failed','done'] and t['epochs'].tolist() == [3,None,3]
    assert 'told to fail' in t['why'][1]

# ---- the page

def test_text_of_others_stays_text(runs):
    page = runs_page(gather(runs), EVIL)
    assert EVIL not in page and page.count('<script') == page.count('</script')
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])
    assert [r['name'] for r in data['runs']] == list(runs_names(runs)) and data['runs'][0]['params']['label'] == EVIL
    assert data['runs'][4]['curves'] == {} and data['runs'][0]['curves']['history']['step'] == [10,20,30,40,50]

def runs_names(runs): return json.loads((runs/'sweep.json').read_text())['points']

@pytest.mark.slow
def test_the_page_in_a_browser(runs, tmp_path):
    "It asks for nothing, sorts, finds, and draws curves and figures of what is chosen"
    path = tmp_path/'runs.html'
    assert call('report', runs, '--page', path).exit_code == 0
    with chromium() as browser, opened(browser, path) as page:
        page.wait_for_selector('body[data-state=ready]')
        names = lambda: page.locator('#runs tbody tr').evaluate_all('o => o.map(r => r.cells[0].textContent.trim())')
        assert names() == list(runs_names(runs))
        page.get_by_role('button', name='valid_loss').click()
        assert names()[:3] == ['lr=0.001','lr=0.01','lr=0.0001']
        assert page.locator('#runs th[aria-sort=ascending]').count() == 1
        page.get_by_role('button', name='valid_loss').click()
        assert names()[:3] == ['lr=0.0001','lr=0.01','lr=0.001']    # what has no number stays last
        charts = page.locator('.charts figure')
        assert charts.count() == 2 and charts.first.locator('path').count() == 4
        assert page.locator('.pictures img').count() == 4
        shot = pixels(page.locator('.pictures img').first)
        assert np.abs(shot.reshape(-1, 3).mean(0) - [200,0,0]).max() < 12       # the first in the table's order
        page.locator('#runs tbody input').first.uncheck()
        assert charts.first.locator('path').count() == 3 and page.locator('.pictures img').count() == 3
        page.fill('#find', 'state=failed')
        assert names() == ['lr=0.1'] and charts.first.locator('path').count() == 1
        assert 'The loss is NaN </script>' in page.locator('#why').text_content()
        page.fill('#find', '')
        page.locator('#log').check()
        page.select_option('#against', 'epoch')
        box = charts.first.locator('svg').bounding_box()
        page.mouse.move(box['x']+box['width']*.9, box['y']+box['height']*.8)
        assert page.locator('#settings tbody tr').count() == 1      # lr alone differs
        page.locator('#same').check()
        assert page.locator('#settings tbody tr').count() == 3
