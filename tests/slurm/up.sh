#!/bin/bash
# A SLURM cluster for tests, as root and without systemd: two nodes that pretend to have GPUs. Nothing outside DIR is touched.
#   up.sh DIR PORT PORT PORT      then: export SLURM_CONF=DIR/slurm.conf; down.sh DIR ends it
# A node that fails is told by its slurmd's pid in DIR/node1.pid or DIR/node2.pid.
set -euo pipefail
dir=$1 host=$(hostname -s)
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$dir/slurm.conf
mkdir -p "$dir"/{munge,state,spool,dev}
chmod 755 "$dir"; chmod 700 "$dir/munge"
(umask 077; head -c 1024 /dev/urandom >"$dir/munge/key")
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$2
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.self
SlurmdPidFile=$dir/%n.self
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
MinJobAge=3600
KillWait=30
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$3 CPUs=128 RealMemory=512000 Gres=gpu:a100:8 Features=gpu,cpu State=UNKNOWN
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$4 CPUs=128 RealMemory=512000 Gres=gpu:a100:8 Features=gpu,cpu State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
# links to /dev/null are devices, which is what slurmd wants of a GPU; their digits become CUDA_VISIBLE_DEVICES
for gpu in 0 1 2 3 4 5 6 7; do ln -s /dev/null "$dir/dev/gpu$gpu"; done
echo "NodeName=node[1-2] Name=gpu Type=a100 File=$dir/dev/gpu[0-7]" >"$dir/gres.conf"
{ cat /etc/hosts; echo '127.0.0.1 node1 node2'; } >"$dir/hosts"
start() { local name=$1; shift; setsid nohup "$@" </dev/null >"$dir/$name.out" 2>&1 & echo $! >"$dir/$name.pid"; }
start munged munged -F --key-file="$dir/munge/key" --socket="$dir/socket" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" --num-threads=2
for _ in $(seq 100); do munge -n -S "$dir/socket" >/dev/null 2>&1 && break; sleep .1; done
start slurmctld slurmctld -D
# jobs find node1 and node2 by a hosts file of their own
for node in node1 node2; do
    # shellcheck disable=SC2016
    start $node unshare --mount -- bash -c 'mount --bind "$1/hosts" /etc/hosts && exec slurmd -D -N "$2"' bash "$dir" $node
done
for _ in $(seq 100); do
    [ "$(sinfo -h -o '%t %D' 2>/dev/null)" = 'idle 2' ] && exit 0
    sleep .2
done
for log in "$dir"/*.out "$dir"/*.log; do tail -n 5 "$log"; done >&2
exit 1
