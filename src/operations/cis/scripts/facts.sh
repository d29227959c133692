#!/bin/sh
# Prints what controls of the CIS benchmark are judged by: command lines, modes and owners of files, the kubelet's
# configuration, policies. Records that each end in a zero byte, since a path may hold anything else; the last one says
# "end". No keys: of the encryption configuration nothing is printed.
#
# Needs static_pod.sh, and in $control_plane whether this is one.

encoded() { base64 -w0; }

# file PATH...: those that are there, links followed.
file() {
  for path; do
    if [ -e "$path" ]; then stat -L --printf 'file %a %U:%G %f %n\0' -- "$path"; fi
  done
}

# flag NAME PID: a flag's value on a process's command line, the last one.
flag() {
  tr '\0' '\n' <"/proc/$2/cmdline" | sed -n "s/^--*$1=//p" | tail -n 1
}

# content NAME PATH: what is in a file.
content() {
  if [ -f "$2" ]; then printf 'content %s %s\0' "$1" "$(encoded <"$2")"; fi
}

# digest NAME PATH
digest() {
  if [ -f "$2" ]; then printf 'digest %s %s\0' "$1" "$(sha256sum <"$2" | cut -d' ' -f1)"; fi
}

kubelet=0
for property in $(systemctl show -p MainPID -p IPAddressDeny kubelet | tr ' ' ','); do
  printf 'unit %s\0' "$property"
  case "$property" in
  MainPID=*) kubelet=${property#MainPID=} ;;
  esac
done
if [ "$kubelet" -gt 0 ] && [ -e "/proc/$kubelet/cmdline" ]; then
  printf 'process kubelet %s\0' "$(encoded <"/proc/$kubelet/cmdline")"
  configuration=$(flag config "$kubelet")
  if [ -n "$configuration" ]; then
    file "$configuration"
    content kubelet "$configuration"
    authority=$(flag client-ca-file "$kubelet")
    if [ -z "$authority" ] && [ -f "$configuration" ]; then
      authority=$(sed -n 's/^ *"*clientCAFile"*: *"*\([^",]*\).*/\1/p' "$configuration" | head -n 1)
    fi
    case "$authority" in
    '' | /etc/kubernetes/pki/*) ;;
    *) file "$authority" ;;
    esac
  fi
fi

file /etc/kubernetes/manifests/*.yaml /etc/kubernetes/*.conf \
  /etc/systemd/system/kubelet.service /usr/lib/systemd/system/kubelet.service \
  /etc/systemd/system/kubelet.service.d/*.conf /usr/lib/systemd/system/kubelet.service.d/*.conf
for folder in /etc/kubernetes/pki /etc/cni/net.d /var/lib/cni/networks; do
  # A link that leads nowhere has no mode, and is no reason to see nothing of the rest.
  if [ -d "$folder" ]; then find -L "$folder" ! -type l -exec stat -L --printf 'file %a %U:%G %f %n\0' -- {} +; fi
done

if [ "${control_plane:?}" = yes ]; then
  for component in kube-apiserver kube-controller-manager kube-scheduler etcd; do
    for pid in $(static_pod_pids "$component"); do
      printf 'process %s %s\0' "$component" "$(encoded <"/proc/$pid/cmdline")"
      case "$component" in
      etcd)
        data=$(flag data-dir "$pid")
        if [ -n "$data" ]; then file "${data%/}"; fi
        printf 'environment %s\0' "$(tr '\0' '\n' <"/proc/$pid/environ" | grep '^ETCD_' | tr '\n' '\0' | encoded)"
        own=$(flag trusted-ca-file "$pid")
        if [ -n "$own" ]; then digest etcd-ca "/proc/$pid/root$own"; fi
        ;;
      kube-apiserver)
        # As the process sees them: a mount may show it something else than the node.
        policy=$(flag audit-policy-file "$pid")
        if [ -n "$policy" ]; then content audit-policy "/proc/$pid/root$policy"; fi
        admission=$(flag admission-control-config-file "$pid")
        if [ -n "$admission" ]; then content admission "/proc/$pid/root$admission"; fi
        authentication=$(flag authentication-config "$pid")
        if [ -n "$authentication" ]; then content authentication "/proc/$pid/root$authentication"; fi
        clients=$(flag client-ca-file "$pid")
        if [ -n "$clients" ]; then digest client-ca "/proc/$pid/root$clients"; fi
        ;;
      esac
      break
    done
  done
fi
printf 'end\0'
