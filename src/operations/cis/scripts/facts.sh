#!/bin/sh
# Prints what controls of the CIS benchmark are judged by: command lines, modes and owners of files, the kubelet's
# configuration, policies. Records that each end in a zero byte, since a path may hold anything else; the last one says
# "end". No keys: of the encryption configuration nothing is printed but its checksum.
#
# Needs static_pod.sh, and in $control_plane whether this is one.

encoded() { base64 -w0; }

# file PATH...: those that are there, links followed. One program for all of them: of those that are not, it says so.
file() {
  stat -L --printf 'file %a %U:%G %f %n\0' -- "$@" 2>/dev/null || :
}

# flag NAME PID: a flag's value on a process's command line, the last one, be it behind a = or a word of its own. Words end with a zero
# byte, and may have lines that look like flags.
flag() {
  sed -zn -e "s/^--*$1=//p" -e "/^--*$1\$/{n;p;}" <"/proc/$2/cmdline" | tail -zn 1 | tr -d '\0'
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

# component NAME PID: what is to be known of a static pod's process.
component() {
  printf 'process %s %s\0' "$1" "$(encoded <"/proc/$2/cmdline")"
  case "$1" in
  etcd)
    data=$(flag data-dir "$2")
    if [ -n "$data" ]; then file "${data%/}"; fi
    printf 'environment %s\0' "$(tr '\0' '\n' <"/proc/$2/environ" | grep '^ETCD_' | tr '\n' '\0' | encoded)"
    own=$(flag trusted-ca-file "$2")
    if [ -n "$own" ]; then digest etcd-ca "/proc/$2/root$own"; fi
    ;;
  kube-apiserver)
    # As the process sees them: a mount may show it something else than the node.
    policy=$(flag audit-policy-file "$2")
    if [ -n "$policy" ]; then content audit-policy "/proc/$2/root$policy"; fi
    admission=$(flag admission-control-config-file "$2")
    if [ -n "$admission" ]; then content admission "/proc/$2/root$admission"; fi
    authentication=$(flag authentication-config "$2")
    if [ -n "$authentication" ]; then content authentication "/proc/$2/root$authentication"; fi
    encryption=$(flag encryption-provider-config "$2")
    if [ -n "$encryption" ]; then digest encryption "/proc/$2/root$encryption"; fi
    clients=$(flag client-ca-file "$2")
    if [ -n "$clients" ]; then digest client-ca "/proc/$2/root$clients"; fi
    ;;
  esac
}

if [ "${control_plane:?}" = yes ]; then
  seen=
  for found in $(static_pods kube-apiserver kube-controller-manager kube-scheduler etcd | tr ' ' =); do
    # Of one that is being replaced, the first.
    case "$seen" in
    *" ${found%%=*} "*) continue ;;
    esac
    seen="$seen ${found%%=*} "
    component "${found%%=*}" "${found#*=}"
  done
fi
printf 'end\0'
