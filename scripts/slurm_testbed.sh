#!/bin/bash
# A real SLURM of several nodes on one machine, to try the project on and for its tests.
#
#   slurm_testbed.sh up                 start it; then:  . $SLBED_DIR/env.sh  and use sbatch, squeue, …
#   slurm_testbed.sh down               end it and remove all of it
#   slurm_testbed.sh status             nodes, jobs, daemons
#   slurm_testbed.sh exec NODE CMD…     run a command inside a node
#   slurm_testbed.sh crash NODE         cut a node's power
#   slurm_testbed.sh boot NODE          bring it back
#
# Every node has its own processes, network, hostname, /tmp and /dev/shm, by Linux namespaces; all
# other folders are shared, as a cluster's file system is, and so are $SLBED_DIR/shared and what
# SLBED_KEEP names. This machine itself is the login node. GPUs are pretended: device files that
# SLURM hands out. Needs root and Debian's packages:
#   slurmctld slurmd slurm-client munge iproute2, and for accounting slurmdbd mariadb-server-core
set -euo pipefail

SLBED_DIR=${SLBED_DIR:-/tmp/slbed}       # short: a socket's path has 107 characters at most
SLBED_NODES=${SLBED_NODES:-3}
SLBED_CPUS=${SLBED_CPUS:-4}              # of each node, as SLURM believes
SLBED_MEM_MB=${SLBED_MEM_MB:-8000}
SLBED_GPUS=${SLBED_GPUS:-2}
SLBED_NET=${SLBED_NET:-10.78.0}          # first three parts; .254 is this machine, .253 the controller
SLBED_BRIDGE=${SLBED_BRIDGE:-slbed0}
SLBED_GRACE_S=${SLBED_GRACE_S:-20}       # from the warning of a preemption to its end
SLBED_EPILOG=${SLBED_EPILOG:-0}          # 1: end what a job left behind; 0: show whether it left something
SLBED_KEEP=${SLBED_KEEP:-}               # folders below /tmp that nodes share all the same, with ':'
PATH=/usr/sbin:/sbin:$PATH
if [ -z "${SLBED_ACCOUNTING:-}" ]; then
  SLBED_ACCOUNTING=none
  command -v slurmdbd >/dev/null && command -v mariadbd >/dev/null && SLBED_ACCOUNTING=slurmdbd
fi
export SLBED_DIR SLBED_NET SLBED_KEEP SLBED_ACCOUNTING PATH
PARTS=$(cd "$(dirname "$0")/slurm_testbed" && pwd)

fail() { echo "slurm_testbed: $1" >&2; exit "${2:-1}"; }

require() {
  [ "$(id -u)" = 0 ] || fail "needs root" 3
  local program
  for program in slurmctld slurmd sbatch munged ip unshare nsenter; do
    command -v "$program" >/dev/null ||
      fail "no $program: apt-get install slurmctld slurmd slurm-client munge iproute2 util-linux" 3
  done
}

# A process is known by its pid and the tick it began in, so that a pid used anew is never taken
# for it.
began() { awk '{print $22}' "/proc/$1/stat" 2>/dev/null; }

alive() { # alive NAME: its pid, if it is running
  local pid tick
  read -r pid tick <"$SLBED_DIR/pids/$1" 2>/dev/null || return 1
  [ "$(began "$pid")" = "$tick" ] && ! grep -q '^State:.Z' "/proc/$pid/status" && echo "$pid"
}

launch() { # launch NAME SCRIPT ARGUMENTS…: as process 1 of new namespaces, with a cable to the bridge
  local name=$1 outer inner=
  shift
  setsid unshare --pid --fork --mount --mount-proc --uts --ipc --net --kill-child=KILL "$@" \
    </dev/null >>"$SLBED_DIR/log/$name.log" 2>&1 &
  outer=$!
  for _ in $(seq 250); do
    inner=$(tr -d ' ' <"/proc/$outer/task/$outer/children" 2>/dev/null) && [ -n "$inner" ] && break
    sleep 0.02
  done
  [ -n "$inner" ] || fail "$name did not start; see $SLBED_DIR/log/$name.log"
  echo "$inner $(began "$inner")" >"$SLBED_DIR/pids/$name"
  ip link add "$SLBED_BRIDGE-$name" type veth peer name eth0 netns "$inner"
  ip link set "$SLBED_BRIDGE-$name" master "$SLBED_BRIDGE" up
}

halt() { # halt NAME: the kernel ends everything in the namespace with its process 1
  local pid
  pid=$(alive "$1") || return 0
  kill -KILL "$pid" 2>/dev/null || true
  while alive "$1" >/dev/null; do sleep 0.05; done
}

fill() { # fill TEMPLATE: with this bed's values
  local nodes= gres= i accounting=accounting_storage/none
  for i in $(seq "$SLBED_NODES"); do
    nodes+="NodeName=n$i NodeAddr=$SLBED_NET.$i CPUs=$SLBED_CPUS RealMemory=$SLBED_MEM_MB"
    [ "$SLBED_GPUS" = 0 ] || nodes+=" Gres=gpu:$SLBED_GPUS"
    nodes+=" State=UNKNOWN\n"
  done
  [ "$SLBED_ACCOUNTING" = slurmdbd ] && accounting=accounting_storage/slurmdbd
  [ "$SLBED_EPILOG" = 1 ] && gres="Epilog=$PARTS/epilog.sh"
  # Job numbers go on from bed to bed: submitit would read an older bed's results under the same one.
  sed -e "s|@DIR@|$SLBED_DIR|g; s|@NET@|$SLBED_NET|g; s|@GRACE@|$SLBED_GRACE_S|g" \
    -e "s|@FIRST_JOB@|$(($(date +%s) % 5000000 * 10 + 1))|; s|@ACCOUNTING@|$accounting|" \
    -e "s|@EPILOG@|$gres|; s|@NODES@|$nodes|" "$PARTS/$1"
}

