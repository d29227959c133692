#!/bin/bash
# What people do on a cluster, done on a control plane: a Deployment with a claim, a Service, DNS, exec, logs, a rollout, port-forward
# and NetworkPolicies. etcd is server and client here: its image is on every node. $enforced: whether the network keeps out what policies
# do not let in.
set -euo pipefail

said() { printf '%s\n' "- $*"; }
image=$(kubectl -n kube-system get pods -l component=etcd -o jsonpath='{.items[0].spec.containers[0].image}')
worker=$(kubectl get nodes -l '!node-role.kubernetes.io/master,!node-role.kubernetes.io/control-plane' -o jsonpath='{.items[0].metadata.name}')

kubectl apply -f - <<Y
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: store}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      containers:
        - name: etcd
          image: $image
          imagePullPolicy: IfNotPresent
          command: [etcd, --data-dir=/data/etcd, '--listen-client-urls=http://0.0.0.0:2379', '--advertise-client-urls=http://store:2379']
          ports: [{containerPort: 2379}]
          readinessProbe: {tcpSocket: {port: 2379}, periodSeconds: 1}
          volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
---
apiVersion: v1
kind: Service
metadata: {name: store}
spec: {selector: {app: store}, ports: [{port: 2379}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  nodeName: $worker
  containers:
    - {name: etcd, image: $image, imagePullPolicy: IfNotPresent, command: [etcd, --data-dir=/tmp/etcd]}
Y
kubectl rollout status deployment/store --timeout=180s
kubectl wait --for=condition=Ready pod/client --timeout=120s
said "the claim is $(kubectl get pvc data -o jsonpath='{.status.phase}')"

# By the Service's name where the image has a name server, by its address otherwise.
host=store.default.svc.cluster.local
if ! kubectl -n kube-system rollout status deployment/coredns --timeout=60s; then
  host=$(kubectl get service store -o jsonpath='{.spec.clusterIP}')
fi
asks() { kubectl exec client -- etcdctl --dial-timeout=5s --command-timeout=5s --endpoints="http://$host:2379" "$@"; }
[ "$(asks put lesson learnt)" = OK ]
said "exec and Service, as $host"
[ -n "$(kubectl logs deployment/store --tail=1)" ]
said 'logs'

# One that has just been started listens before it answers.
learnt() {
  for _ in $(seq 20); do
    if [ "$(asks get --print-value-only lesson 2>/dev/null)" = learnt ]; then return; fi
    sleep 0.5
  done
  return 1
}
kubectl rollout restart deployment/store
kubectl rollout status deployment/store --timeout=180s
learnt
said 'a rollout, after which the volume has what was stored'

kubectl port-forward service/store 12379:2379 >/dev/null &
forward=$!
trap 'kill "$forward"' EXIT
answer=
for _ in $(seq 50); do
  answer=$( (exec 3<>/dev/tcp/127.0.0.1/12379 && printf 'GET /version HTTP/1.0\r\n\r\n' >&3 && cat <&3) 2>/dev/null || true)
  case "$answer" in *etcdserver*) break ;; esac
  sleep 0.2
done
case "$answer" in *etcdserver*) said 'port-forward' ;; *) exit 1 ;; esac

policy() {
  kubectl apply -f - <<Y
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: store}
spec:
  podSelector: {matchLabels: {app: store}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {app: $1}}}], ports: [{port: 2379}]}]
Y
}
policy client
learnt
said 'a NetworkPolicy that lets the client in'
policy nobody
if [ "${enforced:?}" = yes ]; then
  for _ in $(seq 50); do
    if ! asks get lesson >/dev/null 2>&1; then
      said 'a NetworkPolicy that keeps it out'
      exit 0
    fi
    sleep 0.2
  done
  exit 1
fi
said 'this network does not enforce NetworkPolicies'
