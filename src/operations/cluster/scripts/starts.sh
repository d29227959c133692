#!/bin/sh
# Defines a function for the scripts that it is put before.

# starts: a line "COMPONENT LOG" for each start of a static pod of this control plane, from the third one on.
starts() {
  for component in etcd kube-apiserver kube-controller-manager kube-scheduler; do
    # Logs are called 0.log, 1.log and so on, a number a start.
    for log in /var/log/pods/kube-system_"$component"-*/"$component"/[2-9].log \
      /var/log/pods/kube-system_"$component"-*/"$component"/[1-9][0-9]*.log; do
      if [ -e "$log" ]; then echo "$component $log"; fi
    done
  done
}
