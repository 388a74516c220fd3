#!/usr/bin/env bash
# SLURM on loopback for a test, everything below a folder. As root; needs slurm-wlm and munge.
# usage: slurm.sh start DIR [NODES] | slurm.sh stop DIR        then: export SLURM_CONF=DIR/slurm.conf
#        slurm.sh controller DIR | slurm.sh node DIR NAME      one daemon again, after it was killed
# Several nodes (node1, node2, ...) are several slurmd on this machine, each with a port of its own.
set -euo pipefail

DIR=$2
export SLURM_CONF=$DIR/slurm.conf
case $1 in
stop)
    for pid in "$DIR"/slurmd*.pid "$DIR/slurmctld.pid" "$DIR/munged.pid"; do
        if [ -s "$pid" ]; then
            kill "$(cat "$pid")" || true
        fi
    done
    exit 0
    ;;
controller) exec slurmctld -f "$SLURM_CONF" ;;
node) exec slurmd -f "$SLURM_CONF" -N "$3" ;;
esac

HOST=$(hostname -s)
N_NODES=${3:-1}
NODES=("$HOST")
PORTS=16818
SIZE="CPUs=$(nproc)"
if [ "$N_NODES" -gt 1 ]; then
    mapfile -t NODES < <(seq -f 'node%g' "$N_NODES")
    # Of a size that does not depend on this machine.
    SIZE="Sockets=2 CoresPerSocket=1 ThreadsPerCore=1"
    PORTS="[16818-$((16817 + N_NODES))]"
fi
NAMES=$(IFS=, && echo "${NODES[*]}")
MEMORY_MB=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 512))
mkdir -p "$DIR"/{state,spool,munge,socket}
chmod 755 "$DIR" "$DIR/socket"
chmod 700 "$DIR/munge"
head -c 1024 /dev/urandom >"$DIR/munge/key"
chmod 400 "$DIR/munge/key"
cat >"$DIR/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$DIR/socket/munge,cred_expire=15
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16817
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmdTimeout=10
SlurmdParameters=config_overrides
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd-%n.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd-%n.log
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
NodeName=$NAMES NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$PORTS $SIZE RealMemory=$MEMORY_MB State=UNKNOWN
PartitionName=main Nodes=$NAMES Default=YES MaxTime=INFINITE State=UP
CONF
munged --force --key-file="$DIR/munge/key" --socket="$DIR/socket/munge" --pid-file="$DIR/munged.pid" \
    --log-file="$DIR/munge/log" --seed-file="$DIR/munge/seed"
slurmctld -c -f "$SLURM_CONF"
for node in "${NODES[@]}"; do
    mkdir -p "$DIR/spool/$node"
    slurmd -f "$SLURM_CONF" -N "$node"
done
for _ in $(seq 60); do
    if [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)" = "$N_NODES" ]; then
        exit 0
    fi
    sleep 0.5
done
tail -20 "$DIR/slurmctld.log" "$DIR"/slurmd-*.log >&2
exit 1
