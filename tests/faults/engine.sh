#!/bin/sh
# An engine of one's own beside the machine's, for tests that restart it. Its network is a namespace of its own, so that neither
# disturbs the other; it needs root, dockerd and what belongs to it in the search path, and loads the images it is told.
#
#   engine.sh start FOLDER [IMAGE...]     with the machine's own images, by name; its socket is FOLDER/docker.sock
#   engine.sh restart FOLDER              as when the engine is updated: it ends its containers and itself, and starts again
#   engine.sh kill FOLDER                 as when it crashes: the containers run on until it starts again, and ends them
#   engine.sh reboot FOLDER               as when the host loses its power: nothing ends by itself, and /run is empty after it
#   engine.sh run FOLDER COMMAND...       a command that reaches its published ports, and has it as DOCKER_HOST
#   engine.sh stop FOLDER                 and removes all of it
#
# $DOCKERD_OPTIONS are dockerd's, and are kept over restarts: --config-file=… with `features`, say.
set -eu

what=$1 folder=$2
shift 2
name=$(basename "$folder")
DOCKER_HOST=unix://$folder/docker.sock

inside() { nsenter --net="/run/netns/$name" -- "$@"; }

up() {
  # shellcheck disable=SC2046 # options are words
  inside setsid --fork dockerd --host "$DOCKER_HOST" --data-root "$folder/data" --exec-root "$folder/exec" \
    --pidfile "$folder/dockerd.pid" $(cat "$folder/options") </dev/null >>"$folder/log" 2>&1
  tries=0
  until DOCKER_HOST=$DOCKER_HOST docker version >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ]; then
      tail -n 20 "$folder/log" >&2
      exit 1
    fi
    sleep 0.2
  done
}

# Ends the daemon and waits until it is gone.
down() {
  pid=$(cat "$folder/dockerd.pid")
  kill -s "$1" "$pid"
  # A killed one may stay as a zombie of whoever started it.
  while grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$pid/status"; do sleep 0.2; done
  rm -f "$folder/dockerd.pid"
}

case $what in
start)
  mkdir -p "$folder"
  echo "${DOCKERD_OPTIONS:-}" >"$folder/options"
  ip netns add "$name"
  inside ip link set lo up
  up
  for image; do
    env -u DOCKER_HOST docker save "$image" | DOCKER_HOST=$DOCKER_HOST docker load
  done
  ;;
restart)
  down TERM
  up
  ;;
kill)
  down KILL
  up
  ;;
reboot)
  # The first process of each container, whose end is that of all others in it.
  pids=$(export DOCKER_HOST && docker ps --quiet | xargs -r docker inspect --format '{{.State.Pid}}')
  ids=$(export DOCKER_HOST && docker ps --quiet --no-trunc)
  # containerd and what it has started are told by its socket.
  shims=$(pgrep -f "$folder/exec/containerd/containerd" || :)
  # shellcheck disable=SC2086 # ids are words
  kill -s KILL $shims $pids || :
  down KILL
  while grep -q " $folder/" /proc/self/mountinfo; do
    awk -v under="$folder/" 'index($5, under) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r umount --lazy
  done
  for id in $ids; do
    find /sys/fs/cgroup -depth -type d -path "*$id*" -exec rmdir {} + || :
  done
  rm -rf "$folder/exec"
  up
  ;;
run)
  export DOCKER_HOST
  exec nsenter --net="/run/netns/$name" -- "$@"
  ;;
stop)
  down TERM
  ip netns delete "$name"
  rm -rf "$folder"
  ;;
*)
  echo "engine.sh: what is $what?" >&2
  exit 2
  ;;
esac
