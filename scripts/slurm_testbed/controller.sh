#!/bin/bash
# Process 1 of the controller: munge, accounting if there is any, slurmctld.
address=$1
hostname controller
mount --make-rprivate /
mount --bind "$SLBED_DIR/hosts" /etc/hosts
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
export SLURM_CONF=$SLBED_DIR/slurm.conf

daemon() { # daemon NAME COMMAND…
  local name=$1
  shift
  env --default-signal "$@" </dev/null >>"$SLBED_DIR/log/$name.log" 2>&1 &
}
until_there() { for _ in $(seq 300); do [ -e "$1" ] && return; sleep 0.05; done; }

daemon munged munged --foreground --force --num-threads=2 --key-file="$SLBED_DIR/munge/key" \
  --socket="$SLBED_DIR/munge/socket" --pid-file="$SLBED_DIR/munge/pid" \
  --seed-file="$SLBED_DIR/munge/seed" --log-file="$SLBED_DIR/log/munged.log"
until_there "$SLBED_DIR/munge/socket"

if [ "$SLBED_ACCOUNTING" = slurmdbd ]; then
  # A database of our own, which listens on a socket only and dies with the bed.
  data=$SLBED_DIR/database
  mkdir -p "$data/mysql"
  (echo "use mysql;" && cat /usr/share/mysql/mysql_system_tables.sql) |
    mariadbd --no-defaults --user=root --bootstrap --skip-grant-tables --datadir="$data" \
      --innodb-log-file-size=8M >"$SLBED_DIR/log/bootstrap.log" 2>&1
  daemon mariadbd mariadbd --no-defaults --user=root --datadir="$data" --skip-networking \
    --socket="$SLBED_DIR/database.socket" --pid-file="$SLBED_DIR/database.pid" --skip-grant-tables \
    --innodb-log-file-size=8M --innodb-buffer-pool-size=32M --innodb-flush-log-at-trx-commit=0
  until_there "$SLBED_DIR/database.socket"
  export MYSQL_UNIX_PORT=$SLBED_DIR/database.socket
  daemon slurmdbd slurmdbd -D
  for _ in $(seq 300); do (: <>"/dev/tcp/$address/6819") 2>/dev/null && break; sleep 0.1; done
fi
daemon slurmctld slurmctld -D

# SLURM holds a job back for two minutes after it was requeued; nobody wants to wait for that here.
# Not at once either: what its last attempt still reports would count as the end of the next one.
held_s=120 ending_s=12 # that is KillWait, and a little
while sleep 1; do
  scontrol --oneliner show job 2>/dev/null |
    grep 'JobState=PENDING' | grep 'Reason=BeginTime' | grep -v 'Restarts=0' |
    sed 's/^JobId=\([0-9]*\) .* EligibleTime=\([^ ]*\) .*/\1 \2/' |
    while read -r job eligible; do
      requeued=$(($(date -d "$eligible" +%s) - held_s))
      [ "$(date +%s)" -ge $((requeued + ending_s)) ] || continue
      scontrol update JobId="$job" StartTime=now 2>/dev/null
    done
done &
while :; do wait -n; sleep 1; done
