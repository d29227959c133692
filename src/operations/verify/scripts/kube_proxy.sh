#!/bin/sh
# Asks kube-proxy, and the way to the API server that it has made, on the node itself.
#
# Defines functions for the calls that are put after it; needs stand_in.sh.

# The port at which kube-proxy says how it is.
PORT=${PORT-10256}

# ask_kube_proxy SECONDS: asks kube-proxy at its health port until it says that it is well, or for so long. Prints what it has
# answered last, on one line. Fails unless that is "200".
# By bash, which every node image starts with: not every one has curl. And by one bash, which starts no other program: while this
# is asked five times a second, all others on the node need the processors.
ask_kube_proxy() {
  # shellcheck disable=SC2016
  timeout "$(($1 + 10))" bash -c '
    ask() {
      answer=
      { exec 3<>"/dev/tcp/$1/$port"; } 2>/dev/null || return
      printf "GET /healthz HTTP/1.0\r\n\r\n" >&3
      while IFS= read -r -t 3 -u 3 line || [ -n "$line" ]; do
        answer="$answer${answer:+ }${line//[[:cntrl:]]/}"
        line=
      done
      exec 3>&-
    }
    port=$1
    # Nobody ever writes into it.
    exec 4<> <(:)
    while :; do
      for address in 127.0.0.1 ::1; do
        ask "$address"
        if [ -n "$answer" ]; then break; fi
      done
      case "$answer" in HTTP/1.?" 200 "*) break ;; esac
      if [ "$SECONDS" -ge "$2" ]; then break; fi
      read -r -t 0.2 -u 4
    done
    printf "%s\n" "${answer:-nothing answers at port $port}"
    case "$answer" in HTTP/1.?" 200 "*) ;; *) exit 1 ;; esac
  ' bash "$PORT" "$1"
}

# await_kube_proxy SECONDS: waits until kube-proxy is well. Prints nothing then, and else what it answered in the end.
await_kube_proxy() {
  health=$(ask_kube_proxy "$1") || printf '%s\n' "${health:-its health port does not answer}"
}

# look_at_kube_proxy TOOL ADDRESS: prints "health ANSWER", "stand-in RULE" for each rule of kprov's own for ADDRESS, and
# "reached" or "failed REASON" for the API server at its service ADDRESS. Nothing but TLS by the cluster's authority counts
# as the API server.
look_at_kube_proxy() {
  health=$(ask_kube_proxy 0) || true
  printf 'health %s\n' "${health:-its health port does not answer}"
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
