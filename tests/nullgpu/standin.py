"The stand-in for a CUDA device (device.c): built, and put before a Python program. `python standin.py FILE.py ...` runs one so"
import ctypes, os, re, shutil, subprocess, sys, sysconfig, tempfile
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = Path(sysconfig.get_paths()['purelib'])
COUNTED = ('launches','replays','captured','syncs','elsewhere','pinned','pageable','fetched','moved','filled','allocated')
REAL = re.compile(r'__cuda(Push|Pop|Register|Unregister|Init)')                    # these need no driver
SETTING = re.compile(r'Set|Get|Destroy|Version|Init|Check|Desc|Layout|Preference')  # of cuBLAS: not products

def why_not():
    "Why there is no stand-in here; '' where there is one"
    import torch
    if not torch.version.cuda: return 'this torch is no CUDA build'
    if sys.platform != 'linux': return 'device.c is written for Linux'
    lacking = [o for o in ('gcc','nm') if not shutil.which(o)]
    return f'there is no {lacking[0]}' if lacking else '' if len(headers()) > 1 else "CUDA's header files are not here"

def headers():
    "Where CUDA's header files are: the wheel of its run time has them, and Triton those that they include"
    return [p.parent for o in ('nvidia/cu*/include/cuda_runtime_api.h','triton/backends/nvidia/include/cuda.h') for p in PACKAGES.glob(o)]

def names(path, *options):
    "Symbols of a library, as nm has them"
    rows = subprocess.run(['nm', *options, str(path)], capture_output=True, text=True, check=True).stdout.splitlines()
    return {row.split()[-1].split('@')[0] for row in rows}

def rest(have):
    "C for all that PyTorch wants of CUDA's run time and of cuBLAS, and for the driver, as far as device.c does not have it"
    driver = set(re.findall(r'CUDAAPI (cu[A-Z]\w+)\(', (headers()[-1]/'cuda.h').read_text()))
    wanted = driver.union(*(names(PACKAGES/'torch'/'lib'/f'lib{o}.so', '-D', '-u') for o in ('torch_cuda','c10_cuda','torch_python')))
    yield 'int standin_product(void); static char some[4096];'
    for k in sorted(wanted-have):
        if not re.match(r'(__)?cuda[A-Z]|cublas|cu[A-Z](?!File)', k) or REAL.match(k): continue
        if 'Create' in k: yield f'int {k}(void **p) {{ *p = some; return 0; }}'
        elif k.startswith('cublas') and not SETTING.search(k): yield f'int {k}() {{ return standin_product(); }}'
        else: yield f'int {k}() {{ return 0; }}'

def built(folder):
    "The library, in a folder"
    folder = Path(folder)
    gcc = ['gcc', '-O1', '-w', '-std=gnu11', '-fPIC']
    subprocess.run([*gcc, '-c', *(f'-I{o}' for o in headers()), HERE/'device.c', '-o', folder/'device.o'], check=True)
    (folder/'rest.c').write_text('\n'.join(rest(names(folder/'device.o', '--defined-only'))))
    subprocess.run([*gcc, '-shared', '-Wl,-soname,libcuda.so.1', folder/'device.o', folder/'rest.c', '-o', folder/'libcuda.so.1'], check=True)
    return folder/'libcuda.so.1'

def environment(library):
    "In which a program has the stand-in"
    return os.environ | dict(LD_PRELOAD=str(library), TRITON_LIBCUDA_PATH=str(Path(library).parent), CUDA_VISIBLE_DEVICES='0', OMP_NUM_THREADS='1', TORCHINDUCTOR_COMPILE_THREADS='1')

def counts():
    "What the device was asked for until now"
    found = (ctypes.c_long*len(COUNTED))()
    ctypes.CDLL(None).standin_counts(found)
    return dict(zip(COUNTED, found))

if __name__ == '__main__':
    if why := why_not(): sys.exit(f'No stand-in: {why}')
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(subprocess.run([sys.executable, *sys.argv[1:]], env=environment(built(folder))).returncode)
