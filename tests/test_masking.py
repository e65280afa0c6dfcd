"What masked models are made of, against definitions in plain NumPy and loops: each was broken once, and seen here"
import math
from fractions import Fraction
import numpy as np, pytest, torch
from astromask.core import InputError
from astromask.scaling import AsinhScaling
from astromask.models.mae import MAE
from astromask.models.masked import masked_loss, normalise_patches, patch_statistics
from astromask.models.masking import mask_from_noise, n_visible, patchify, put, split_tokens, spread_units, take, units_from_noise, unpatchify
from astromask.models.simmim import SimMIM

close = lambda a, b, **kw: np.testing.assert_allclose(torch.as_tensor(a).detach().numpy(), b, **dict(rtol=1e-5, atol=1e-6) | kw)
def generator(seed=0): return torch.Generator().manual_seed(seed)
def mae(size=(16,24), **kw): return made(MAE, size, **dict(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2) | kw)
def simmim(size=(16,24), **kw): return made(SimMIM, size, **kw)
def made(cls, size, bands='gr', patch_size=4, **kw):
    torch.manual_seed(0)
    m = cls(size, patch_size, bands, **dict(embed_dim=16, depth=1, num_heads=2) | kw).eval()
    m.fill.data.normal_()
    return m

# ---- patches

def test_patches_are_in_the_order_row_column_band():
    x = torch.randn(2, 3, 8, 12)
    p = patchify(x, 4)
    assert p.shape == (2, 6, 48)
    for i,j in np.ndindex(2, 3):
        for r,c,b in np.ndindex(4, 4, 3): assert torch.equal(p[:,3*i+j,(r*4+c)*3+b], x[:,b,4*i+r,4*j+c])
    assert torch.equal(unpatchify(p, 4, (8,12)), x)

