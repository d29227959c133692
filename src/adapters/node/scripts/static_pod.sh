#!/bin/sh
# The containers of a control plane's static pods, by containerd's labels and never by a process's name: any pod may
# run a program that is called kube-apiserver. By containerd's own tool, which every node image has.
#
# Defines functions for the scripts that it is put before.

# static_pod_containers COMPONENT: the names of that static pod's containers, a line each, whether they run or not.
static_pod_containers() {
  ctr --namespace k8s.io containers ls -q \
    "labels.\"io.kubernetes.container.name\"==$1,labels.\"io.kubernetes.pod.namespace\"==kube-system,labels.\"io.kubernetes.pod.name\"==$1-$(hostname)"
}

# static_pod COMPONENT: a line "CONTAINER PID" for each running container of that static pod.
static_pod() {
  static_pod_containers=$(static_pod_containers "$1") || return
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

# static_pods COMPONENT...: a line "COMPONENT PID" for each of their running containers. The components are asked for side by side,
# since each question costs a program's start; their answers are short enough not to mix.
static_pods() {
  static_pods_known=$(
    for component; do
      { static_pod_containers "$component" | sed "s/\$/ $component/"; } &
    done
    wait
  )
  static_pod_tasks=$(ctr --namespace k8s.io tasks ls) || return
  printf '%s\n' "$static_pods_known" | while read -r container component; do
    printf '%s\n' "$static_pod_tasks" | while read -r task pid status; do
      if [ "$task $status" = "$container RUNNING" ]; then echo "$component $pid"; fi
    done
  done
}
