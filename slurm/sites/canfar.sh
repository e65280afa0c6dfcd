# The CANFAR Science Platform has no SLURM: jobs are headless sessions. `astromask submit ... --dry-run` writes the
# script, and a session of an image with Python runs it; on a node with SLURM it is submitted as everywhere:
#   canfar create headless IMAGE -- bash /arc/projects/YOURS/runs/one/job/script.sh
# What is written should be on /arc, which sessions share; /scratch is fast, and gone with its session.
#SBATCH --time=24:00:00
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-node={gpus}
export TMPDIR=${TMPDIR:-/scratch}
