#!/bin/sh
# Prints by how many seconds the API server's start is later than the last change of $file.
#
# Needs static_pod.sh.

boot=$(sed -n 's/^btime //p' /proc/stat)
for pid in $(static_pod_pids kube-apiserver); do
  read -r stat < "/proc/$pid/stat"
  # shellcheck disable=SC2086
  set -- $stat
  echo $((boot + ${22} / $(getconf CLK_TCK 2>/dev/null || echo 100) - $(stat -c %Y "${file:?}")))
done
