"AstroMAE's weights: models under its code's names, written a second time here, pickled, exported where that code is, read here"
import importlib, json, subprocess, sys, warnings
from pathlib import Path
import numpy as np, pytest, torch
from astromask.core import AstroMaskError, DataError, InputError
from astromask.models import export_pickled
from astromask.models.astromae_weights import load_astromae
from astromask.models.heads import Predictor
from astromask.models.mae import MAE
from astromask.models.pretrained import load_mae_checkpoint, read_checkpoint
from astromask.models.weights import load_model, save_model
from astromask.train.finetune import begin_head

# The modules of AstroMAE's repository, by its names and from its description, with nothing of ours

CELL = '''
import torch
from torch import nn

class Attention(nn.Module):
    def __init__(self, dim, num_heads, cell):
        super().__init__()
        self.num_heads,self.qkv,self.proj = num_heads,nn.Linear(dim, 3*dim, bias=not cell),nn.Linear(dim, dim)
        if cell: self.q_bias,self.v_bias = nn.Parameter(torch.randn(dim)),nn.Parameter(torch.randn(dim))

    def forward(self, x):
        B,N,D = x.shape
        y = self.qkv(x)
        if hasattr(self, 'q_bias'): y = y + torch.cat([self.q_bias, torch.zeros(D), self.v_bias])
        q,k,v = (o.reshape(B, N, self.num_heads, -1).transpose(1, 2) for o in y.chunk(3, -1))
        a = (q @ k.transpose(2, 3) / (D/self.num_heads)**.5).softmax(-1)
        return self.proj((a @ v).transpose(1, 2).reshape(B, N, D))

class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1,self.fc2 = nn.Linear(dim, 4*dim),nn.Linear(4*dim, dim)
    def forward(self, x): return self.fc2(nn.functional.gelu(self.fc1(x)))

class NormalCell(nn.Module):
    def __init__(self, dim, num_heads, cell=True, eps=1e-6):
        super().__init__()
        self.norm1,self.norm2 = nn.LayerNorm(dim, eps=eps),nn.LayerNorm(dim, eps=eps)
        self.attn,self.mlp = Attention(dim, num_heads, cell),Mlp(dim)
        if cell: self.PCM = nn.Sequential(nn.Conv2d(dim, 4*dim, 3, 1, 1), nn.BatchNorm2d(4*dim), nn.SiLU(), nn.Conv2d(4*dim, dim, 3, 1, 1))

    def forward(self, x):
        B,N,D = x.shape
        near = 0
        if hasattr(self, 'PCM'):
            side = int((N-1)**.5)
            near = self.PCM(x[:,1:].transpose(1, 2).reshape(B, D, side, side)).flatten(2).transpose(1, 2)
            near = torch.cat([torch.zeros(B, 1, D), near], 1)
        x = x + self.attn(self.norm1(x)) + near
        return x + self.mlp(self.norm2(x))
'''
PHOTOZ = '''
import torch
from torch import nn

class ConvBlock(nn.Module):
    def __init__(self, n_in, n_out, size):
        super().__init__()
        self.conv,self.bn = nn.Conv2d(n_in, n_out, size, padding=size//2),nn.BatchNorm2d(n_out)
    def forward(self, x): return self.bn(self.conv(x)).clamp(min=0)

class InceptionBlock(nn.Module):
    def __init__(self, n_in, n, last=False):
        super().__init__()
        self.last = last
        self.branch1 = ConvBlock(n_in, n, 1)
        self.branch2 = nn.Sequential(ConvBlock(n_in, n, 1), ConvBlock(n, n, 3))
        self.branch3 = nn.Sequential(ConvBlock(n_in, n, 1), ConvBlock(n, n, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvBlock(n_in, n, 1))
    def forward(self, x):
        used = [self.branch1, self.branch2, self.branch4] if self.last else [self.branch1, self.branch2, self.branch3, self.branch4]
        return torch.cat([b(x) for b in used], 1)

class Input_Mix_Model(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv2d_init = nn.Conv2d(5, 32, 1)
        halve = lambda: nn.AvgPool2d(2)
        self.magnitude_block = nn.Sequential(*[o for i in range(5) for o in (nn.Linear(1024 if i else 5, 1024), nn.ReLU())][:-1])
        self.vis_inception = nn.Sequential(
            self.conv2d_init, halve(), InceptionBlock(32, 16), InceptionBlock(64, 16), halve(), InceptionBlock(64, 8), InceptionBlock(32, 8),
            halve(), InceptionBlock(32, 4, True), nn.Flatten(), nn.Linear(dim, 1096), nn.ReLU(), nn.Linear(1096, 1096))
    def forward(self, x): return torch.cat([self.vis_inception(x[0]), self.magnitude_block(x[1].float())], 1)
'''
ASTRO = '''
import torch
from torch import nn
from NormalCell import NormalCell
from blocks.photoz import Input_Mix_Model

class PatchEmbed(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Conv2d(5, dim, 8, 8)
    def forward(self, x): return self.proj(x).flatten(2).transpose(1, 2)

class ViT_Astro(nn.Module):
    def __init__(self, dim, L, cell, heads=3, eps=1e-6):
        super().__init__()
        self.fc_norm,self.head = nn.LayerNorm(dim, eps=1e-6),nn.Linear(dim, dim)
        self.inception_model = Input_Mix_Model(dim)
        self.cls_token,self.pos_embed = nn.Parameter(torch.randn(1, 1, dim)),nn.Parameter(torch.randn(1, L+1, dim), False)
        self.blocks = nn.ModuleList([NormalCell(dim, heads, cell, eps) for _ in range(2)])
        self.patch_embed = PatchEmbed(dim)
        self.vit_block = nn.Sequential(nn.Linear(dim, 1096), nn.ReLU(), nn.Linear(1096, 1096))
        self.concat_block = nn.Sequential(nn.Linear(3216, 1024), nn.ReLU(), nn.Linear(1024, 1))

    def tokens(self, x):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for b in self.blocks: x = b(x)
        return x[:,1:]

    def forward(self, x):
        z = self.vit_block(self.head(self.fc_norm(self.tokens(x[0]).mean(1))))
        return self.concat_block(torch.cat([z, self.inception_model(x)], 1))
'''
SIZE,DIM,L = 16,48,4          # the pixel branch ends with 12 maps of an eighth of the side: 48 numbers

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with AstroMAE's modules"
    path = tmp_path_factory.mktemp('Anomaly Detection')
    (path/'blocks').mkdir()
    for name,text in {'NormalCell.py': CELL, 'blocks/photoz.py': PHOTOZ, 'blocks/model_vit_inception.py': ASTRO}.items(): (path/name).write_text(text)
    return path

