#!/bin/sh
# Sets a worker's kubelet up by kubeadm's phase, which ends by starting it: while the unit is masked, it can only warn that
# it could not.
#
# Needs kubeadm's $config, which is removed.

systemctl --quiet mask --runtime kubelet
trap 'systemctl --quiet unmask --runtime kubelet' EXIT
kubeadm init phase kubelet-start --config="${config:?}"
rm -f "$config"
