"Weights by name: files of the published layouts, made with timm's own blocks, fetched from servers of our own"
from functools import partial
import numpy as np, pytest, timm, torch, yaml
from safetensors.torch import save as tensor_bytes
from torch import nn
from astromask import named
from astromask.core import AstroMaskError, DataError, InputError
from astromask.data import download as downloading
from astromask.models.pretrained import load_mae_checkpoint, load_timm_vit
from astromask.models.weights import load_model, save_model
from astromask.named import NAMED_WEIGHTS, fetch_named, load_named
from fakehub import TOKEN, FakeHub

SMALL = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=6)
SIZES = SMALL | dict(img_size=(32,32))

@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path/'token'))
    monkeypatch.setattr('time.sleep', lambda s: None)
    with FakeHub() as hub: yield hub

@pytest.fixture
def small(monkeypatch):
    "The catalogue, with sizes that a test can make"
    for k,o in NAMED_WEIGHTS.items(): monkeypatch.setitem(NAMED_WEIGHTS, k, o._replace(sizes=SIZES))

def put(hub, name, **files):
    where = NAMED_WEIGHTS[name].where
    hub.repos.setdefault(where, dict(private=False, commits=[]))
    return hub.commit(where, {k.replace('__', '.'): v for k,v in files.items()})

def images(): return 255*torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
def scattered(m):
    "Random numbers everywhere, norms and biases too"
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in m.parameters(): p.add_(torch.randn(p.shape, generator=g)*.05)
    return m.eval()

def vit(pool='avg', **kw): return scattered(timm.models.VisionTransformer(**SMALL | kw, global_pool=pool, num_classes=0))

def lightly(v, new=False, heads=4):
    "lightly's MAE around a ViT of timm: the names of its code of 2024, or of 2026"
    D = 24
    norm = partial(nn.LayerNorm, eps=1e-6)
    m = nn.Module()
    m.backbone = nn.Module()
    m.backbone.vit,m.backbone.mask_token = v,nn.Parameter(torch.zeros(1, 1, 48))
    m.decoder = d = nn.Module()
    d.mask_token = nn.Parameter(torch.zeros(1, 1, D))
    parts = dict(embed=nn.Linear(48, D), pos_embed=nn.Parameter(torch.zeros(1, 17, D)), norm=norm(D), pred=nn.Linear(D, 8*8*3),
                 blocks=nn.Sequential(timm.models.vision_transformer.Block(D, heads, 4., qkv_bias=True, norm_layer=norm)))
    for k,part in parts.items():
        if new and k in ('embed','pred'): setattr(m, dict(embed='decoder_embed', pred='prediction_head')[k], part)
        else: setattr(d, k if new else f'decoder_{k}', part)
    return scattered(m),parts

def their_loss(m, parts, x, mask):
    "lightly's training step for given patches: what is kept is encoded, mask tokens stand for the rest, pixels are compared as they are"
    v = m.backbone.vit
    tokens = torch.cat([v.cls_token.expand(len(x), -1, -1), v.patch_embed(x)], 1) + v.pos_embed
    kept = torch.cat([torch.ones(len(x), 1, dtype=bool), ~mask], 1)
    z = parts['embed'](v.norm(v.blocks(tokens[kept].reshape(len(x), -1, 48))))
    full = m.decoder.mask_token.expand(len(x), 17, -1).clone()
    full[kept] = z.flatten(0, 1)
    pred = parts['pred'](parts['norm'](parts['blocks'](full + parts['pos_embed'])))[:,1:]
    patches = torch.einsum('nchpwq->nhwpqc', x.reshape(len(x), 3, 4, 8, 4, 8)).reshape(len(x), 16, 192)
    return (pred-patches)[mask].square().mean()

def close(a, b): assert (a-b).abs().max() <= 1e-5*b.abs().max().clamp(min=1), (a-b).abs().max()

