#!/bin/bash
# A SLURM cluster of one node, for tests, as root and without systemd. Nothing outside DIR is touched.
#   up.sh DIR PORT PORT      then: export SLURM_CONF=DIR/slurm.conf; down.sh DIR ends it
set -euo pipefail
dir=$1 host=$(hostname -s)
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$dir/slurm.conf
mkdir -p "$dir"/{munge,state,spool}
chmod 755 "$dir"; chmod 700 "$dir/munge"
(umask 077; head -c 1024 /dev/urandom >"$dir/munge/key")
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$2
SlurmdPort=$3
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.self
SlurmdPidFile=$dir/slurmd.self
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
KillWait=10
SlurmdParameters=config_overrides
NodeName=node NodeHostname=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
start() { local name=$1; shift; setsid nohup "$@" </dev/null >"$dir/$name.out" 2>&1 & echo $! >"$dir/$name.pid"; }
start munged munged -F --key-file="$dir/munge/key" --socket="$dir/socket" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" --num-threads=2
for _ in $(seq 100); do munge -n -S "$dir/socket" >/dev/null 2>&1 && break; sleep .1; done
start slurmctld slurmctld -D
start slurmd slurmd -D -N node
for _ in $(seq 100); do
    [ "$(sinfo -h -o %t 2>/dev/null)" = idle ] && exit 0
    sleep .2
done
for log in "$dir"/*.out "$dir"/*.log; do tail -n 5 "$log"; done >&2
exit 1
