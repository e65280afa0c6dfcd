__version__ = "0.1.0"

import os

# Threads that wait a moment before they sleep: a core that another process wants is given away. OpenMP reads it as torch is loaded
if 'OMP_WAIT_POLICY' not in os.environ: os.environ.setdefault('GOMP_SPINCOUNT', '100000')
