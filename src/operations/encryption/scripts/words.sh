#!/bin/sh
# Prints the last lines of the API server's newest log that are about its encryption's configuration.

# The kubelet names these files: there is no odd character in them.
# shellcheck disable=SC2012
log=$(ls -t /var/log/pods/kube-system_kube-apiserver-*/kube-apiserver/*.log 2>/dev/null | head -n 1)
if [ -n "$log" ]; then
  grep -i 'encryption config' "$log" | tail -n 3 | cut -d ' ' -f 4-
fi
