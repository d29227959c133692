#!/bin/sh
# Runs kubeadm's first phases, and starts etcd and the API server alone: the manifests of the controller manager and the
# scheduler wait in $later.
#
# Needs the phases $credentials and $pods, a line each, kubeadm's $config, $patches, a flag or nothing, and $manifests.

phase() {
  # A phase is one word or two, and so are flags.
  # shellcheck disable=SC2086
  kubeadm init phase $1 --config="${config:?}" ${2-}
}

echo "${credentials:?}" | while IFS= read -r name; do phase "$name" < /dev/null; done
echo "${pods:?}" | while IFS= read -r name; do phase "$name" "${patches?}" < /dev/null; done
mkdir -p "${later:?}"
mv "${manifests:?}/kube-controller-manager.yaml" "$manifests/kube-scheduler.yaml" "$later"
phase kubelet-start
