#!/bin/sh
# A docker that remembers which containers were asked for, keeps what kind writes into them, and runs nothing.
set -eu
echo "$*" >>"$FAKE_DOCKER/log"
nodes=$FAKE_DOCKER/nodes
last=
for argument; do last=$argument; done
case "$1" in
-v) echo "Docker version 28.0.0, build fake" ;;
info)
  case "$*" in
  *'json .}}'*) echo '{"CgroupDriver":"systemd","CgroupVersion":"2","MemoryLimit":true,"PidsLimit":true,"CPUShares":true,"SecurityOptions":[]}' ;;
  *) echo '[]' ;;
  esac
  ;;
network)
  case "$2" in
  ls) echo kind ;;
  inspect) echo '[{"ID":"kind","Name":"kind"}]' ;;
  esac
  ;;
ps) if [ -f "$nodes" ]; then cut -d' ' -f1 "$nodes"; fi ;;
run)
  name=
  role=
  previous=
  for argument; do
    if [ "$previous" = --name ]; then name=$argument; fi
    case "$argument" in io.x-k8s.kind.role=*) role=${argument#*=} ;; esac
    previous=$argument
  done
  echo "$name $role" >>"$nodes"
  ;;
logs) echo "Reached target Multi-User System. detected cgroup v2" ;;
inspect)
  case "$*" in
  *kind.role*) sed -n "s/^$last //p" "$nodes" ;;
  *GlobalIPv6Address*) echo "192.0.2.1,2001:db8::1" ;;
  esac
  ;;
exec)
  shift
  while case "$1" in -*) true ;; *) false ;; esac; do shift; done
  node=$1
  shift
  case "$*" in
  "cat /kind/version") echo "$FAKE_VERSION" ;;
  "cat /etc/containerd/config.toml") cat "$FAKE_DOCKER/containerd.toml" ;;
  "cp /dev/stdin "*) cat >"$FAKE_DOCKER/$node.$(basename "$3")" ;;
  *kubeadm*) exit 1 ;;
  esac
  ;;
esac
