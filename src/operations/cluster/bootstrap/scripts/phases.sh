#!/bin/sh
# Runs kubeadm's phases $phases, a line each, one after the other.
#
# Needs kubeadm's $config.

echo "${phases:?}" | while IFS= read -r name; do
  # A phase is one word or two.
  # shellcheck disable=SC2086
  kubeadm init phase $name --config="${config:?}" < /dev/null
done
