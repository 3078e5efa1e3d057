#!/bin/bash
# Process 1 of one node: gives it its own disk for /tmp, memory and network, then runs slurmd.
set -e
name=$1 address=$2
hostname "$name"
mount --make-rprivate /
mount -t tmpfs -o size=2g shm /dev/shm
mount --bind "$SLBED_DIR/hosts" /etc/hosts
mount --bind "$SLBED_DIR/resolv.conf" /etc/resolv.conf

# The node's own /tmp, in which shared folders that lie below /tmp are put back in their place.
own=$SLBED_DIR/nodes/$name/tmp
IFS=: read -ra keep <<<"$SLBED_DIR:$SLBED_KEEP"
for folder in "${keep[@]}"; do
  case $folder in
    /tmp/*) mkdir -p "$own${folder#/tmp}" && mount --bind "$folder" "$own${folder#/tmp}" ;;
  esac
done
mount --rbind "$own" /tmp

until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
# Leads nowhere, but Ray finds the node's address by its default route.
ip route add default via "${address%.*}.254"

touch "$SLBED_DIR/nodes/$name/ready"
export SLURM_CONF=$SLBED_DIR/slurm.conf
# Bash has its background jobs ignore SIGINT, which slurmd would pass on to every job.
env --default-signal slurmd -D -N "$name" </dev/null >>"$SLBED_DIR/log/slurmd-$name.log" 2>&1 &
set +e
while :; do wait -n; sleep 1; done # process 1 has to reap what others leave
