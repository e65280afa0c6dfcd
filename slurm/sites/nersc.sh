# Perlmutter at NERSC. Put the project (of GPU hours, such as m1234_g) for YOUR_ACCOUNT.
# Jobs of less than a node go to shared; for whole nodes (four A100s) give --sbatch qos=regular.
# The environment is made on a login node: module load python; python -m venv $SCRATCH/astromask; and pip install in it
#SBATCH --account=YOUR_ACCOUNT
#SBATCH --constraint=gpu
#SBATCH --qos=shared
#SBATCH --time=4:00:00
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node={gpus}
module load python
export HDF5_USE_FILE_LOCKING=FALSE
