#!/bin/sh
# Sets a worker's kubelet up by kubeadm's phase, which ends by starting it: the systemctl that it finds here does nothing, since
# the kubelet is to start later. (To mask its unit meanwhile would have systemd read all of its units twice more.)
#
# Needs kubeadm's $config, which is removed.

nothing=$(mktemp -d)
trap 'rm -rf "$nothing"' EXIT
# A link, since nothing may be run that lies there.
ln -s /bin/true "$nothing/systemctl"
PATH=$nothing:$PATH kubeadm init phase kubelet-start --config="${config:?}"
rm -f "$config"
