#!/bin/sh
# Prints what runs of each of the static pods $components: a line "COMPONENT CONTAINER POD", of containerd's name of the
# container and the pod's id, which is its manifest's hash. Without the last two words where nothing runs.
#
# Needs static_pod.sh.

for component in ${components:?}; do
  found=$(static_pod "$component")
  container=${found%% *}
  pod=
  if [ -n "$container" ]; then
    pod=$(ctr --namespace k8s.io containers info "$container" | sed -n 's/.*"io.kubernetes.pod.uid": "\([^"]*\)".*/\1/p' | head -n 1)
  fi
  echo "$component $container $pod"
done
