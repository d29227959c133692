#!/bin/sh
# Gives etcd's data folder to a user of its own, which is made where the node has none (CIS 1.1.12). In its pod, etcd is
# root all the same: its keys are to be root's (1.1.19), and readable by their owner alone (1.1.21).

data=/var/lib/etcd

# free DATABASE WANTED: that number if nobody has it, or else the highest one of those for the system that nobody has.
free() {
  number=$2
  if [ "$number" -eq 0 ] || getent "$1" "$number" >/dev/null; then
    number=999
    while getent "$1" "$number" >/dev/null; do number=$((number - 1)); done
  fi
  echo "$number"
}

if [ -d "$data" ]; then
  chmod 700 "$data"
  # A folder that was put back has the numbers of the node that it is from.
  if ! getent group etcd >/dev/null; then
    echo "etcd:x:$(free group "$(stat -c %g "$data")"):" >>/etc/group
  fi
  if ! getent passwd etcd >/dev/null; then
    group=$(getent group etcd | cut -d: -f3)
    echo "etcd:x:$(free passwd "$(stat -c %u "$data")"):$group::$data:/usr/sbin/nologin" >>/etc/passwd
  fi
  chown etcd:etcd "$data"
fi
