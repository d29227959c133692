#!/bin/sh
# Prints the first static pod of this control plane that keeps ending: "COMPONENT" on a line. One that has ended once or
# twice does not count, since that may be due to another's being slower, and neither does one that runs.
#
# Needs static_pod.sh.

for component in etcd kube-apiserver kube-controller-manager kube-scheduler; do
  # Logs are called 0.log, 1.log and so on, a number a start.
  for log in /var/log/pods/kube-system_"$component"-*/"$component"/[2-9].log \
    /var/log/pods/kube-system_"$component"-*/"$component"/[1-9][0-9]*.log; do
    if [ -e "$log" ] && [ -z "$(static_pod_pids "$component")" ]; then
      echo "$component"
      exit
    fi
  done
done
