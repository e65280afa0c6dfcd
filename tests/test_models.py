"Missing data through the model, in every shape: what the issue lists, and what hypothesis finds"
import copy, numpy as np, pytest, torch
from astromask.core import InputError
from hypothesis import given, settings, strategies as st
from astromask.scaling import AsinhScaling
from astromask.models.mae import MAE
from astromask.models.masking import unpatchify
from astromask.models.simmim import SimMIM

SWIN = dict(encoder='swin_tiny_patch4_window7_224', embed_dim=16, depth=[1,1,1,1], num_heads=[1,1,2,2], window_size=4)
KINDS = {'mae': (MAE, {}), 'cross': (MAE, dict(decoder='cross', predict_ratio=.5)), 'sky': (MAE, dict(sky_token=True, class_tokens=2)),
         'tokens': (SimMIM, {}), 'pixels': (SimMIM, dict(mask_in='pixels', per_band=True, mask_ratio=(0,.9))),
         'beit': (SimMIM, dict(encoder='beit')), 'swin': (SimMIM, SWIN)}

def model(C=3, size=(32,32), norm_pix=True, loss='mse', scaled=True, patch=8, kind='mae', **changes):
    torch.manual_seed(0)
    cls,extra = KINDS[kind]
    sizes = dict(embed_dim=32, depth=2, num_heads=4, norm_pix_loss=norm_pix, loss=loss)
    if cls is MAE: sizes |= dict(decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=4)
    m = cls(size, patch, [f'b{i}' for i in range(C)], **sizes | extra | changes)
    m.fill.data.normal_()
    if scaled: m.scaling = AsinhScaling(np.linspace(0, 1, C), np.linspace(1, 2, C), 0.7)
    return m

def gradients(m): return [p.grad for p in m.parameters() if p.grad is not None]

def loss_and_gradients(m, x, noise):
    x = x.clone().requires_grad_()
    m.zero_grad()
    out = m(x, generator=noise)
    out.loss.backward()
    return out, x.grad, gradients(m)

