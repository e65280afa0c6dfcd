"How embeddings are read: queries over patches, readings side by side, what is measured on pixels."
import numpy as np, pytest, torch
from astromask.core import InputError
from astromask.models.answers import Classes
from astromask.models.encoder import READINGS, orientations
from astromask.models.heads import Predictor, QueryPool, encoder_from_config
from astromask.models.mae import MAE
from astromask.models.measures import MEASURES, pixel_measures
from astromask.models.networks import CNN
from astromask.models.simmim import SimMIM
from astromask.models.weights import load_model, model_hash, save_model, untrained, with_bands

def encoder(**kw):
    torch.manual_seed(0)
    return MAE(16, 4, 'gri', embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2, **kw).eval()

def images():
    x = torch.randn(5,3,16,16, generator=torch.Generator().manual_seed(1))
    x[1,1] = x[2,:,:8,:6] = x[3,0,7:9,7:9] = x[4] = torch.nan
    return x

def test_queries_equal_a_softmax_by_hand():
    torch.manual_seed(0)
    pool = QueryPool(12, 3)
    with torch.no_grad(): pool.queries.normal_()
    x = torch.randn(4, 7, 12, requires_grad=True)
    seen = torch.rand(4, 7) > .4
    seen[:,0] = True
    found = pool(x, seen[:,None,None])
    q,v,a = (o.detach().double().numpy() for o in (pool.queries, pool.value.weight, x))
    wanted = np.zeros((4,12))
    for b in range(4):
        for j in range(3):
            w = np.where(seen[b], np.exp(a[b] @ q[j]/12**.5), 0)
            wanted[b,4*j:4*j+4] = (w/w.sum()) @ (a[b] @ v.T)[:,4*j:4*j+4]
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-5)
    found.square().sum().backward()
    assert not x.grad[~seen].any() and x.grad[seen].any()

def test_an_attentive_head_does_not_see_what_is_missing():
    p = Predictor(encoder(), Classes('ab'), 'attentive', queries=4, head_std=1).eval()
    patches,seen = p.see(images())
    other = p.weigh(torch.where(seen[...,None], patches, 9.), seen)
    assert torch.equal(p.weigh(patches, seen), other) and p.predict(images())['probability'].isnan().any(1).tolist() == [False]*4+[True]
    assert p.config['queries'] == 4 and sum(v.numel() for v in p.branches.parameters()) == 16*16 + 4*16

@pytest.mark.parametrize('make', [encoder, lambda: encoder(norm_after_pool=True),
                                  lambda: SimMIM(16, 4, 'gri', embed_dim=16, depth=1, num_heads=2)], ids=['mae','after','simmim'])
def test_readings_stand_side_by_side(make):
    x = images()
    m = make().eval().fit_steady([dict(x=x)])
    names = [o for o in READINGS if o != 'cls' or m.cls_token is not None]
    each = {o: m.embed(x, pool=o, views=2) for o in names}
    assert all(e.shape == (5,m.pooled_width(o)) and e.isnan().all(1).tolist() == e.isnan().any(1).tolist() == [False]*4+[True] for o,e in each.items())
    torch.testing.assert_close(m.embed(x, pool='+'.join(names), views=2), torch.cat(list(each.values()), 1), equal_nan=True)
    torch.testing.assert_close(m.embed(x[:,:2], ('g','r'), pool='mean+pixels')[:,16:][:,2*MEASURES:3*MEASURES][0], pixel_measures(x[:1,:2]).unflatten(1, (2,MEASURES)).mean(1)[0])

def many(n=48):
    x = torch.randn(n,3,16,16, generator=torch.Generator().manual_seed(3)).cumsum(-1).cumsum(-2)/4
    x[1,2] = x[2,:,:9] = torch.nan
    x[3] = torch.nan
    return x

def test_a_steady_reading_does_not_depend_on_how_its_sample_is_cut():
    one,two = (encoder(views=8, pool='mean+pixels').eval() for _ in range(2))
    two.load_state_dict(one.state_dict())
    one.fit_steady([dict(x=many())])
    two.fit_steady([dict(x=many()[:5]), dict(x=many()[5:])])
    torch.testing.assert_close(one.steady.weight, two.steady.weight, rtol=1e-4, atol=1e-6)
    assert (one.pool, one.views) == ('steady+pixels', 1) and one.embed(many()).isnan().any(1).nonzero()[:,0].tolist() == [3]
    by_hand = encoder().eval()
    by_hand.load_state_dict({k: v for k,v in one.state_dict().items() if 'steady' not in k})
    seen = many()[:1]
    mean,rings = one.ring_tokens(one.attend(one.tokens(*one.pixels(seen))), torch.ones(1,16,1, dtype=torch.bool))
    torch.testing.assert_close(one.embed(seen, pool='steady'), by_hand.embed(seen) + rings @ one.steady.weight + one.steady.bias)

