"Missing data through the model, in every shape: what the issue lists, and what hypothesis finds"
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from astromask.data.scaling import AsinhScaling
from astromask.models.mae import MAE
from astromask.models.masking import unpatchify

def model(C=3, size=(32,32), norm_pix=True, loss='mse', scaled=True, patch=8):
    torch.manual_seed(0)
    m = MAE(size, patch, [f'b{i}' for i in range(C)], 32, 2, 4, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=4,
            norm_pix_loss=norm_pix, loss=loss)
    m.fill.data.normal_()
    if scaled: m.scaling = AsinhScaling(np.linspace(0, 1, C), np.linspace(1, 2, C), 0.7)
    return m

def loss_and_gradients(m, x, noise):
    x = x.clone().requires_grad_()
    m.zero_grad()
    out = m(x, generator=noise)
    out.loss.backward()
    return out, x.grad, [p.grad for p in m.parameters()]

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

@pytest.mark.parametrize('what', CASES)
@pytest.mark.parametrize('B,C,size', [(4,3,(32,32)), (1,3,(32,32)), (3,1,(32,32)), (2,7,(16,40)), (1,1,(24,8))])
@pytest.mark.parametrize('norm_pix,loss', [(True,'mse'), (False,'l1'), (False,'mse'), (True,'l1')])
def test_missing_pixels_do_no_harm(what, B, C, size, norm_pix, loss):
    m = model(C, size, norm_pix, loss)
    x = torch.randn(B, C, *size, generator=torch.Generator().manual_seed(1))*100
    gone,noise = spoil(x, what), torch.rand(B, m.n_patches, generator=torch.Generator().manual_seed(2))
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
def test_embeddings_and_reconstructions_of_missing_pixels(what):
    m = model().eval()
    x = torch.randn(4,3,32,32)*10
    gone = spoil(x, what)
    seen = torch.where(gone, torch.nan, x)
    for pool in ('mean','cls','max'):
        e = m.embed(seen, pool=pool)
        assert torch.equal(e.isnan().any(1), gone.all((1,2,3))) and torch.equal(e.isnan().all(1), gone.all((1,2,3)))
    out = m(seen)
    r = m.reconstruct(seen, out.mask)
    hidden = unpatchify(out.mask[...,None].expand(-1, -1, out.pred.shape[-1]), 8, m.img_size)
    shown = ~gone & ~hidden
    assert r.isfinite().all() and torch.equal(r[shown], x[shown])

@settings(max_examples=40, deadline=None)
@given(B=st.integers(1,4), C=st.integers(1,4), h=st.integers(1,4), w=st.integers(1,4), patch=st.sampled_from([2,4]),
       share=st.floats(0,1), seed=st.integers(0,2**31), ratio=st.floats(0,.95), norm_pix=st.booleans())
def test_any_size_any_pattern(B, C, h, w, patch, share, seed, ratio, norm_pix):
    torch.manual_seed(seed)
    m = MAE((h*patch,w*patch), patch, [f'b{i}' for i in range(C)], 16, 1, 2, decoder_embed_dim=16, decoder_depth=1,
            decoder_num_heads=2, norm_pix_loss=norm_pix, mask_ratio=ratio)
    x = torch.randn(B, C, h*patch, w*patch)
    x[torch.rand_like(x) < share] = torch.nan
    out = m(x)
    out.loss.backward()
    assert out.loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in m.parameters())
    assert (out.mask.sum(1) == h*w - max(1, int(h*w*(1-ratio)))).all() and not out.pred[~out.mask].any()
    assert torch.equal(m.embed(x).isnan().any(1), x.isnan().all(3).all(2).all(1))
    assert m.reconstruct(x, out.mask).isfinite().all()

def test_bands_permuted_with_their_names():
    m,x = model(7).eval(), torch.randn(2,7,32,32)
    order = [3,1,6,0,2,5,4]
    again = m.embed(x[:,order], bands=[m.bands[i] for i in order])
    assert torch.equal(again, m.embed(x))
    assert torch.equal(m(x[:,order], bands=[m.bands[i] for i in order], mask=m(x).mask).mask.sum(1), torch.tensor([12,12]))

def test_a_batch_is_its_objects():
    m,x = model().eval(), torch.randn(6,3,32,32)
    alone = torch.cat([m.embed(o[None]) for o in x])
    assert (m.embed(x)-alone).abs().max() < 1e-5

def test_encode_never_masks_and_repeats_itself():
    m,x = model(), torch.randn(2,3,32,32)
    assert torch.equal(m.encode(x), m.encode(x)) and m.encode(x).shape == (2,16,32)
