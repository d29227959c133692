#!/bin/sh
# Makes a real cluster of each of these files of kind's, by kprov and then by the real kind, and holds them side by side: what
# runs by which flags, what nodes carry, what kubelets and kube-proxy are told, where ports and mounts go, and whether a pod runs.
#
#   for_real.sh KPROV KIND IMAGE FILE...
#
# Prints a line for each file; the differences go to standard error. Ends with 1 if any file did not do. It is for a person to
# run: it takes a minute or two for each file. Host ports and folders that a file names have to be free.
set -eu

kprov=$1 kind=$2 image=$3
shift 3
work=$(mktemp -d)
KUBECONFIG=$work/kubeconfig
XDG_DATA_HOME=$work/data
export KUBECONFIG XDG_DATA_HOME
name=real-$$
failed=0
trap '"$kprov" -q down "$name" >/dev/null 2>&1 || :; rm -rf "$work"' EXIT

kubectl() { docker exec "$control_plane" kubectl --kubeconfig /etc/kubernetes/admin.conf "$@"; }

# Awaits the nodes, or their kubelets where the file wants no CNI, and runs a pod without a network of its own on each node.
smoke() {
  nodes=$("$kprov" nodes "$name" | grep -v external-load-balancer)
  control_plane=$name-control-plane
  "$kprov" -q wait --nodes --timeout 120 "$name" >/dev/null 2>&1 || :
  pause=$(docker exec "$control_plane" ctr -n k8s.io images ls -q | grep -m 1 pause)
  for node in $nodes; do
    docker exec -i "$control_plane" kubectl --kubeconfig /etc/kubernetes/admin.conf apply -f - >/dev/null <<END
apiVersion: v1
kind: Pod
metadata: {name: smoke-$node}
spec:
  nodeName: $node
  hostNetwork: true
  tolerations: [{operator: Exists}]
  containers: [{name: pause, image: "$pause", imagePullPolicy: Never}]
END
  done
  for node in $nodes; do
    kubectl wait --for=condition=Ready --timeout=60s "pod/smoke-$node" >/dev/null
  done
  kubectl get --raw /readyz >/dev/null
}

# What is the same of clusters that are alike, a line each, sorted.
dump() {
  for node in $("$kprov" nodes "$name"); do
    docker inspect --format '{{range .HostConfig.Binds}}bind {{.}}
{{end}}{{range $inside, $to := .HostConfig.PortBindings}}{{range $to}}port {{$inside}} {{.HostIp}} {{.HostPort}}
{{end}}{{end}}' "$node" | grep -v -e '^$' -e '6443/tcp' | sed "s/^/$node /"
    case $node in *external-load-balancer) continue ;; esac
    # shellcheck disable=SC2016 # these are the template's own variables
    kubectl get node "$node" -o go-template='{{range $key, $value := .metadata.labels}}label {{$key}}={{$value}}
{{end}}{{range .spec.taints}}taint {{.key}}={{.value}}:{{.effect}}
{{end}}cidr {{.spec.podCIDRs}}
' | grep -v 'node.kubernetes.io/' | sed "s/^/$node /"
    kubectl get --raw "/api/v1/nodes/$node/proxy/configz" 2>/dev/null | tr ',' '\n' | sed -e "s/^/$node kubelet /"
    docker exec "$node" sh -euc 'containerd config dump | grep -v -e "^ *\[" | sort -u' | sed -e "s/^/$node containerd /"
  done
  for pod in etcd kube-apiserver kube-controller-manager kube-scheduler; do
    # shellcheck disable=SC2016 # these are the template's own variables
    kubectl -n kube-system get pods -l "component=$pod" -o go-template='{{range .items}}{{$name := .metadata.name}}{{range .spec.containers}}{{range .command}}{{$name}} {{.}}
{{end}}{{range .volumeMounts}}{{$name}} mount {{.mountPath}} {{.readOnly}}
{{end}}{{end}}{{end}}'
  done
  kubectl -n kube-system get configmap kube-proxy -o go-template='{{index .data "config.conf"}}' 2>/dev/null | sed 's/^/kube-proxy /'
}

# Addresses and tokens differ from run to run.
normal() {
  sed -e 's/[0-9]\{1,3\}\.[0-9]\{1,3\}\.[0-9]\{1,3\}\.[0-9]\{1,3\}:[0-9]*/ADDRESS/g' -e 's/172\.[0-9]*\.[0-9]*\.[0-9]*/ADDRESS/g' \
    -e 's/\(fc00\|fd[0-9a-f]*\):[0-9a-f:]*/ADDRESS/g' | sort
}

for file; do
  path=$(realpath "$file")
  outcome=
  for by in kprov kind; do
    begin=$(date +%s)
    if [ "$by" = kprov ]; then
      "$kprov" -q up --config "$path" --name "$name" --image "$image" >"$work/$by.log" 2>&1 || outcome="$outcome $by: does not come up;"
    else
      "$kind" create cluster --config "$path" --name "$name" --image "$image" >"$work/$by.log" 2>&1 || outcome="$outcome $by: does not come up;"
    fi
    seconds=$(($(date +%s) - begin))
    case $outcome in
    *"$by: does not come up"*) tail -n 15 "$work/$by.log" >&2 ;;
    *)
      if (smoke); then outcome="$outcome $by: up in $seconds s, a pod runs on each node;"; else outcome="$outcome $by: THE POD DOES NOT RUN;"; fi
      control_plane=$name-control-plane
      dump | normal >"$work/$by" || :
      ;;
    esac
    if [ "$by" = kprov ]; then "$kprov" -q down "$name" >/dev/null 2>&1 || :; else "$kind" -q delete cluster --name "$name" || :; fi
  done
  case $outcome in *'does not'* | *'DOES NOT'*) failed=1 ;; esac
  if [ -f "$work/kprov" ] && [ -f "$work/kind" ]; then
    diff "$work/kind" "$work/kprov" >"$work/diff" || :
    outcome="$outcome $(grep -c '^[<>]' "$work/diff" || :) of $(wc -l <"$work/kind") lines differ"
    sed "s|^|$(basename "$file"): |" "$work/diff" >&2
  fi
  echo "$(basename "$file"):$outcome"
  rm -f "$work/kprov" "$work/kind"
done
exit "$failed"