def test_the_euclid_encoder_is_timms(hub, small, tmp_path):
    v = vit()
    oid = put(hub, 'euclid_rr2_encoder', model__safetensors=tensor_bytes(v.state_dict()), pytorch_model__bin=b'not asked for', config__json=b'{}', run__py=b'boom')
    with pytest.warns(UserWarning, match='decoder is fresh'): m = load_named('euclid_rr2_encoder', cache=tmp_path, endpoint=hub.url)
    x = images()
    with torch.no_grad():
        close(m.embed(x), v(x/255))
        close(m.encode(x), v.forward_features(x/255)[:,1:])
    assert not m.training and m.bands == ('R','G','B') and m.source['where'] == NAMED_WEIGHTS['euclid_rr2_encoder'].where and m.source['licence'] == 'not stated'
    assert {o.rsplit('/', 1)[1] for _,o in hub.requests if '/resolve/' in o} == {'model.safetensors', 'config.json'}
    file = fetch_named('euclid_rr2_encoder', tmp_path, endpoint=hub.url)
    assert file.name == 'model.safetensors' and oid in str(file)
    save_model(m, tmp_path/'ours')
    with torch.no_grad(): assert torch.equal(load_model(tmp_path/'ours').embed(x), m.embed(x))
    with pytest.warns(UserWarning): larger = load_named('euclid_rr2_encoder', 48, cache=tmp_path, endpoint=hub.url)
    assert larger.img_size == (48,48) and larger.scaling.config() == m.scaling.config() and larger.source == m.source
    x[0,1,3] = x[1] = np.nan
    assert m.embed(x).isfinite().all(1).tolist() == [True,False,True]

@pytest.mark.parametrize('name,pool', [('euclid_rr2_mae','avg'), ('euclid_dr1_mae','token')])
def test_the_euclid_mae_with_its_decoder(hub, small, tmp_path, name, pool):
    v = vit(pool)
    m,parts = lightly(v)
    config = yaml.dump(dict(ssl_model=dict(vit=dict(num_heads=6), decoder=dict(num_heads=4, depth=1), mask_ratio=.5))).encode()
    put(hub, name, model__safetensors=tensor_bytes(m.state_dict()), config__yaml=config)
    own = load_named(name, cache=tmp_path, endpoint=hub.url)
    x = images()
    mask = torch.rand(3, 16, generator=torch.Generator().manual_seed(1)).argsort(1) < 8
    with torch.no_grad():
        close(own.embed(x), v(x/255) if pool == 'avg' else v.forward_features(x/255)[:,1:].mean(1))
        close(own(x, mask).loss, their_loss(m, parts, x/255, mask))
    assert own.mask_ratio == .5 and own.norm_pix_loss is False and own.config['decoder_num_heads'] == 4 and own.source['layout'] == 'lightly'

@pytest.mark.parametrize('new', [False,True])
def test_lightlys_checkpoint_of_lightning(hub, small, tmp_path, new, monkeypatch):
    v = vit('token')
    m,parts = lightly(v, new)
    head = {'backbone.vit.head.weight': torch.zeros(10, 48), 'backbone.vit.head.bias': torch.zeros(10), 'online_classifier.online_classifier.weight': torch.zeros(10, 48)}
    torch.save({'epoch': 99, 'global_step': 5, 'pytorch-lightning_version': '2.1', 'state_dict': m.state_dict() | head, 'loops': {}, 'callbacks': {},
                'hyper_parameters': dict(batch_size_per_device=64, num_classes=1000)}, tmp_path/'c.ckpt')
    hub.repos['lightly/mae'] = dict(private=False, commits=[])
    hub.commit('lightly/mae', {'epoch.ckpt': (tmp_path/'c.ckpt').read_bytes()})
    o = NAMED_WEIGHTS['lightly_mae_vit_base']
    monkeypatch.setitem(NAMED_WEIGHTS, 'lightly_mae_vit_base', o._replace(where=f'{hub.url}/lightly/mae/resolve/main/epoch.ckpt', load=partial(load_mae_checkpoint, decoder_num_heads=4)))
    own = load_named('lightly_mae_vit_base', cache=tmp_path/'cache')
    x = images()
    scaled = (x/255 - torch.tensor([.485,.456,.406])[:,None,None])/torch.tensor([.229,.224,.225])[:,None,None]
    mask = torch.rand(3, 16, generator=torch.Generator().manual_seed(1)).argsort(1) < 12
    with torch.no_grad():
        close(own.encode(x), v.forward_features(scaled)[:,1:])
        close(own.embed(x, pool='cls'), v(scaled))
        close(own(x, mask).loss, their_loss(m, parts, scaled, mask))
    n = len(hub.requests)
    load_named('lightly_mae_vit_base', cache=tmp_path/'cache')
    assert len(hub.requests) == n                                                                     # kept, and not fetched again