@pytest.mark.parametrize('of', ['mean','central'])
def test_a_steady_reading_is_kept_with_the_model(tmp_path, of):
    m = MAE.preset('tiny', bands=('g','r','i'), img_size=16, views=8, pool=f'{of}+pixels').eval()
    x = many()
    before = model_hash(m)
    m.fit_steady([dict(x=x)])
    save_model(m, tmp_path/'m')
    again = load_model(tmp_path/'m')
    torch.testing.assert_close(again.embed(x), m.embed(x), equal_nan=True)
    assert model_hash(again) == model_hash(m) != before and (again.pool, again.views) == ('steady+pixels', 1)
    assert again.resized(64).steady is not None and torch.equal(with_bands(again, 'gr').steady.weight, m.steady.weight)
    fresh = untrained(again)
    assert (fresh.pool, fresh.views, fresh.steady) == (f'{of}+pixels', 8, None)
    before = m.steady.bias.clone()
    assert again.fit_steady([dict(x=x)]).steady.of == of
    torch.testing.assert_close(again.steady.bias, before)
    frozen = Predictor(again, Classes('ab'))
    assert torch.equal(encoder_from_config(frozen.config['encoder']).steady.weight, torch.zeros_like(m.steady.weight))

def test_a_model_from_before_there_were_two_kinds_tells_the_mean():
    m = encoder(views=8).eval().fit_steady([dict(x=many())])
    older = encoder(steady=True, pool='steady').eval()
    older.load_state_dict(m.state_dict())
    assert older.steady.of == m.steady.of == 'mean'
    torch.testing.assert_close(older.embed(many()), m.embed(many()), equal_nan=True)

def test_the_middle_is_told_better_than_one_view_has_it():
    m = encoder(views=8, pool='central').eval()
    wanted = m.embed(many())
    one = m.embed(many(), views=1)
    told = m.fit_steady([dict(x=many())]).embed(many())
    there = wanted.isfinite().all(1)
    off = lambda e: (e-wanted)[there].square().mean()
    assert m.steady.of == 'central' and off(told) < .7*off(one)

def test_the_spread_is_that_of_observed_patches():
    m = encoder()
    tokens = m.encode(images()[2:3])[0]
    there = torch.ones(4, 4, dtype=torch.bool)
    there[:2,:1] = False
    torch.testing.assert_close(m.embed(images()[2:3], pool='spread')[0], tokens[there.flatten()].std(0, correction=0))

def test_measures_do_not_change_when_the_image_is_turned():
    x = images()
    for o in orientations(x): torch.testing.assert_close(pixel_measures(o), pixel_measures(x), atol=2e-5, rtol=1e-4)
    assert pixel_measures(x).isfinite().all() and pixel_measures(torch.full((1,2,4,4), 1e30)).isfinite().all()

def test_a_predictor_of_two_readings(tmp_path):
    p = Predictor(encoder(), Classes('ab'), pool='mean+pixels', norm='batch', head_std=1).eval()
    assert p.width == 16+3*MEASURES and p.embed(images()).shape == (5,p.width)
    save_model(p, tmp_path)
    torch.testing.assert_close(load_model(tmp_path).predict(images())['probability'], p.predict(images())['probability'], equal_nan=True)
    Predictor(encoder(), Classes('ab'), pool='mean+pixels', norm='layer')(images()).sum().backward()

def test_what_does_not_fit_is_refused():
    m = encoder()
    for why,make in (('name each reading once', lambda: m.embed(images(), pool='mean+mean')), ('one of mean', lambda: m.embed(images(), pool='mean+')),
                     ('leave pool out', lambda: Predictor(m, Classes('ab'), 'attentive', pool='mean+cls')), ('leave pool out', lambda: Predictor(m, Classes('ab'), 'astromae', pool='mean+cls')),
                     ('without a transformer', lambda: Predictor(CNN('gri', 32, 'resnet10t'), Classes('ab'), pool='mean+pixels')), ('must divide the 16', lambda: Predictor(m, Classes('ab'), 'attentive', queries=3))):
        with pytest.raises(InputError, match=why): make()
