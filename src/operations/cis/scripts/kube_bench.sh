#!/bin/sh
# Runs the kube-bench that was put into $folder, prints its JSON, and removes it, whatever comes of it.

folder=${folder:?}
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit
if [ -f /etc/kubernetes/admin.conf ]; then
  export KUBECONFIG=/etc/kubernetes/admin.conf
  set -- run
else
  set -- run --targets node
fi
# It ends with 0 whatever it finds. One that does not end is ended, with all that it has started, before whoever waits for it gives
# up: nothing is to be left running.
timeout 280 ./kube-bench --config-dir cfg --config cfg/config.yaml "$@" --json --benchmark "${benchmark:?}"
