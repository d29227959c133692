#!/bin/sh
# The containers of a control plane's static pods, by containerd's labels and never by a process's name: any pod may
# run a program that is called kube-apiserver. By containerd's own tool, which every node image has.
#
# Defines functions for the scripts that it is put before.

# static_pod COMPONENT: a line "CONTAINER PID" for each running container of that static pod.
static_pod() {
  static_pod_containers=$(ctr --namespace k8s.io containers ls -q \
    "labels.\"io.kubernetes.container.name\"==$1,labels.\"io.kubernetes.pod.namespace\"==kube-system,labels.\"io.kubernetes.pod.name\"==$1-$(hostname)") || return
  [ -n "$static_pod_containers" ] || return 0
  static_pod_tasks=$(ctr --namespace k8s.io tasks ls) || return
  printf '%s\n' "$static_pod_tasks" | while read -r container pid status; do
    [ "$status" = RUNNING ] || continue
    case " $(echo "$static_pod_containers" | tr '\n' ' ') " in
    *" $container "*) echo "$container $pid" ;;
    esac
  done
}

# static_pod_pids COMPONENT...: the ids of their main processes, a line each.
static_pod_pids() {
  for component; do
    static_pod_found=$(static_pod "$component") || return
    echo "$static_pod_found" | while read -r _ pid; do
      [ -z "$pid" ] || echo "$pid"
    done
  done
}
