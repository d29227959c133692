#!/bin/sh
# Ends a static pod: politely, so that what is under way comes to its end, but not for long. Then its sandbox, which
# makes the kubelet start the pod rather than look after it.
#
# Defines a function for the scripts that it is put before; needs static_pod.sh.

# end_static_pod COMPONENT [LOOKS]: it has LOOKS times 50 ms, 8 if nothing is said; with 0, it is not even asked.
end_static_pod() {
  old=$(static_pod_pids "$1") || old=
  left=$old
  if [ "${2:-8}" -gt 0 ]; then
    for pid in $old; do kill -TERM "$pid" 2>/dev/null || true; done
  fi
  n=0
  while [ $n -lt "${2:-8}" ]; do
    left=
    for pid in $old; do
      # A zombie has ended.
      if read -r _ _ state _ < "/proc/$pid/stat" && [ "$state" != Z ]; then left="$left $pid"; fi
    done 2>/dev/null
    if [ -z "$left" ]; then break; fi
    n=$((n + 1))
    sleep 0.05
  done
  for pid in $left; do kill -KILL "$pid" 2>/dev/null || true; done
  for box in $(ctr --namespace k8s.io containers ls -q \
    "labels.\"io.cri-containerd.kind\"==sandbox,labels.\"io.kubernetes.pod.namespace\"==kube-system,labels.\"io.kubernetes.pod.name\"==$1-$(hostname)"); do
    ctr --namespace k8s.io tasks kill --signal SIGKILL "$box" >/dev/null 2>&1 || true
  done
}
