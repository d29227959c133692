#!/bin/sh
# Prints what is to be known of the API server of this node: its process, its command line, whether it is ready (asked on
# the node itself, past any load balancer), and the logs of its containers.
#
# Needs static_pod.sh, and the port in $port.

pids=$(static_pod_pids kube-apiserver) || pids=
for pid in $pids; do
  if { read -r stat < "/proc/$pid/stat"; } 2>/dev/null; then
    # Process id and start time.
    # shellcheck disable=SC2086
    set -- $stat
    echo "process $1/${22}"
    tr '\0' '\n' < "/proc/$pid/cmdline" 2>/dev/null | sed 's/^/word /' || true
    # kubeadm's certificates always name kubernetes.default; not all of them name 127.0.0.1.
    if answer=$(kubectl --kubeconfig=/etc/kubernetes/admin.conf --server="https://127.0.0.1:${port:?}" \
      --tls-server-name=kubernetes.default --request-timeout=3s get --raw=/readyz 2>/dev/null) && [ "$answer" = ok ]; then
      echo ready
    fi
    break
  fi
done
for f in /var/log/pods/kube-system_kube-apiserver-*/kube-apiserver/*.log; do
  if [ -e "$f" ]; then echo "log $f"; fi
done