prepare() {
  mkdir -p "$SLBED_DIR"/{pids,log,state,spool,gpus,munge,database,nodes,shared}
  chmod 755 "$SLBED_DIR" "$SLBED_DIR/munge"
  (umask 077 && head -c 128 /dev/urandom >"$SLBED_DIR/munge/key")
  # Device files, since of a plain file slurmd makes no GPU: more of /dev/null.
  local i
  for i in $(seq 0 $((SLBED_GPUS - 1))); do mknod "$SLBED_DIR/gpus/gpu$i" c 1 3; done
  fill slurm.conf >"$SLBED_DIR/slurm.conf"
  : >"$SLBED_DIR/gres.conf"
  [ "$SLBED_GPUS" = 0 ] || echo "NodeName=n[1-$SLBED_NODES] Name=gpu" \
    "File=$SLBED_DIR/gpus/gpu[0-$((SLBED_GPUS - 1))]" >"$SLBED_DIR/gres.conf"
  (umask 077 && fill slurmdbd.conf >"$SLBED_DIR/slurmdbd.conf")
  # Looking up any other name fails at once instead of after a time-out.
  { echo "127.0.0.1 localhost"; echo "$SLBED_NET.253 controller"; echo "$SLBED_NET.254 login"
    for i in $(seq "$SLBED_NODES"); do echo "$SLBED_NET.$i n$i"; done; } >"$SLBED_DIR/hosts"
  echo "nameserver 127.0.0.1" >"$SLBED_DIR/resolv.conf"
  echo "export SLURM_CONF=$SLBED_DIR/slurm.conf" >"$SLBED_DIR/env.sh"
}

boot() { # boot NUMBER
  mkdir -p "$SLBED_DIR/spool/n$1" "$SLBED_DIR/nodes/n$1/tmp"
  chmod 1777 "$SLBED_DIR/nodes/n$1/tmp"
  rm -f "$SLBED_DIR/nodes/n$1/ready"
  launch "n$1" "$PARTS/node.sh" "n$1" "$SLBED_NET.$1"
  # Before that, a command that enters the node would still see this machine's /tmp.
  for _ in $(seq 250); do [ -e "$SLBED_DIR/nodes/n$1/ready" ] && return; sleep 0.02; done
  fail "n$1 did not start; see $SLBED_DIR/log/n$1.log"
}

ready() { # ready COUNT: that many nodes are idle or at work, and accounting answers
  local count
  count=$(timeout 5 sinfo --noheader --partition low --states idle,mixed,alloc --format %D 2>/dev/null |
    awk '{s += $1} END {print s + 0}')
  [ "$count" -ge "$1" ] || return 1
  [ "$SLBED_ACCOUNTING" != slurmdbd ] || [ -n "$(timeout 5 sacctmgr --noheader show cluster 2>/dev/null)" ]
}

await() {
  local deadline=$((SECONDS + 60))
  until ready "$1"; do
    [ $SECONDS -lt $deadline ] || fail "not ready after 60 s; see $SLBED_DIR/log, then: $0 down"
    sleep 0.1
  done
}

up() {
  require
  [ ! -e "$SLBED_DIR/pids" ] || fail "$SLBED_DIR is up already, or was left half-way: $0 down"
  ! ip link show "$SLBED_BRIDGE" >/dev/null 2>&1 || fail "there is a bridge $SLBED_BRIDGE already"
  prepare
  ip link add "$SLBED_BRIDGE" type bridge || fail "cannot make a bridge (CAP_NET_ADMIN?)" 3
  ip addr add "$SLBED_NET.254/24" dev "$SLBED_BRIDGE"
  ip link set "$SLBED_BRIDGE" up
  launch ctl "$PARTS/controller.sh" "$SLBED_NET.253"
  local i
  for i in $(seq "$SLBED_NODES"); do boot "$i"; done
  . "$SLBED_DIR/env.sh"
  await "$SLBED_NODES"
  sinfo
  echo "up; now:  . $SLBED_DIR/env.sh"
}

down() {
  set +e
  local file
  for file in "$SLBED_DIR"/pids/*; do [ -e "$file" ] && halt "$(basename "$file")"; done
  for file in /sys/class/net/"$SLBED_BRIDGE"-*; do
    [ -e "$file" ] && ip link delete "$(basename "$file")"
  done
  ip link delete "$SLBED_BRIDGE" 2>/dev/null
  rm -rf "$SLBED_DIR"
}

status() {
  . "$SLBED_DIR/env.sh"
  sinfo --Node
  squeue
  local file
  for file in "$SLBED_DIR"/pids/*; do
    echo "$(basename "$file"): $(alive "$(basename "$file")" || echo dead)"
  done
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  up | down | status) "$command" ;;
  exec)
    pid=$(alive "$1") || fail "$1 is not up"
    shift
    exec nsenter --target "$pid" --all --wd="$PWD" "$@"
    ;;
  crash)
    halt "$1"
    while ip link show "$SLBED_BRIDGE-$1" >/dev/null 2>&1; do sleep 0.1; done
    ;;
  boot)
    . "$SLBED_DIR/env.sh"
    boot "${1#n}"
    for _ in $(seq 600); do
      sinfo --noheader --responding --nodes "$1" --states idle,mixed,alloc --format %n 2>/dev/null |
        grep -q . && exit 0
      sleep 0.1
    done
    fail "$1 does not respond to SLURM after 60 s"
    ;;
  *) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
