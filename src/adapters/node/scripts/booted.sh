#!/bin/sh
# Waits until systemd and containerd can be spoken to; says what has failed if that takes more than $seconds.

tries=0
until [ -S /run/systemd/private ] && [ -S /run/containerd/containerd.sock ]; do
  tries=$((tries + 1))
  if [ "$tries" -ge $((${seconds:?} * 100)) ]; then
    systemctl --failed --no-legend
    if [ ! -S /run/containerd/containerd.sock ]; then
      journalctl --no-pager --output=cat --lines=5 --identifier=containerd
    fi
    exit 1
  fi
  sleep 0.01
done
