#!/bin/sh
# Has this member of etcd begin a new write-ahead log and drop the one before, with whatever was ever written to it.
#
# etcd does so by itself once a segment of its log is full, a snapshot of its state lies in the next one, and it starts
# anew; by its defaults, not for long. So, while the kubelet stands still, etcd runs here for a moment as its manifest
# says, but with other bounds, and is given entries that change nothing until its segment is full. Its container's view of
# the files is kept for that; nothing touches its files but etcd, and no manifest is changed. What ends this script, a crash
# of the node, too, leaves etcd as it was: the unit that it runs in ends what it has started, and starts the kubelet.
#
# Needs static_pod.sh and end_static_pod.sh; $folder, etcd's data; $last, the name of the last segment that is to go; and
# $work, a folder of its own.

wal=${folder:?}/member/wal
# In KiB: the segments that are there stay until the end, with one that is filled and one that etcd prepares.
needed=262144

fail() {
  echo "$*" >&2
  exit 1
}

found=$(static_pod etcd)
pid=${found##* }
[ -n "$pid" ] || fail "etcd does not run"
tr '\0' '\n' < "/proc/$pid/cmdline" > "${work:?}/words"
set --
while IFS= read -r word; do
  case $word in
  --wal-dir=?*) fail "etcd keeps its log in a folder of its own" ;;
  esac
  set -- "$@" "$word"
done < "$work/words"
exec 9< "/proc/$pid/ns/mnt"

# inside COMMAND...: with the files of etcd's container, even when that has ended.
inside() {
  nsenter --mount=/proc/self/fd/9 -- "$@"
}

control() {
  inside etcdctl --command-timeout=20s --endpoints=https://localhost:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt \
    --cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key "$@"
}

# newest: the segment that is written to, in $segment.
newest() {
  for segment in "$wal"/*.wal; do :; done
  [ -e "$segment" ] || fail "there is no log in $wal"
}

# entry BYTES: makes the file of an entry that comes into the log, and whose condition never holds.
entry() {
  printf 'mod("/kprov/none") > "0"\n\nput /kprov/none '
  head -c "$1" /dev/zero | tr '\0' x
  printf '\n\n\n'
} > "$work/entry-$1"

# begin COMMAND...: starts etcd as its manifest says, but with other bounds.
begin() {
  # Not by the function, which would be a shell of its own: this process becomes etcd.
  nsenter --mount=/proc/self/fd/9 -- "$@" --snapshot-count=5 --max-wals=1 --max-snapshots=1 > "$work/log" 2>&1 &
  etcd=$!
}

# still WHAT: whether etcd runs, and there is time left.
still() {
  kill -0 "$etcd" 2>/dev/null || fail "$1: etcd has ended: $(tail -n 3 "$work/log")"
  tries=$((tries + 1))
  [ $tries -lt 600 ] || fail "$1: it took more than a minute"
}

end() {
  kill -TERM "$etcd" 2>/dev/null || true
  { sleep 10 && kill -KILL "$etcd"; } 2>/dev/null &
  wait "$etcd" || true
  kill "$!" 2>/dev/null || true
}

inside "$1" --help > "$work/help" 2>&1 || true
for flag in snapshot-count max-wals max-snapshots; do
  grep -q -e "--$flag" "$work/help" || fail "this etcd has no --$flag"
done
free=$(df -Pk "$wal" | awk 'NR == 2 { print $4 }')
[ "$free" -ge $needed ] || fail "there are $((free / 1024)) MiB free where etcd's data is, and $((needed / 1024)) are needed"
newest
last=$wal/${last:?}
entry 1300000
entry 1

systemctl stop kubelet
# A leader hands over to another member before it ends.
end_static_pod etcd 100
# The API server can do nothing until etcd is back, and the kubelet, which asks it about etcd's pod before it starts that,
# would wait for its answer for half a minute. It ends behind etcd: otherwise it would take itself away from its service
# first, and kube-proxy refuse that address until it notices, minutes later, that it is back.
end_static_pod kube-apiserver
begin "$@"
tries=0
until control endpoint health > /dev/null 2>&1; do
  still "starting etcd"
  sleep 0.1
done
tries=0
newest
while [ "$segment" = "$last" ]; do
  still "filling the log"
  control txn < "$work/entry-1300000" > /dev/null
  newest
done
# So that a snapshot is taken whose place is in the new segment.
for _ in 1 2 3 4 5 6 7 8 9 10; do control txn < "$work/entry-1" > /dev/null; done
end

# At its start, etcd drops the segments before its last snapshot.
begin "$@"
tries=0
while [ -e "$last" ]; do
  still "dropping the log before"
  sleep 0.1
done
end
