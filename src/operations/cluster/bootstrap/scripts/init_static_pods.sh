#!/bin/sh
# Runs kubeadm's first phases on a control plane, and starts etcd and, on the first one, the API server: the manifests $held, a
# line each, wait in $later.
#
# Needs the phases $credentials and $pods, a line each; kubeadm's $config, and the one that etcd is made by in $etcd; $patches, a
# flag or nothing; $manifests.

# phase NAME CONFIG [FLAG]
phase() {
  # A phase is one word or two, and so are flags.
  # shellcheck disable=SC2086
  kubeadm init phase $1 --config="$2" ${3-} < /dev/null
}

echo "${credentials:?}" | while IFS= read -r name; do phase "$name" "${config:?}"; done
echo "${pods:?}" | while IFS= read -r name; do phase "$name" "$config" "${patches?}"; done
phase 'etcd local' "${etcd:?}" "$patches"
mkdir -p "${later:?}"
echo "${held:?}" | while IFS= read -r name; do mv "${manifests:?}/$name.yaml" "$later"; done
phase kubelet-start "$config"