def test_units_cover_their_pixels():
    mask = torch.rand(2, 3, 6) < .5
    wide = spread_units(mask, (2,3), 4)
    assert wide.shape == (2, 3, 8, 12)
    for i,j in np.ndindex(8, 12): assert torch.equal(wide[:,:,i,j], mask[:,:,i//4*3+j//4])

def test_tokens_are_split_taken_and_put_back():
    mask = mask_from_noise(torch.rand(3, 10), .6)
    x = torch.randn(3, 10, 5)
    visible,hidden = split_tokens(mask, 4)
    for k in range(3):
        assert visible[k].tolist() == np.flatnonzero(~mask[k]).tolist() and hidden[k].tolist() == np.flatnonzero(mask[k]).tolist()
        assert torch.equal(take(x, visible)[k], x[k][~mask[k]])
    back = put(take(x, hidden), hidden, torch.zeros_like(x))
    assert torch.equal(back, torch.where(mask[...,None], x, 0))

# ---- who is hidden

def floor_share(n, ratio): return math.floor(n*(1-Fraction(str(ratio))))

def hidden_by_hand(noise, ratio, observed, L):
    "One row: the observed with the smallest noise are seen, a share of them; then empty patches; then the rest"
    by_noise = np.argsort(noise, kind='stable')
    first = [i for i in by_noise if observed[i]][:max(1, floor_share(observed.sum(), ratio))]
    empty = [i for i in by_noise if not observed[i]]
    rest = [i for i in by_noise if observed[i] and i not in first]
    shown = (first + empty + rest)[:max(1, int(L*(1-ratio)))]
    return ~np.isin(np.arange(L), shown)

@pytest.mark.parametrize('ratio', [0, .25, .5, .6, .7, .75, .85, .9, .99])
@pytest.mark.parametrize('L', [1, 4, 10, 20, 64])
def test_masks_of_patches(L, ratio):
    noise = torch.rand(40, L, generator=generator(L))
    share = torch.rand(40, 1, generator=generator(1))
    observed = torch.rand(40, L, generator=generator(2)) < share
    observed[0],observed[1] = True,False
    found = mask_from_noise(noise, ratio, observed)
    for k in range(40): assert found[k].tolist() == hidden_by_hand(noise[k].numpy(), ratio, observed[k].numpy(), L).tolist()
    plain = mask_from_noise(noise, ratio)
    for k in range(40): assert plain[k].tolist() == (~np.isin(np.arange(L), np.argsort(noise[k].numpy())[:n_visible(L, ratio)])).tolist()
    assert n_visible(L, ratio) == max(1, int(L*(1-ratio)))

@pytest.mark.parametrize('ratio', [.1, .3, .5, .6, .7, .9, 1])
@pytest.mark.parametrize('L', [1, 4, 10, 20])
def test_masks_of_units(L, ratio):
    noise = torch.rand(20, 3, L, generator=generator(L))
    observed = torch.rand(20, 3, L, generator=generator(1)) < torch.rand(20, 3, 1, generator=generator(2))
    observed[0],observed[1] = True,False
    found = units_from_noise(noise, ratio, observed)
    many = lambda n: max(1, math.ceil(n*Fraction(str(ratio))))
    for k,b in np.ndindex(20, 3):
        by_noise,seen = np.argsort(noise[k,b].numpy(), kind='stable'),observed[k,b].numpy()
        first = [i for i in by_noise if seen[i]][:many(seen.sum())]
        order = first + [i for i in by_noise if not seen[i]] + [i for i in by_noise if seen[i] and i not in first]
        assert found[k,b].tolist() == np.isin(np.arange(L), order[:many(L)]).tolist()
    plain = units_from_noise(noise, ratio)
    for k,b in np.ndindex(20, 3): assert plain[k,b].tolist() == np.isin(np.arange(L), np.argsort(noise[k,b].numpy())[:many(L)]).tolist()

@pytest.mark.parametrize('ratio,kw', [(.6, {}), (.85, dict(decoder='cross', predict_ratio=.5))])
def test_squares_are_hidden_as_one(ratio, kw):
    "Those of 2x2 patches, by hand: the share of the observed ones, as many in each object, and what is predicted is hidden"
    m,x,noise = mae(mask_block=2, mask_ratio=ratio, **kw),torch.randn(30, 2, 16, 24),torch.rand(30, 6, generator=generator())
    seen = torch.rand(30, 6, generator=generator(1)) < .6
    seen[0],seen[1] = True,False
    pixel = torch.zeros(30, 1, 6, 64, dtype=torch.bool)                        # of an observed square, one pixel may do
    pixel[...,37] = seen[:,None]
    pixel[2] = seen[2,:,None]
    x[~unpatchify(pixel.squeeze(1), 8, (16,24)).expand(-1,2,-1,-1)] = torch.nan
    mask = m.choose_mask(m.pixels(x)[1], generator=noise)
    for k in range(30):
        want = hidden_by_hand(noise[k].numpy(), ratio, seen[k].numpy(), 6).reshape(2,3)
        assert mask[k].view(4,6).tolist() == np.kron(want, np.ones((2,2), bool)).tolist()
    out = m(x, generator=noise)
    assert out.loss.isfinite() and not (out.mask & ~mask).any() and m.n_shown(None, 30) == (~mask[0]).sum() == 4*n_visible(6, ratio)
    if not kw: assert torch.equal(out.mask, mask)
    assert m.reconstruct(x).isfinite().all()

def test_squares_are_units_of_simmim():
    x,noise = torch.randn(3, 2, 16, 24),torch.rand(3, 6)
    one,other = (simmim(mask_in='tokens', **kw)(x, generator=noise) for kw in (dict(mask_block=2), dict(mask_unit=8)))
    assert one.loss == other.loss and torch.equal(one.mask, other.mask)
    assert 'mask_block' not in simmim().config and 'mask_block' not in mae().config and mae(mask_block=2).config['mask_block'] == 2

@pytest.mark.parametrize('make,kw,words', [(mae, dict(mask_block=3), 'mask_block is 3: it must divide the 4x6 patches'), (mae, dict(mask_block=0), 'mask_block is 0'),
                                           (simmim, dict(mask_block=3), 'mask_unit 12 must be'), (simmim, dict(mask_block=0), 'mask_unit 0 must be'),
                                           (simmim, dict(mask_block=2, mask_unit=8), 'mask_block is 2, but mask_unit says 8 pixels')])
def test_squares_that_there_are_not(make, kw, words):
    with pytest.raises(InputError, match=words): make(**kw)

def test_each_object_hides_the_share_it_drew():
    m = simmim(per_band=True, mask_in='pixels', mask_ratio=(.2,.8))
    noise = torch.rand(50, m.n_noise, generator=generator())
    mask = m(torch.randn(50, 2, 16, 24), generator=noise).mask
    want = [math.ceil((.2+.6*v)*24 - 1e-4) for v in noise[:,-1].tolist()]
    assert mask.sum(2).tolist() == [[n,n] for n in want] and len(set(want)) > 8

@pytest.mark.parametrize('per_band', [True, False])
def test_a_unit_with_one_pixel_is_observed(per_band):
    m = simmim(per_band=per_band, mask_in='pixels', mask_unit=8)
    valid = torch.zeros(1, 2, 16, 24, dtype=torch.bool)
    valid[0,0,3,5] = valid[0,1,9,23] = valid[0,1,2,2] = True                   # units 0 and (1,2)
    seen = m.observed_units(patchify(valid, 4))
    want = np.zeros((2,6), bool)
    want[0,0] = want[1,5] = want[1,0] = True
    assert seen.shape == (1, 2 if per_band else 1, 6) and seen[0].tolist() == (want if per_band else want.any(0, keepdims=True)).tolist()

def test_units_without_data_are_hidden_only_when_nothing_else_is_left():
    m,x = simmim(per_band=True, mask_in='pixels', mask_ratio=.25),torch.randn(30, 2, 16, 24)
    x[:,0,:8] = torch.nan                                                      # half of one band
    mask = m(x, generator=generator()).mask
    assert (mask[:,0,12:].sum(1) == 3).all() and (mask[:,0,:12].sum(1) == 3).all() and (mask[:,1].sum(1) == 6).all()

# ---- statistics and losses

def patches(n=5, K=3, P=12, seed=0):
    rng = np.random.default_rng(seed)
    v,ok = rng.normal(3, 2, (n,K,P)),rng.random((n,K,P)) < .7
    ok[0,0],ok[1,1],ok[2,2] = False,np.arange(P) == 4,np.arange(P) < 2
    return v,ok

@pytest.mark.parametrize('ddof', [0,1])
def test_statistics_of_patches(ddof):
    v,ok = patches()
    n,mean,var = patch_statistics(torch.tensor(v), torch.tensor(ok), ddof)
    y,counts = normalise_patches(torch.tensor(v), torch.tensor(ok), ddof)
    for i in np.ndindex(v.shape[:2]):
        some = v[i][ok[i]]
        assert n[i] == len(some)
        close(mean[i], [some.mean() if len(some) else 0])
        close(var[i], [some.var(ddof=ddof) if len(some) > 1 else 0])
        assert counts[i].tolist() == (ok[i] & (len(some) >= 2)).tolist()
        if len(some) > 1: close(y[i][ok[i]], (some-some.mean())/np.sqrt(some.var(ddof=ddof)+1e-6))

@pytest.mark.parametrize('loss,f,root', [('mse', np.square, 1), ('l1', np.abs, .5)])
@pytest.mark.parametrize('scale', [1e-30, 1, 1e30])
def test_losses_are_weighted_means(loss, f, root, scale):
    rng = np.random.default_rng(0)
    p,t,ok,w = rng.normal(size=40),rng.normal(size=40),rng.random(40) < .6,rng.uniform(.1, 9, 40)
    w[:5] = 0
    t[~ok] = np.nan
    tensors = [torch.tensor(o) for o in (p, t, ok)]
    close(masked_loss(*tensors, loss), f(p-t)[ok].mean())
    close(masked_loss(*tensors, loss, torch.tensor(scale*w)), np.average(f(p-t)[ok], weights=w[ok]**root))
    nothing = torch.zeros(40, dtype=torch.bool)
    assert masked_loss(tensors[0], tensors[1], nothing, loss) == 0 and masked_loss(tensors[0], tensors[1], nothing, loss, torch.tensor(w)) == 0

@pytest.mark.parametrize('norm_pix', [False, True, 'population'])
@pytest.mark.parametrize('loss,f,root', [('mse', np.square, 1), ('l1', np.abs, .5)])
@pytest.mark.parametrize('make', [mae, simmim])
def test_the_loss_of_a_model_by_hand(make, norm_pix, loss, f, root):
    "With a scaling, missing pixels and inverse variances: errors go through the slope of the scaling and the norm of the patch"
    m,x = make(norm_pix_loss=norm_pix, loss=loss),torch.randn(3, 2, 16, 24, generator=generator())
    x[0,1,:5],x[1,:,3,7] = torch.nan,torch.nan
    m.scaling = AsinhScaling([.1,-.2], [.5,2.], [1.,.7])
    ivar = torch.rand(x.shape, generator=generator(1))+.1
    out = m(x, generator=generator(2), ivar=ivar)
    hidden = patchify(m.hidden_pixels(out.mask).expand_as(x), 4).numpy()
    y,pred = patchify(m.scaling(x), 4).numpy().astype(float),(out.pred if make is mae else patchify(out.pred, 4)).detach().numpy()
    w = patchify(ivar/m.scaling.slope(x)**2, 4).numpy().astype(float)
    error,weight = [],[]
    for i in np.ndindex(y.shape[:2]):
        ok = np.isfinite(y[i])
        if norm_pix and ok.sum() < 2: continue
        var = y[i][ok].var(ddof=norm_pix is True)+1e-6 if norm_pix else 1
        target = (y[i]-y[i][ok].mean())/np.sqrt(var) if norm_pix else y[i]
        ok &= hidden[i]
        error += f(pred[i]-target)[ok].tolist()
        weight += ((w[i]*var)**root)[ok].tolist()
    close(out.loss, np.average(error, weights=weight), rtol=1e-4)
    assert out.n_targets == len(error)

def test_statistics_are_interpolated_from_what_is_seen():
    m = mae()
    v = torch.randn(2, 24, 32, generator=generator())*torch.rand(2, 24, 1, generator=generator(1))*5
    valid = torch.rand(v.shape, generator=generator(2)) < .8
    visible = torch.rand(2, 24, generator=generator(3)) < .4
    valid[0,5],visible[0,5] = torch.arange(32) == 3,True                       # one pixel has no variance
    mean,var = m.interpolate_statistics(v, valid, visible)
    n,own_mean,own_var = (o[...,0].numpy() for o in patch_statistics(v, valid))
    at = np.array([(i//6, i%6) for i in range(24)])
    for k,i in np.ndindex(2, 24):
        w = np.array([1/(((at[i]-at[j])**2).sum()+1e-3)*(bool(visible[k,j]) and n[k,j] >= 2) for j in range(24)])
        w /= w.sum()
        close(mean[k,i], [w @ own_mean[k]], rtol=1e-3, atol=1e-4)
        close(var[k,i], [np.exp(w @ np.log(own_var[k]+1e-6))], rtol=1e-3)
    nothing = m.interpolate_statistics(v, valid, torch.zeros(2, 24, dtype=torch.bool))
    assert not nothing[0].any() and (nothing[1] == 1).all()

# ---- MAE's decoders, and pictures

@pytest.mark.parametrize('decoder', ['self','cross'])
def test_the_decoder_by_hand(decoder):
    m = mae(decoder=decoder)
    x,noise = torch.randn(2, 2, 16, 24, generator=generator()),torch.rand(2, 24, generator=generator(1))
    out = m(x, generator=noise)
    values,valid = m.pixels(x)
    for k in range(2):
        shown,hidden = np.flatnonzero(~out.mask[k]),np.flatnonzero(out.mask[k])
        tokens = m.tokens(values[k:k+1,shown], valid[k:k+1,shown], torch.tensor(shown)[None])
        z = m.decoder_embed(m.attend(tokens, None, ids=torch.tensor(shown)[None]))[0]
        position = m.decoder_pos_embed[0]
        memory = torch.stack([z[0]+position[0], *(z[1+a]+position[1+i] for a,i in enumerate(shown))])
        queries = torch.stack([m.mask_token[0,0]+position[1+i] for i in hidden])
        block = m.decoder_blocks[0]
        if decoder == 'cross':
            heads = lambda t: t.reshape(len(t), 2, 8).transpose(0, 1)
            key,value = (heads(o) for o in block.kv(memory).chunk(2, -1))
            q = heads(block.q(block.norm1(queries)))
            seen = torch.softmax(q @ key.transpose(1, 2)/8**.5, -1) @ value
            y = queries + block.proj(seen.transpose(0, 1).reshape(len(queries), 16))
            y = y + block.mlp(block.norm2(y))
        else:
            y = m.run_block(block, torch.cat([memory, queries])[None])[0][len(memory):]          # the order of tokens does not matter
        close(out.pred[k,hidden], m.decoder_pred(m.decoder_norm(y)).detach().numpy(), rtol=1e-3, atol=1e-5)
        assert not out.pred[k,shown].any()

def test_of_the_hidden_patches_a_random_share_is_predicted_observed_ones_first():
    m = mae(decoder='cross', predict_ratio=.5)
    hidden,noise = torch.arange(4, 24)[None].expand(200, -1),torch.rand(200, 24, generator=generator())
    observed = torch.ones(200, 24, dtype=torch.bool)
    found = m.sample_hidden(hidden, noise, observed)
    assert found.shape == (200, 10)
    for k in range(200): assert set(found[k].tolist()) == set((4+np.argsort(-noise[k,4:].numpy())[:10]).tolist())
    assert (torch.bincount(found.flatten(), minlength=24)[4:] > 60).all()
    observed[:,4:20] = False                                                   # four are left
    found = m.sample_hidden(hidden, noise, observed)
    assert all({20,21,22,23} <= set(o) and len(set(o)) == 10 for o in found.tolist())

@pytest.mark.parametrize('make', [mae, simmim])
def test_normalised_predictions_come_back_by_interpolated_statistics(make):
    "A network that says 1 everywhere: each hidden pixel is one deviation above the mean around it"
    m,x = make(norm_pix_loss=True),torch.randn(2, 2, 16, 24, generator=generator())*7+3
    last = m.decoder_pred if make is mae else m.head
    last.weight.data.zero_(),last.bias.data.fill_(1.)
    values,valid = m.pixels(x)
    mask = m.choose_mask(valid, None, m.usual_noise(2))
    hidden = m.hidden_pixels(mask).expand_as(x)
    if make is mae: seen = valid,~mask
    else: seen = valid & ~m.hidden_patches(mask),torch.ones_like(valid[...,0])
    mean,var = m.interpolate_statistics(values, *seen)
    want = unpatchify((mean+(var+1e-6).sqrt()).expand_as(values), 4, (16,24))
    r = m.reconstruct(x, mask)
    close(r[hidden], want[hidden].numpy(), rtol=1e-4)
    assert torch.equal(r[~hidden], x[~hidden])

@pytest.mark.parametrize('make', [mae, simmim])
def test_a_missing_pixel_is_predicted_by_a_model_that_does_not_see_its_patch(make):
    m,x = make(norm_pix_loss=False),torch.randn(1, 2, 16, 24, generator=generator())
    x[0,0,0,1] = torch.nan                                                     # in patch 0, which is seen
    mask = torch.ones(1, 24, dtype=torch.bool)
    mask[0,:8] = False
    if make is simmim: mask = mask[:,None]
    r = m.reconstruct(x, mask)
    assert r.isfinite().all()
    other = x.clone()
    other[0,:,0,0] += 5                                                        # a neighbour in the same patch
    assert r[0,0,0,1] == m.reconstruct(other, mask)[0,0,0,1]
    far = x.clone()
    far[0,:,0,9] += 5                                                          # in another patch that is seen
    assert r[0,0,0,1] != m.reconstruct(far, mask)[0,0,0,1]

def test_pixels_of_a_patch_are_in_the_order_of_the_head():
    m = simmim()
    m.head.weight.data.zero_(),m.head.bias.data.copy_(torch.arange(32.))
    pred = m(torch.randn(1, 2, 16, 24), generator=generator()).pred
    want = np.tile(np.arange(32.).reshape(2, 4, 4), (1, 4, 6))
    close(pred[0], want)
