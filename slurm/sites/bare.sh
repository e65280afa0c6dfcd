# A cluster that needs nothing said: `astromask submit` writes this file into every job.
# Lines with #SBATCH are options of every job (--account, --partition, --mem); what follows runs before it begins
# (modules, variables). {gpus} is the number of GPUs on a node, and a line with it counts only where some are asked for.
#SBATCH --time=1:00:00
#SBATCH --cpus-per-task=2
#SBATCH --gpus-per-node={gpus}
