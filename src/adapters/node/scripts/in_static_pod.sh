#!/bin/sh
# Runs a command in the container of a static pod: in_static_pod.sh COMPONENT COMMAND...
#
# Needs static_pod.sh.

component=$1
shift
found=$(static_pod "$component")
container=${found%% *}
if [ -z "$container" ]; then
  echo "the container $component does not run" >&2
  exit 69
fi
exec ctr --namespace k8s.io tasks exec --exec-id "kprov-$(cat /proc/sys/kernel/random/uuid)" "$container" "$@"