def theirs(home, pickle_to=None, **kw):
    "One of their models with random weights; its modules are forgotten again"
    sys.path.insert(0, str(home))
    try:
        m = importlib.import_module('blocks.model_vit_inception').ViT_Astro(DIM, L, **kw).eval()
        g = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for k,v in m.state_dict().items():
                if k.endswith('running_var'): v.uniform_(.5, 2, generator=g)
                elif v.is_floating_point() and v.ndim < 2: v.add_(torch.randn(v.shape, generator=g)*.1)
        if pickle_to: torch.save(torch.nn.DataParallel(m), pickle_to)
    finally:
        sys.path.remove(str(home))
        for k in [k for k in sys.modules if k.split('.')[0] in ('blocks','NormalCell')]: del sys.modules[k]
    return m

def images(): return torch.randn(3, 5, SIZE, SIZE, generator=torch.Generator().manual_seed(1)), 18+torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
def quietly(*args, **kw):
    with warnings.catch_warnings(action='ignore'): return load_astromae(*args, **kw)

def test_a_pickle_becomes_a_predictor(home, tmp_path):
    "The whole way: pickled as theirs is, refused, exported by the script alone in another process, loaded, saved as ours"
    m = theirs(home, home/'model.pt', cell=True)
    for load in (load_astromae, load_mae_checkpoint, read_checkpoint):
        with pytest.raises(DataError, match='which is code and not data, so it is not opened; .* with astromask/models/export_pickled.py') as e: load(home/'model.pt')
        assert '\n' not in str(e.value) and 'blocks' not in sys.modules

    script = tmp_path/'export_pickled.py'                                    # alone, without AstroMASK within reach
    script.write_text(Path(export_pickled.__file__).read_text())
    run = lambda *args: subprocess.run([sys.executable, '-P', script, *args], cwd=home, capture_output=True, text=True, env={'PYTHONNOUSERSITE': '1'})
    done = run('model.pt', tmp_path/'w.pth')
    assert done.returncode == 0 and 'tensors of ViT_Astro' in done.stdout and not done.stderr, done.stderr

    with pytest.warns(UserWarning, match='in which units pixels and magnitudes are.*u, g, r, i, z, in this order') as said: p = load_astromae(tmp_path/'w.pth', licence='Apache-2.0')
    assert len(said) == 1 and isinstance(p, Predictor) and not p.training and p.bands == tuple('ugriz') and p.magnitudes == tuple(f'mag_{b}' for b in 'ugriz')
    assert p.encoder.config['block'] == 'vitae' and p.encoder.config['num_heads'] == 3 and p.encoder.config['positions'] == 'learned' and p.scaling is None
    x,mags = images()
    with torch.no_grad(): z = m([x, mags])[:,0]
    assert (p.predict(x, mags)['z']-z).abs().max() < 1e-5*z.abs().max()+1e-7 and z.std() > 1e-3
    told = json.loads((tmp_path/'w.json').read_text())
    assert p.source['layout'] == 'AstroMAE, fine-tuned' and p.source['pickle_sha256'] == told['pickle_sha256'] and told['num_heads'] == {'blocks.0.attn': 3, 'blocks.1.attn': 3}

    save_model(p, tmp_path/'ours')
    assert torch.equal(load_model(tmp_path/'ours').predict(x, mags)['z'], p.predict(x, mags)['z'])
    begin_head(p, dict(y=torch.tensor([.1,.2,.3]), mags=mags), np.arange(3))                          # fine-tuning leaves what has learned
    assert (p.predict(x, mags)['z']-z).abs().max() < 1e-5*z.abs().max()+1e-7
    x[0,2] = np.nan
    mags[1,3] = np.nan
    assert p.predict(x, mags)['z'].isfinite().all()

