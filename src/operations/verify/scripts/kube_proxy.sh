#!/bin/sh
# Asks kube-proxy, and the way to the API server that it has made, on the node itself.
#
# Defines functions for the calls that are put after it; needs stand_in.sh.

# The port at which kube-proxy says how it is.
PORT=10256

# kube_proxy_health: prints what kube-proxy answers at its health port, on one line. Fails unless that is "200".
# By bash, which every node image starts with: not every one has curl.
kube_proxy_health() {
  for address in 127.0.0.1 ::1; do
    # shellcheck disable=SC2016
    answer=$(timeout 3 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "GET /healthz HTTP/1.0\r\n\r\n" >&3 && cat <&3' \
      "$address" "$PORT" 2>/dev/null | tr -d '\r' | tr '\n' ' ') || answer=
    if [ -n "$answer" ]; then break; fi
  done
  printf '%s\n' "${answer:-nothing answers at port $PORT}"
  case "$answer" in
  HTTP/1.?" 200 "*) ;;
  *) return 1 ;;
  esac
}

# await_kube_proxy SECONDS: waits until kube-proxy is well. Prints nothing then, and else what it answered in the end.
await_kube_proxy() {
  end=$(($(date +%s) + $1))
  until health=$(kube_proxy_health); do
    if [ "$(date +%s)" -ge "$end" ]; then
      printf '%s\n' "$health"
      return 0
    fi
    sleep 0.2
  done
}

# look_at_kube_proxy TOOL ADDRESS: prints "health ANSWER", "stand-in RULE" for each rule of kprov's own for ADDRESS, and
# "reached" or "failed REASON" for the API server at its service ADDRESS. Nothing but TLS by the cluster's authority counts
# as the API server.
look_at_kube_proxy() {
  health=$(kube_proxy_health) || true
  printf 'health %s\n' "$health"
  laid=$(stand_ins "$1" "$2") || return
  printf '%s\n' "$laid" | sed -n 's/^-A/stand-in/p'
  case "$2" in
  *:*) host="[$2]" ;;
  *) host=$2 ;;
  esac
  if said=$(kubectl --kubeconfig=/etc/kubernetes/kubelet.conf --server="https://$host:443" --request-timeout=5s \
    get --raw=/readyz 2>&1); then
    echo reached
  else
    printf 'failed %s\n' "$(printf '%s' "$said" | tail -n 1)"
  fi
}
