#!/bin/sh
# Runs the kube-bench of an image by the first of some benchmarks that it has the rules of, or by the last of them where its rules
# are somewhere else. What follows them are words for kube-bench.

benchmarks=${1:?}
shift
for benchmark in $benchmarks; do
  if [ -d "cfg/$benchmark" ]; then break; fi
done

# With `--as`, kubectl does not look for its pod's account by itself.
account=/var/run/secrets/kubernetes.io/serviceaccount
if [ -f "$account/token" ]; then
  case "${KUBERNETES_SERVICE_HOST:?}" in
  *:*) server="[$KUBERNETES_SERVICE_HOST]" ;;
  *) server=$KUBERNETES_SERVICE_HOST ;;
  esac
  # Of an image, nothing but a shell is taken for granted.
  printf '%s\n' 'apiVersion: v1' 'kind: Config' 'current-context: x' \
    "clusters: [{name: c, cluster: {server: 'https://$server:${KUBERNETES_SERVICE_PORT:-443}', certificate-authority: $account/ca.crt}}]" \
    "users: [{name: u, user: {tokenFile: $account/token}}]" \
    'contexts: [{name: x, context: {cluster: c, user: u}}]' >"${KUBECONFIG:?}"
fi
exec kube-bench run --json --benchmark "$benchmark" "$@"