def test_what_goes_wrong_is_a_sentence(hub, small, tmp_path, monkeypatch):
    def refused(error, match, name='euclid_dr1_mae', **kw):
        with pytest.raises(error, match=match) as e: load_named(name, **dict(cache=tmp_path, endpoint=hub.url) | kw)
        assert '\n' not in str(e.value)
    refused(InputError, "no weights called 'mae' here; choose one of euclid_rr2_mae", 'mae')
    refused(InputError, 'has no model mwalmsley/euclid-dr1-mae, or you may not see it')
    put(hub, 'euclid_dr1_mae', README__md=b'# soon')
    refused(InputError, 'euclid-dr1-mae has neither model.safetensors nor pytorch_model.bin')
    m,_ = lightly(vit(depth=1))
    put(hub, 'euclid_dr1_mae', model__safetensors=tensor_bytes(m.state_dict()), config__yaml=b'ssl_model: {vit: {num_heads: 6}, decoder: {num_heads: 4}}')
    refused(DataError, 'is not what is known under this name: its depth is 1 instead of 2')
    refused(InputError, "has no revision 'v9'", revision='v9')
    put(hub, 'euclid_dr1_mae', config__yaml=b'{')
    refused(DataError, 'config.yaml is not readable as YAML')
    hub.gated = True
    refused(InputError, 'is gated: ask for access', cache=tmp_path/'other')
    monkeypatch.setitem(NAMED_WEIGHTS, 'lightly_mae_vit_base', NAMED_WEIGHTS['lightly_mae_vit_base']._replace(where=f'{hub.url}/nobody/mae/resolve/main/x.ckpt'))
    refused(AstroMaskError, 'lightly_mae_vit_base.ckpt', 'lightly_mae_vit_base')

def test_a_repository_with_a_pickle_of_tensors_alone(hub, small, tmp_path):
    v = vit()
    torch.save(v.state_dict(), tmp_path/'w.bin')
    put(hub, 'euclid_rr2_encoder', pytorch_model__bin=(tmp_path/'w.bin').read_bytes())
    with pytest.warns(UserWarning, match='decoder is fresh'): m = load_named('euclid_rr2_encoder', cache=tmp_path, endpoint=hub.url)
    x = images()
    with torch.no_grad(): close(m.embed(x), v(x/255))

def test_the_catalogue_is_what_its_authors_code_says():
    "Sizes by timm's own presets"
    for name,of in dict(lightly_mae_vit_base='vit_base_patch16_224', euclid_rr2_encoder='vit_small_patch8_224').items():
        with torch.device('meta'): v = timm.create_model(of)
        sizes = NAMED_WEIGHTS[name].sizes
        assert sizes == dict(img_size=v.patch_embed.img_size, patch_size=v.patch_embed.patch_size[0], embed_dim=v.embed_dim, depth=len(v.blocks), num_heads=v.blocks[0].attn.num_heads)
        assert v.blocks[0].norm1.eps == 1e-6
