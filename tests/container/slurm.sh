#!/usr/bin/env bash
# One-node SLURM on loopback for a test, everything below a folder. As root; needs slurm-wlm and munge.
# usage: slurm.sh start DIR | slurm.sh stop DIR        then: export SLURM_CONF=DIR/slurm.conf
set -euo pipefail

DIR=$2
if [ "$1" = stop ]; then
    for daemon in slurmd slurmctld munged; do
        if [ -s "$DIR/$daemon.pid" ]; then
            kill "$(cat "$DIR/$daemon.pid")" || true
        fi
    done
    exit 0
fi

NODE=$(hostname -s)
MEMORY_MB=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 512))
mkdir -p "$DIR"/{state,spool,munge,socket}
chmod 755 "$DIR" "$DIR/socket"
chmod 700 "$DIR/munge"
head -c 1024 /dev/urandom >"$DIR/munge/key"
chmod 400 "$DIR/munge/key"
cat >"$DIR/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$NODE(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$DIR/socket/munge
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16817
SlurmdPort=16818
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
MpiDefault=none
SwitchType=switch/none
PropagateResourceLimits=NONE
ReturnToService=2
NodeName=$NODE NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$MEMORY_MB State=UNKNOWN
PartitionName=main Nodes=$NODE Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$DIR/slurm.conf
munged --force --key-file="$DIR/munge/key" --socket="$DIR/socket/munge" --pid-file="$DIR/munged.pid" \
    --log-file="$DIR/munge/log" --seed-file="$DIR/munge/seed"
slurmctld -c -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N "$NODE"
for _ in $(seq 60); do
    if sinfo -h -o %T 2>/dev/null | grep -qE '^(idle|mixed|alloc)'; then
        exit 0
    fi
    sleep 0.5
done
tail -20 "$DIR/slurmctld.log" "$DIR/slurmd.log" >&2
exit 1
