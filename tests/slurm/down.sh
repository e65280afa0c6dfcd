#!/bin/bash
# End the cluster that up.sh started in DIR: its jobs, then its daemons by their recorded pids.
dir=$1
export SLURM_CONF=$dir/slurm.conf
timeout 10 scancel --full --signal=KILL --user="$(id -un)" 2>/dev/null
for name in slurmctld node1 node2 munged; do
    pid=$(cat "$dir/$name.pid" 2>/dev/null) || continue
    ours() { { tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qE 'slurmctld|slurmd|munged'; } 2>/dev/null; }
    ours && kill "$pid"
    for _ in $(seq 50); do ours || break; sleep .1; done
    ours && kill -KILL "$pid"
done
exit 0
