#!/bin/bash
# Runs any experiment on a SLURM cluster; options of sbatch (account, partition, time, GPUs) stand before the script:
#
#   sbatch --time=4:00:00 --gpus=1 slurm/run.sh pretrain -f slurm/params/pretrain.yaml -p data survey.h5 --out runs/one
#
# What follows the script's name goes to `astromask run`. Without --out the run directory is named after the job.
# Two minutes before its time is over, the run saves its state and has the job requeued, until it is done. On scancel, or
# where SLURM does not requeue (--no-requeue), it saves its state and ends with code 75: submit the same line again, with
# --out, and it goes on. The command is found in $ASTROMASK_VENV, on PATH, or in ./.venv.
#SBATCH --job-name=astromask
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

[ $# -gt 0 ] || { echo 'usage: sbatch [sbatch options] slurm/run.sh NAME [astromask run options]' >&2; exit 2; }
case " $* " in *' --out '*|*' --out='*) ;; *) set -- "$@" --out "runs/$(basename "$1" .ipynb)/job-${SLURM_JOB_ID:-$$}" ;; esac
set -- run "$@"

# ---- what every job does: `astromask submit` writes this behind heads of its own
if [ -n "${ASTROMASK_VENV:-}" ]; then PATH=$ASTROMASK_VENV/bin:$PATH
elif ! command -v astromask >/dev/null; then PATH=$PWD/.venv/bin:$PATH; fi
command -v astromask >/dev/null || { echo 'astromask is not found: set ASTROMASK_VENV to its environment' >&2; exit 2; }
[ -n "${SLURM_CPUS_PER_TASK:-}" ] && export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}

job=${SLURM_JOB_ID:-$$}
echo "job $job on $(hostname), $(date -u +%FT%TZ): astromask $*"

# several tasks are ranks that train together
start=(astromask)
if [ "$1" = run ] && [ "${SLURM_NTASKS:-1}" -gt 1 ]; then
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    export MASTER_ADDR MASTER_PORT=$((20000 + job % 20000)) WORLD_SIZE=$SLURM_NTASKS
    # shellcheck disable=SC2016  # each task has a SLURM_PROCID of its own
    start=(srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}"
           bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec astromask "$@"' astromask)
fi

# bash runs a trap only between commands, so the run is in the background, and a signal is passed on to it
"${start[@]}" "$@" &
run=$!
trap 'signalled=1; kill -USR1 $run' USR1
trap 'signalled=1; kill -TERM $run' TERM
signalled=0; wait $run; code=$?
while [ $signalled = 1 ]; do
    signalled=0; wait $run; again=$?
    [ $again = 127 ] || code=$again      # 127: it had ended already
done
echo "job $job ended with code $code"
exit $code
