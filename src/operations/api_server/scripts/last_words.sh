#!/bin/sh
# Prints the last lines of the API server's logs but for those whose names are in $known, a line each. Waits a second for
# some to come.

tries=0
while [ $tries -lt 10 ]; do
  for log in /var/log/pods/kube-system_kube-apiserver-*/kube-apiserver/*.log; do
    if [ -s "$log" ] && ! printf '%s\n' "${known?}" | grep -qxF "$log"; then
      tries=10
      tail -n 40 "$log"
    fi
  done
  tries=$((tries + 1))
  if [ $tries -lt 10 ]; then sleep 0.1; fi
done
