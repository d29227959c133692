#!/bin/sh
# Runs in a container of the node's system: imports the component images into containerd's store, where the kubelet finds
# them. They are not unpacked; containerd does that when it first uses one.
set -eu

containerd >/tmp/containerd.log 2>&1 &
containerd=$!
attempts=0
until ctr version >/dev/null 2>&1; do
    attempts=$((attempts + 1))
    if [ "$attempts" -gt 300 ]; then
        cat /tmp/containerd.log >&2
        exit 1
    fi
    sleep 0.1
done
ctr --namespace k8s.io images import --all-platforms --no-unpack /build/images.tar >/dev/null
ctr --namespace k8s.io images list --quiet
kill "$containerd"
wait "$containerd" || true

systemctl enable --quiet containerd.service kubelet.service
rm -rf /build /run/* /tmp/* /var/lib/containerd/io.containerd.runtime* /var/lib/containerd/tmpmounts /etc/machine-id
mkdir -p /etc/kubernetes/manifests /etc/cni/net.d /opt/cni/bin