@pytest.fixture
def exported(home, tmp_path):
    def make(name='w.pth', **kw):
        m = theirs(home, **kw)
        torch.save({'model': m.state_dict()}, tmp_path/name)
        told = export_pickled.told_by_code(m) | dict(shapes={k: list(v.shape) for k,v in m.state_dict().items()})
        (tmp_path/name).with_suffix('.json').write_text(json.dumps(told))
        return m,tmp_path/name,told
    return make

def test_plain_blocks_heads_and_epsilons(exported):
    x,mags = images()
    for kw in (dict(cell=False, heads=6), dict(cell=True, heads=2)):
        m,file,_ = exported(**kw)
        p = quietly(file, bands='abcde', magnitudes=list('vwxyz'))
        with torch.no_grad(): z = m([x, mags])[:,0]
        assert (p.predict(x, mags)['z']-z).abs().max() < 1e-5*z.abs().max()+1e-7 and p.bands == tuple('abcde') and p.magnitudes == tuple('vwxyz')
    m,file,_ = exported(cell=True, eps=1e-2)
    with pytest.raises(InputError, match=r'modules with different norm_eps \(1e-06, 0.01\)'): load_astromae(file)
    with torch.no_grad():
        right,wrong = ((quietly(file, norm_eps=e).embed(x) - m.tokens(x).mean(1)).abs().max() for e in (1e-2,1e-6))
    assert right < 1e-5 and wrong > 1e-3