def spoil(x, what):
    "Where the pixels are missing"
    gone = torch.zeros_like(x, dtype=torch.bool)
    if what == 'pixel': gone[0,0,5,6] = True
    if what == 'band': gone[0,-1] = True
    if what == 'band of all': gone[:,0] = True
    if what == 'object': gone[-1] = True
    if what == 'everything': gone[:] = True
    if what == 'half': gone[:,:,:,x.shape[-1]//2:] = True
    if what == 'all but one pixel of a patch': gone[:,:,:8,:8] = True; gone[:,0,3,3] = False
    return gone

CASES = ['nothing', 'pixel', 'band', 'band of all', 'object', 'everything', 'half', 'all but one pixel of a patch']

SHAPES = [(4,3,(32,32)), (1,3,(32,32)), (3,1,(32,32)), (2,7,(16,40)), (1,1,(24,8))]
RUNS = ([('mae', *s, n, l) for s in SHAPES for n,l in ((True,'mse'), (False,'l1'), (False,'mse'), (True,'l1'))] +
        [(k, *s, n, l) for k in KINDS if k not in ('mae','swin') for s in SHAPES[::3] for n,l in ((True,'mse'), (False,'l1'))] +
        [('swin', 2, 3, (64,32), n, l) for n,l in ((True,'l1'), (False,'mse'))])

@pytest.mark.parametrize('what', CASES)
@pytest.mark.parametrize('kind,B,C,size,norm_pix,loss', RUNS)
def test_missing_pixels_do_no_harm(what, kind, B, C, size, norm_pix, loss):
    m = model(C, size, norm_pix, loss, kind=kind)
    x = torch.randn(B, C, *size, generator=torch.Generator().manual_seed(1))*100
    gone,noise = spoil(x, what), torch.rand(B, m.n_noise, generator=torch.Generator().manual_seed(2))
    out,gx,gp = loss_and_gradients(m, torch.where(gone, torch.nan, x), noise)
    assert out.loss.isfinite() and gx.isfinite().all() and all(g.isfinite().all() for g in gp)
    assert not gx[gone].any()
    if what == 'everything': assert out.loss == 0 and not any(g.any() for g in gp) and out.n_targets == 0
    # whatever stands there, if it is missing it is not read: NaN with other bits, and both infinities
    for other in (torch.tensor(0x7fc12345, dtype=torch.int32).view(torch.float32), torch.inf, -torch.inf):
        again,gx2,gp2 = loss_and_gradients(m, torch.where(gone, other, x), noise)
        assert torch.equal(again.loss, out.loss) and torch.equal(again.pred, out.pred) and torch.equal(gx, gx2)
        assert all(torch.equal(a, b) for a,b in zip(gp, gp2))

@pytest.mark.parametrize('what', CASES)
@pytest.mark.parametrize('kind', KINDS)
def test_embeddings_and_reconstructions_of_missing_pixels(what, kind):
    m = model(size=(64,32), kind=kind).eval()
    x = torch.randn(4,3,64,32)*10
    gone = spoil(x, what)
    seen = torch.where(gone, torch.nan, x)
    for pool in ('mean','central','max','spread','pixels') + (('cls',) if m.cls_token is not None else ()):
        e = m.embed(seen, pool=pool)
        assert torch.equal(e.isnan().any(1), gone.all((1,2,3))) and torch.equal(e.isnan().all(1), gone.all((1,2,3)))
    out = m(seen)
    r = m.reconstruct(seen, out.mask if kind != 'cross' else None)
    assert r.isfinite().all()
    if kind != 'cross':
        shown = ~gone & ~m.hidden_pixels(out.mask)
        assert torch.equal(r[shown], x[shown])

def targets_of(m, out, noise, x):
    "(B,C,H,W) bool: the hidden pixels that are predicted, each counted by the mask of its own patch or unit"
    B,C,H,W = x.shape
    mask = out.mask.numpy()
    if mask.ndim == 2: mask = mask[:,None]
    side = int((H*W/mask.shape[2])**.5)
    mask = mask.reshape(*mask.shape[:2], H//side, W//side)
    return np.broadcast_to(np.kron(mask, np.ones((side,side), bool)), x.shape)

def loss_over(m, out, x, targets):
    "The mean loss over some pixels, by NumPy"
    y,(B,C,H,W),p = m.scaling(x).numpy().astype(float),x.shape,m.patch_size
    if m.norm_pix_loss:
        patches = y.reshape(B,C,H//p,p,W//p,p)
        mean,var = patches.mean((1,3,5), keepdims=True),patches.var((1,3,5), ddof=1, keepdims=True)
        y = ((patches-mean)/np.sqrt(var+1e-6)).reshape(y.shape)
    pred = (unpatchify(out.pred, p, (H,W)) if isinstance(m, MAE) else out.pred).detach().numpy()
    return {'mse': np.square, 'l1': np.abs}[m.loss](pred-y)[targets].mean()

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('norm_pix', [True, False])
def test_what_is_hidden_is_not_seen(kind, norm_pix):
    "Values under the mask change the loss, and nothing that the model sees; visible pixels are no targets"
    m,x = model(norm_pix=norm_pix, kind=kind, size=(64,32)),torch.randn(3,3,64,32)
    noise = torch.rand(3, m.n_noise)
    out = m(x, generator=noise)
    mask = m.choose_mask(m.pixels(x)[1], generator=noise)
    hidden = m.hidden_pixels(mask).expand_as(x)
    other = m(torch.where(hidden, x+50, x), generator=noise)
    assert torch.equal(other.pred, out.pred) and (norm_pix or other.loss != out.loss)
    assert other.n_targets == out.n_targets > 0
    np.testing.assert_allclose(out.loss.item(), loss_over(m, out, x, targets_of(m, out, noise, x)), rtol=1e-4)
    target = x.clone().requires_grad_()
    m.eval()
    (m(target, generator=noise).loss).backward()
    if kind in ('mae','sky') and not norm_pix:       # a hidden pixel acts on the loss as a target only: dL/dx = -dL/dpred * dscaled/dx
        assert target.grad[hidden].abs().min() > 0

@pytest.mark.parametrize('ratio', [.5,(0,.9)])
def test_each_band_has_a_mask_of_its_own(ratio):
    "Where masks are per band, those of two bands have no more in common than chance"
    m,x = model(4, size=(64,64), kind='pixels', mask_ratio=ratio),torch.randn(50,4,64,64)
    for generator in (torch.rand(50, m.n_noise), torch.Generator().manual_seed(0), None):
        mask = m(x, generator=generator).mask.float()
        assert mask.shape == (50,4,64)
        for b in range(1, 4):
            both,alone = (mask[:,0]*mask[:,b]).mean(),(mask[:,0].mean(1)*mask[:,b].mean(1)).mean()      # objects may differ in their share
            assert abs(both-alone) < .04 and (mask[:,0] != mask[:,b]).any(1).float().mean() > .9
        shown = m.hidden_pixels(mask.bool())
        assert shown.shape == x.shape and torch.equal(shown[:,:,::8,::8].flatten(2), mask.bool())

@pytest.mark.parametrize('kind', ['tokens','beit','swin'])
def test_one_mask_hides_all_bands(kind):
    m,x = model(kind=kind, size=(64,32)),torch.randn(3,3,64,32)
    mask = m(x).mask
    assert mask.shape[1] == 1 and mask.any(2).all() and (kind == 'swin' or not mask.all(2).any())     # of Swin's two units, both

@pytest.mark.parametrize('kind', KINDS)
def test_gradient_of_a_hidden_missing_pixel(kind):
    m,x = model(kind=kind, size=(64,32), norm_pix=False),torch.randn(2,3,64,32)
    x[:,1,5:9] = torch.nan
    out,gx,_ = loss_and_gradients(m, x, torch.rand(2, m.n_noise))
    assert gx.isfinite().all() and not gx[x.isnan()].any()

@settings(max_examples=60, deadline=None)
@given(B=st.integers(1,4), C=st.integers(1,4), h=st.integers(1,4), w=st.integers(1,4), patch=st.sampled_from([2,4]),
       share=st.floats(0,1), seed=st.integers(0,2**31), ratio=st.floats(0,.95), norm_pix=st.booleans(), kind=st.sampled_from(['mae','cross']))
def test_any_size_any_pattern(B, C, h, w, patch, share, seed, ratio, norm_pix, kind):
    torch.manual_seed(seed)
    m = MAE((h*patch,w*patch), patch, [f'b{i}' for i in range(C)], 16, 1, 2, decoder_embed_dim=16, decoder_depth=1,
            decoder_num_heads=2, norm_pix_loss=norm_pix, mask_ratio=ratio, **KINDS[kind][1])
    x = torch.randn(B, C, h*patch, w*patch)
    x[torch.rand_like(x) < share] = torch.nan
    out = m(x)
    out.loss.backward()
    hidden = h*w - max(1, int(h*w*(1-ratio)))
    assert out.loss.isfinite() and all(g.isfinite().all() for g in gradients(m))
    assert (out.mask.sum(1) == (hidden if kind == 'mae' else min(hidden, max(1, round(hidden/2))))).all()
    assert not out.pred[~out.mask].any()
    assert torch.equal(m.embed(x).isnan().any(1), x.isnan().all(3).all(2).all(1))
    assert m.reconstruct(x).isfinite().all()

@settings(max_examples=60, deadline=None)
@given(B=st.integers(1,4), C=st.integers(1,4), h=st.integers(1,3), w=st.integers(1,3), patch=st.sampled_from([2,4]), unit=st.sampled_from([1,2]),
       share=st.floats(0,1), seed=st.integers(0,2**31), ratio=st.floats(0.01,1), norm_pix=st.booleans(), how=st.sampled_from(['tokens','pixels','bands']),
       drawn=st.booleans(), encoder=st.sampled_from(['vit','beit']))
def test_simmim_of_any_size_and_pattern(B, C, h, w, patch, unit, share, seed, ratio, norm_pix, how, drawn, encoder):
    torch.manual_seed(seed)
    m = SimMIM((h*patch*unit,w*patch*unit), patch, [f'b{i}' for i in range(C)], 16, 1, 2, encoder=encoder, norm_pix_loss=norm_pix,
               mask_unit=patch*unit, mask_in='tokens' if how == 'tokens' else 'pixels', per_band=how == 'bands',
               mask_ratio=(0,ratio) if drawn else ratio)
    x = torch.randn(B, C, *m.img_size)
    x[torch.rand_like(x) < share] = torch.nan
    out = m(x)
    out.loss.backward()
    assert out.loss.isfinite() and all(g.isfinite().all() for g in gradients(m))
    n = out.mask.sum(-1)
    assert (n == n[:,:1]).all() and n.min() >= 1 and n.max() <= np.ceil(h*w*ratio)
    if not drawn: assert (n == max(1, np.ceil(h*w*ratio - 1e-5))).all()
    assert torch.equal(m.embed(x).isnan().any(1), x.isnan().all(3).all(2).all(1))
    assert m.reconstruct(x, out.mask).isfinite().all()

@pytest.mark.parametrize('kind', KINDS)
def test_bands_permuted_with_their_names(kind):
    m,x = model(7, size=(64,32), kind=kind).eval(), torch.randn(2,7,64,32)
    order = [3,1,6,0,2,5,4]
    names = [m.bands[i] for i in order]
    assert torch.equal(m.embed(x[:,order], bands=names), m.embed(x))
    some = m.embed(x[:,order[:3]], bands=names[:3])
    missing = x.clone()
    missing[:,order[3:]] = torch.nan
    assert torch.equal(some, m.embed(missing))
    noise = torch.rand(2, m.n_noise)
    assert torch.equal(m(x[:,order], bands=names, generator=noise).pred, m(x, generator=noise).pred)
    with pytest.raises(InputError, match="does not know band 'new'"): m.embed(x[:,:2], bands=('b0','new'))

@pytest.mark.parametrize('kind', KINDS)
def test_a_batch_is_its_objects(kind):
    m,x = model(kind=kind, size=(64,32)).eval(), torch.randn(6,3,64,32)
    alone = torch.cat([m.embed(o[None]) for o in x])
    assert (m.embed(x)-alone).abs().max() < 1e-5

@pytest.mark.parametrize('kind', KINDS)
def test_encode_never_masks_and_repeats_itself(kind):
    m,x = model(kind=kind, size=(64,32)).eval(), torch.randn(2,3,64,32)
    assert torch.equal(m.encode(x), m.encode(x)) and m.encode(x).shape[:2] == (2, 2 if kind == 'swin' else 32)
    seen = x.clone().requires_grad_()
    m.encode(seen).square().sum().backward()
    assert (seen.grad != 0).all()                    # every pixel of every band counts

@pytest.mark.parametrize('size,patch,C', [(32,8,5), (64,4,3), (128,8,2), (224,16,3), (64,8,1)])
@pytest.mark.parametrize('kind', ['mae','tokens','pixels'])
def test_any_size_trains_a_step(size, patch, C, kind):
    m = model(C, size, patch=patch, kind=kind)
    opt = torch.optim.AdamW(m.parameters(), 1e-3)
    x = torch.randn(2, C, size, size)
    noise = torch.rand(2, m.n_noise)
    losses = []
    for _ in range(3):
        opt.zero_grad()
        loss = m(x, generator=noise).loss
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]

@pytest.mark.parametrize('make', [
    lambda x: x.numpy().astype('>f4'), lambda x: x.numpy().astype('>f8'), lambda x: x.double(), lambda x: x.numpy()], ids=['>f4','>f8','f8','numpy'])
def test_types_of_pixels(make):
    m,x = model().eval(), torch.randn(2,3,32,32)
    assert (m.embed(make(x))-m.embed(x)).abs().max() < 1e-5

def test_unsigned_integers():
    m,x = model().eval(), torch.randint(0, 60000, (2,3,32,32))
    assert (m.embed(x.numpy().astype(np.uint16))-m.embed(x.float())).abs().max() < 1e-5

@pytest.mark.parametrize('kind', ['mae','cross','tokens','pixels'])
def test_inverse_variances_weight_the_loss(kind):
    "Equal weights change nothing; pixels without weight have no gradient; the weighted mean is NumPy's"
    m,x = model(kind=kind, norm_pix=False, scaled=False),torch.randn(3,3,32,32)
    noise = torch.rand(3, m.n_noise)
    out = m(x, generator=noise)
    assert torch.allclose(m(x, generator=noise, ivar=torch.full_like(x, 7.)).loss, out.loss, rtol=1e-5)
    ivar = torch.rand(3,3,32,32)
    ivar[:,1],ivar[0,0,:9],ivar[2,2,3] = 0,torch.nan,torch.inf
    loss = m(x, generator=noise, ivar=ivar).loss
    pred,hidden = out.pred,m.hidden_pixels(out.mask).expand_as(x)
    if kind in ('mae','cross'): pred = unpatchify(pred, 8, (32,32))
    w = torch.where(hidden & ivar.isfinite(), ivar, 0)
    assert torch.allclose(loss, (w*(pred-x).square()).sum()/w.sum(), rtol=1e-5)

def test_activation_checkpointing_changes_nothing_but_memory():
    for kind in KINDS:
        m,x = model(kind=kind, size=(64,32)),torch.randn(2,3,64,32)
        noise = torch.rand(2, m.n_noise)
        out,gx,gp = loss_and_gradients(m, x, noise)
        m.activation_checkpointing = True
        again,gx2,gp2 = loss_and_gradients(m, x, noise)
        assert torch.equal(out.loss, again.loss) and torch.equal(gx, gx2) and all(torch.equal(a, b) for a,b in zip(gp, gp2))

def test_pretraining_beats_the_mean_of_visible_pixels():
    "prior-art.md 8: the masked loss falls below that of predicting each band's visible mean"
    yy,xx = torch.meshgrid(torch.arange(32.)-16, torch.arange(32.)-16, indexing='ij')
    draw = torch.Generator().manual_seed(0)
    def images(n):
        a,b,s = (torch.rand(n,1,1,1, generator=draw) for _ in range(3))
        blob = torch.exp(-((xx-8*a+4)**2 + (yy-8*b+4)**2)/(20+60*s))
        return torch.cat([3*blob, 2*blob*(0.5+s), blob], 1)
    for kind,steps in dict(mae=90, cross=150, tokens=90, pixels=150).items():
        m = model(kind=kind, norm_pix=False, scaled=False)
        opt = torch.optim.AdamW(m.parameters(), 3e-3)
        for _ in range(steps):
            opt.zero_grad()
            m(images(32), generator=draw).loss.backward()
            opt.step()
        x = images(64)
        noise = torch.rand(64, m.n_noise, generator=draw)
        mask = m.choose_mask(m.pixels(x)[1], generator=noise)
        hidden = m.hidden_pixels(mask).expand_as(x)
        mean = torch.where(hidden, 0, x).sum((2,3))/(~hidden).sum((2,3)).clamp(min=1)
        baseline = (x-mean[:,:,None,None])[hidden].square().mean()
        assert m(x, generator=noise).loss < 0.5*baseline, kind

# What a review found: each of these once went wrong

@pytest.mark.parametrize('kind', KINDS)
def test_values_that_overflow_when_scaled_count_as_missing(kind):
    m,x = model(kind=kind, size=(64,32)),torch.randn(2,3,64,32)
    m.scaling = AsinhScaling([0.]*3, [0.1]*3, [1.]*3)
    x[0,0,5,5],x[1,2,40,9] = torch.finfo(torch.float32).min,3e38
    out = m(x, generator=torch.rand(2, m.n_noise))
    out.loss.backward()
    assert out.loss.isfinite() and all(g.isfinite().all() for g in gradients(m)) and m.eval().embed(x).isfinite().all()

@pytest.mark.parametrize('kind', ['mae','cross','sky','tokens','pixels'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(kind, dtype):
    m,x = model(kind=kind, size=(64,32)),torch.randn(2,3,64,32)
    exact = m.reconstruct(x)
    with torch.autocast('cpu', dtype): assert (m.reconstruct(x)-exact).abs().max() < 0.1*exact.abs().max()
    half = m.to(dtype).eval()
    assert half(x, generator=torch.rand(2, m.n_noise)).loss.isfinite() and half.embed(x, pool='max').isfinite().all()

def test_inverse_variances_of_any_size():
    for kind in ('mae','pixels'):
        m,x = model(kind=kind, norm_pix=False),torch.randn(2,3,32,32)
        noise,one = torch.rand(2, m.n_noise),torch.ones(2,3,32,32)
        for factor in (1e-30, 1e-20, 1e20, 1e30):
            assert torch.allclose(m(x, generator=noise, ivar=one*factor).loss, m(x, generator=noise, ivar=one).loss, rtol=1e-4)
        out = m(x, generator=noise, ivar=torch.zeros_like(x))
        assert out.loss == 0 and out.n_targets == 0                # no target: no step
        x[0,0,3,3] = 1e25
        assert m(x, generator=noise, ivar=one).loss.isfinite()

def test_masked_arrays_and_empty_batches():
    m,x = model().eval(),np.random.default_rng(0).normal(size=(1,3,32,32)).astype('f4')
    hide = np.zeros(x.shape, bool)
    hide[:,1] = True
    missing = np.where(hide, np.nan, x)
    assert torch.equal(m.embed(np.ma.masked_array(np.where(hide, 7, x), mask=hide)), m.embed(missing))
    with pytest.raises(InputError, match='no images'): m.embed(x[:0])

@pytest.mark.parametrize('decoder,positions', [('self','sincos'), ('cross','learned')])
def test_class_tokens_are_a_set(decoder, positions):
    "Their order is nothing to patches, loss and pooled vector; equal ones are equal after all blocks; other sizes keep them"
    m = model(kind='mae', class_tokens=3, decoder=decoder, decoder_positions=positions, positions=positions).eval()
    other,x,noise = copy.deepcopy(m),torch.randn(2,3,32,32),torch.rand(2,16)
    other.cls_token.data = m.cls_token.data[:,[2,0,1]]
    torch.testing.assert_close(m(x, generator=noise).pred, other(x, generator=noise).pred, rtol=1e-4, atol=1e-5)
    for pool in ('cls','mean'): torch.testing.assert_close(m.embed(x, pool=pool), other.embed(x, pool=pool), rtol=1e-4, atol=1e-5)
    assert (m.embed(x, pool='cls') - m.attend(m.tokens(*m.pixels(x)))[:,0]).abs().max() > 1e-4
    larger = m.resized(64)
    assert larger.n_class == 3 and torch.equal(larger.cls_token, m.cls_token)
    if positions == 'sincos': torch.testing.assert_close(larger.resized(32).embed(x, pool='cls'), m.embed(x, pool='cls'), rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize('kind,n,words', [('swin', 2, 'A Swin has no class token'), ('beit', 2, 'a place for one class token'), ('mae', 0, 'class_tokens is 0'), ('mae', -1, 'class_tokens is -1')])
def test_class_tokens_that_there_are_not(kind, n, words):
    with pytest.raises(InputError, match=words): model(kind=kind, class_tokens=n)

@pytest.mark.parametrize('make,words', [
    (lambda: MAE(32, mask_ratio=(0,.9)), 'mask_ratio'), (lambda: MAE(32, num_heads=0), 'num_heads'), (lambda: SimMIM(32, mask_ratio=0), 'mask_ratio'),
    (lambda: MAE(32, norm_pix_loss='yes'), 'norm_pix_loss'), (lambda: model()(torch.randn(1,3,32,32), mask=np.ones((1,16), bool)), 'it must be a tensor'),
    (lambda: model()(torch.randn(1,3,32,32), generator=torch.rand(1,3)), 'to draw its masks from')])
def test_arguments_that_do_not_fit(make, words):
    with pytest.raises(InputError, match=words): make()

def test_numbers_of_other_kinds():
    assert SimMIM(32, 8, mask_ratio=np.float32(.5)).mask_ratio == (.5,.5)
    m,x = model(),torch.randn(1,3,32,32)
    assert torch.equal(m(x, generator=np.linspace(0, .9, 16, dtype='f4')[None]).mask, m(x, generator=torch.linspace(0, .9, 16)[None]).mask)

@pytest.mark.parametrize('kind', KINDS)
def test_one_graph(kind):
    "torch.compile finds no break, in training or embedding"
    m,x = model(kind=kind, size=(64,32)),torch.randn(2,3,64,32)
    noise = torch.rand(2, m.n_noise)
    torch._dynamo.reset()
    compiled = torch.compile(m, backend='eager', fullgraph=True)
    out = m(x, generator=noise)
    assert torch.allclose(compiled(x, generator=noise).loss, out.loss, rtol=1e-5)
    if kind != 'cross': assert torch.allclose(compiled(x, mask=out.mask).loss, out.loss, rtol=1e-5)
    m.eval()
    assert torch.allclose(torch.compile(m.embed, backend='eager', fullgraph=True)(x), m.embed(x), atol=1e-5)
