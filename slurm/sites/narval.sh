# Narval, of the Digital Research Alliance of Canada. Put the allocation (def-..., rrg-...) for YOUR_ACCOUNT.
# Nodes have four A100s with 40 GB and 48 cores. Compute nodes reach no network: fetch data on a login node.
# The environment is made on a login node: module load python/3.11; virtualenv --no-download ~/astromask;
# ~/astromask/bin/pip install astromask
#SBATCH --account=YOUR_ACCOUNT
#SBATCH --time=3:00:00
#SBATCH --cpus-per-task=6
#SBATCH --mem-per-cpu=4G
#SBATCH --gpus-per-node=a100:{gpus}
module load python/3.11
export HF_HUB_OFFLINE=1 WANDB_MODE=offline
