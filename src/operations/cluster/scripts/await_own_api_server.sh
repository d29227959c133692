#!/bin/sh
# Waits until something listens on the API server's port of this node, or until that has taken $patience seconds; then starts the
# kubelet anew. The port is in $port, as the kernel writes it.

end=$(($(date +%s) + ${patience:?}))
# Local address, remote address, and the state of who listens.
until grep -qs " [0-9A-F]*:${port:?} [0-9A-F:]* 0A " /proc/net/tcp /proc/net/tcp6; do
  if [ "$(date +%s)" -ge "$end" ]; then break; fi
  sleep 0.1
done
systemctl restart --no-block kubelet