def test_every_name_and_shape_is_checked(exported):
    m,file,told = exported(cell=True)
    t = m.state_dict()
    def refused(match, new, beside=False):
        torch.save({'model': new}, file)
        if not beside: file.with_suffix('.json').unlink(missing_ok=True)
        with pytest.raises(AstroMaskError, match=match) as e: load_astromae(file, num_heads=3)
        assert '\n' not in str(e.value) and str(file) in str(e.value)
    refused('w.json describes other tensors than .*w.pth holds', t | dict(more=torch.zeros(1)), beside=True)
    for k in ('concat_block.2.bias', 'blocks.1.PCM.1.running_mean', 'inception_model.magnitude_block.4.weight', 'inception_model.vis_inception.8.branch4.1.bn.weight',
              'vit_block.0.weight', 'cls_token', 'blocks.0.attn.qkv.weight'): refused('lacks|shapes', {o: v for o,v in t.items() if o != k})
    for k in ('inception_model.vis_inception.3.branch2.0.conv.bias', 'fc_norm.bias', 'blocks.0.attn.q_bias'): refused('do not fit each other', t | {k: torch.zeros(7, 7)})
    refused('has, beyond what this layout has, strange', t | dict(strange=torch.zeros(1)))
    refused('conv2d_init is not vis_inception.0', t | {'inception_model.conv2d_init.bias': torch.ones(32)})
    with pytest.raises(InputError, match='fine-tuned: use load_astromae'):
        torch.save({'model': t}, file)
        load_mae_checkpoint(file, bands='ugriz')

def pretrained(home, cell):
    "Their model as pretraining has it: the same encoder, a norm, a decoder of plain blocks"
    m = theirs(home, cell=cell)
    block = type(m.blocks[0])
    m.norm,m.decoder_embed,m.decoder_norm = torch.nn.LayerNorm(DIM, eps=1e-6),torch.nn.Linear(DIM, 24),torch.nn.LayerNorm(24, eps=1e-6)
    m.decoder_pred,m.decoder_blocks = torch.nn.Linear(24, 8*8*5),torch.nn.ModuleList([block(24, 3, False)])
    m.mask_token,m.decoder_pos_embed = torch.nn.Parameter(torch.randn(1,1,24)),torch.nn.Parameter(torch.randn(1, L+1, 24))
    for k in ('fc_norm','head','inception_model','vit_block','concat_block'): delattr(m, k)
    return m

def their_loss(m, x, mask):
    "Patches that the mask leaves, an encoder, a decoder, the squared error of pixels"
    patches = x.reshape(-1, 5, 2, 8, 2, 8).permute(0,2,4,3,5,1).reshape(-1, L, 320)
    z = m.patch_embed(x) + m.pos_embed[:,1:]
    z = torch.cat([(m.cls_token+m.pos_embed[:,:1]).expand(len(x), -1, -1), z[~mask].reshape(len(x), -1, DIM)], 1)
    for b in m.blocks: z = b(z)
    z = m.decoder_embed(m.norm(z))
    y = m.mask_token.expand(len(x), L, -1).clone()
    y[~mask] = z[:,1:].flatten(0, 1)
    y = torch.cat([z[:,:1], y], 1) + m.decoder_pos_embed
    for b in m.decoder_blocks: y = b(y)
    return (m.decoder_pred(m.decoder_norm(y))[:,1:]-patches)[mask].square().mean()

@pytest.mark.parametrize('cell', [False,True])
def test_what_pretraining_left(home, tmp_path, cell):
    m = pretrained(home, cell)
    torch.save({'model': m.state_dict(), 'epoch': 3}, tmp_path/'mae.pth')
    with pytest.warns(UserWarning, match='does not say, nor does its code'): own = load_astromae(tmp_path/'mae.pth', num_heads=3)
    assert isinstance(own, MAE) and own.config.get('block', 'vit') == ('vitae' if cell else 'vit') and own.norm_pix_loss is False
    x,_ = images()
    with torch.no_grad():
        tokens = m.norm(m.tokens(x)).mean(1)
        assert (own.embed(x)-tokens).abs().max() < 1e-5*tokens.abs().max()
        mask = torch.tensor([[True,False,True,True],[False,True,True,True],[True,True,True,False]])
        assert (own(x, mask).loss/their_loss(m, x, mask) - 1).abs() < 1e-5        # of several visible patches, ViTAE's cells made another grid
