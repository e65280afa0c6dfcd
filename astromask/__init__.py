__version__ = "0.1.0"

import os

# Threads that wait a moment before they sleep: a core that another process wants is given away. OpenMP reads it as torch is loaded
if 'OMP_WAIT_POLICY' not in os.environ: os.environ.setdefault('GOMP_SPINCOUNT', '100000')

def _keep_memory():
    "Freed memory stays with the process, up to 256 MB: a step of training would give it back, and the kernel would have to empty it anew"
    import ctypes
    try: set_option = ctypes.CDLL(None).mallopt
    except (AttributeError,OSError,TypeError): return                # not glibc
    for option,mb in ((-1,256), (-2,64), (-3,32)): set_option(option, mb << 20)   # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD

if not any(k in os.environ for k in ('MALLOC_TRIM_THRESHOLD_','MALLOC_TOP_PAD_','MALLOC_MMAP_THRESHOLD_','GLIBC_TUNABLES')): _keep_memory()
