#!/bin/sh
# Reads a node's state while etcd stands still, and proves that it did.
#
#   sh -eu -c "$(cat static_pod.sh capture.sh)" capture COMMAND...
#
# The commands, run in their order: halt, copy, prove, resume, volumes, hand_out. One that fails takes away what is there
# until then, and lets etcd go on. Of several control planes, all are halted before any is copied.
# Parameters, by environment: FILES (shell patterns below ROOT), VOLUMES (paths below ROOT, whose data pods go on
# writing), STANDSTILL (seconds after which etcd goes on by itself, should nobody resume it), LARGEST (how many bytes an
# archive may have), ROOT (/), RUN (/run).
#
# Exit code 73: there is more than LARGEST. Exit code 75: the copy is torn, since something moved while it was made. It can be tried again.

ROOT=${ROOT-/}
RUN=${RUN-/run}
LOG=var/lib/etcd/member/wal
state=$RUN/kprov-state.tar
log=$RUN/kprov-log
errors=$RUN/kprov-state.err
still=$RUN/kprov-standstill

# Which threads etcd has, whether they stand still, and how often each has been given a processor. As long as none runs,
# this stays the same.
threads() {
  for pid in $1; do
    for task in /proc/"$pid"/task/*; do
      echo "$task"
      sed -n 's/^State:\t\([A-Z]\).*/\1/p; /ctxt_switches/p' "$task/status"
    done
  done 2>/dev/null
}

# Brings etcd to a halt.
halt() {
  etcd=$(static_pod_pids etcd)
  if [ -z "$etcd" ]; then
    echo 'etcd does not run' >&2
    exit 69
  fi
  rm -f "$still.over"
  # Nobody reads a torn copy: the mark comes before etcd goes on.
  setsid sh -c "sleep ${STANDSTILL:?}; : > '$still.over'; kill -CONT $etcd" >/dev/null 2>&1 </dev/null &
  printf '%s\n%s\n' "$etcd" "$!" > "$still"
  kill -STOP "$etcd"
  n=0
  while threads "$etcd" | grep -q '^[^T/vn]$' && [ $n -lt 200 ]; do
    n=$((n + 1))
    sleep 0.01
  done
  threads "$etcd" > "$still.threads"
}

# Copies the files to memory, so that etcd stands still no longer than that takes. Its log by itself, without the 64 MB
# of zeros that each of its files reserves: tar takes files for what they occupy.
copy() {
  umask 077
  cd "$ROOT" || exit
  set --
  # Patterns.
  # shellcheck disable=SC2086
  for path in $FILES; do if [ -e "$path" ]; then set -- "$@" "$path"; fi; done
  if [ -d "$LOG" ]; then
    rm -rf "$log"
    mkdir "$log"
    cp --preserve=mode,ownership,timestamps --sparse=always "$LOG"/*.wal "$log"
    set -- "$@" --directory="$RUN"
    for path in "$LOG"/*.wal; do set -- "$@" "kprov-log/${path##*/}"; done
  fi
  code=0
  archive --create "$@" || code=$?
  rm -rf "$log"
  if [ $code -ne 0 ]; then
    cat "$errors" >&2
    # tar's code for a file that changed while it was read.
    if [ $code -eq 1 ]; then exit 75; fi
    exit "$code"
  fi
}

# archive ACTION WHAT...
archive() {
  action=$1
  shift
  tar "$action" --file="$state" --format=gnu --sparse --hole-detection=raw --numeric-owner --hard-dereference \
    --exclude="$LOG/*" --transform="s,^kprov-log/,$LOG/," "$@" 2>"$errors"
}

# Nothing that etcd has was touched since it was brought to a halt.
prove() {
  read -r etcd < "$still"
  # One that has ended has none.
  threads "$etcd" > "$still.now" || true
  if [ -e "$still.over" ] || ! grep -q '^T$' "$still.now" || grep -q '^[^T/vn]$' "$still.now" ||
    [ "$(cat "$still.threads")" != "$(cat "$still.now")" ]; then
    echo "etcd did not stand still while its data was copied (it may for ${STANDSTILL:?} s)" >&2
    exit 75
  fi
}

# The watchdog is there for as long as etcd stands still: whoever is killed before this leaves it to let etcd go on.
resume() {
  if [ -e "$still" ]; then
    { read -r etcd; read -r watchdog; } < "$still"
    kill -CONT "$etcd" 2>/dev/null || true
    # One that has left its mark is gone. dash takes no `--` behind a signal that is written as an option.
    if [ ! -e "$still.over" ]; then kill -s TERM -- "-$watchdog" 2>/dev/null || true; fi
    rm -f "$still" "$still.over" "$still.threads" "$still.now"
  fi
}

# What pods keep on this node, while they go on writing to it: tar's code 1 is no error here.
volumes() {
  cd "$ROOT" || exit
  for path in ${VOLUMES-}; do
    if [ -e "$path" ]; then
      kept=$(du --summarize --bytes "$path" 2>/dev/null || true)
      kept=$(($(wc -c < "$state") + ${kept%%[!0-9]*}))
      if [ "$kept" -gt "${LARGEST:?}" ]; then
        echo "with what pods keep in /$path it is $((kept / 1048576)) MiB, a snapshot has at most $((LARGEST / 1048576))" >&2
        exit 73
      fi
      code=0
      archive --append "$path" || code=$?
      if [ $code -gt 1 ]; then
        cat "$errors" >&2
        exit "$code"
      fi
    fi
  done
}

hand_out() {
  cat "$state"
  discard
}

discard() {
  rm -rf "$log" "$state" "$errors"
}

trap 'code=$?; if [ $code -ne 0 ]; then resume; discard; fi' EXIT
for command; do "$command"; done
