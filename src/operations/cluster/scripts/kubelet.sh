#!/bin/sh
# Prints the kubelet's last words if it keeps ending; nothing if it does not. In some images it keeps ending until it has a
# configuration, and is started anew then, which sets the count to nothing.

restarts=$(systemctl show --property=NRestarts --value kubelet)
if [ -e /var/lib/kubelet/config.yaml ] && [ "${restarts:-0}" -ge 5 ]; then journalctl --no-pager --output=cat --lines=12 --unit=kubelet; fi
