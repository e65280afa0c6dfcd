"""A training step of the original MAE code beside ours: `python tools/original_mae.py CHECKOUT [THREADS [ROUNDS]]`

CHECKOUT is one of github.com/facebookresearch/mae. Each takes turns in a process of its own, as it is used: model, gradient and
AdamW on 64 images of 3 x 64 x 64, in the sizes of `small`. Times are of a processor's threads together where there is one thread,
and by the clock where there are more; beside them, how many pages of memory the kernel gave for a step."""
import json, resource, subprocess, sys, time
from functools import partial
import numpy as np

SIZES = dict(embed_dim=192, depth=4, num_heads=6, decoder_embed_dim=128, decoder_depth=1, decoder_num_heads=4)
KINDS = {'products': ('mm','bmm','addmm','linear_pointwise','convolution'), 'attention': ('attention','softmax'), 'GELU': ('gelu',),
         'norms': ('layer_norm',)}

def original(checkout):
    "Its model and loss, with what newer versions of its libraries no longer take"
    import torch, timm.models.vision_transformer as vit
    np.float = float
    block = vit.Block
    vit.Block = lambda *args, qk_scale=None, **kw: block(*args, **kw)
    sys.path.insert(0, checkout)
    from models_mae import MaskedAutoencoderViT
    m = MaskedAutoencoderViT(64, 8, 3, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), **SIZES)
    return m,lambda x: m(x, mask_ratio=.85)[0],{}

def ours():
    from astromask.models.mae import MAE                             # before torch is loaded, as a user has it
    import torch
    m = MAE(64, 8, 'gri', mask_ratio=.85, **SIZES)
    g = torch.Generator().manual_seed(0)
    return m,lambda x: m(x, generator=g).loss,dict(fused=True)

def kind_of(name): return next((k for k,words in KINDS.items() if any(w in name for w in words)), 'the rest')

def by_operator(f, n):
    "Milliseconds of each kind of operation"
    import torch
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as p:
        for _ in range(n): f()
    found = dict.fromkeys([*KINDS,'the rest'], 0.)
    for o in p.key_averages(): found[kind_of(o.key)] += o.self_cpu_time_total/1e3/n
    return found

def measured(which, checkout, threads, n=20):
    "Milliseconds of a step, the median, and of its parts"
    model = ours() if which == 'ours' else None
    import torch
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    m,loss,fused = model or original(checkout)
    x = .3*torch.randn(64, 3, 64, 64)
    params = [p for p in m.parameters() if p.requires_grad]
    groups = [dict(params=[p for p in params if (p.ndim > 1) == big], weight_decay=decay) for big,decay in ((True,.05), (False,0.))]
    opt = torch.optim.AdamW(groups, lr=1e-3, betas=(.9,.95), **fused)
    clock = time.process_time if threads == 1 else time.perf_counter
    steps,optimizer,pages = [],[],[]
    for _ in range(8+n):
        began = clock()
        loss(x).backward()
        half = clock()
        opt.step()
        opt.zero_grad()
        steps.append(clock()-began)
        pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        optimizer.append(clock()-half)
    told = lambda t: 1e3*float(np.median(t[8:]))
    return dict(step=told(steps), **by_operator(lambda: loss(x).backward(), 5), optimizer=told(optimizer),
                pages=(pages[-1]-pages[7])/n)

def main(checkout, threads=1, rounds=5):
    found = {'original': [], 'ours': []}
    for _ in range(rounds):
        for which,runs in found.items():
            done = subprocess.run([sys.executable,__file__,checkout,str(threads),which], check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    ratios = [a['step']/b['step'] for a,b in zip(*found.values())]
    print(f'{threads} thread(s), {rounds} rounds: {np.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})')
    print(f'{"ms":12}{"original":>10}{"ours":>10}')
    for part in found['ours'][0]:
        print(f'{part:12}'+''.join(f'{np.median([o[part] for o in runs]):10.1f}' for runs in found.values()))

if __name__ == '__main__':
    checkout,threads = sys.argv[1],int((sys.argv[2:] or [1])[0])
    if sys.argv[3:] and sys.argv[3] in ('ours','original'): print(json.dumps(measured(sys.argv[3], checkout, threads)))
    else: main(checkout, threads, *map(int, sys.argv[3:]))
