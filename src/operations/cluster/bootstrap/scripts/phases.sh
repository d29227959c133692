#!/bin/sh
# Runs kubeadm's phases $phases, a line each, one after the other. They may be repeated, and are: an API server may not
# answer for a moment while another one joins it.
#
# Needs kubeadm's $config.

echo "${phases:?}" | while IFS= read -r name; do
  for pause in 1 2 0; do
    code=0
    # A phase is one word or two.
    # shellcheck disable=SC2086
    kubeadm init phase $name --config="${config:?}" < /dev/null || code=$?
    # By 3 it does not take its configuration (cmd/kubeadm/app/util/error.go).
    case $code in 0) break ;; 3) exit 3 ;; esac
    [ "$pause" -gt 0 ] || exit "$code"
    sleep "$pause"
  done
done
