#!/bin/sh
# Prints the command line of the static pod $component, its words ended by zero bytes; nothing if it does not run.
#
# Needs static_pod.sh.

pids=$(static_pod_pids "${component:?}")
for pid in $pids; do
  cat "/proc/$pid/cmdline" 2>/dev/null || true
  break
done
