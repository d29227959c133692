#!/bin/sh
# Runs in a new machine's namespaces: mounts what a machine has, and becomes its first process.
#
#   enter.sh FOLDER TOOLCHAIN COMMAND
set -eu

folder=$1 toolchain=$2 command=$3
root=$folder/root

# The options that mount a hierarchy of the first version of cgroups again, of those that it has.
controllers() {
    case $1 in
    *name=*) echo "none,name=${1##*name=}" ;;
    *) echo "${1#rw,}" ;;
    esac
}

echo >"$folder/made"
read -r _ <"$folder/connected"

hostname fresh
mount --bind "$root" "$root"
mount --bind -o ro "$toolchain" "$root/opt/rust"
# Devices are this machine's; what is mounted or removed there stays in the new one.
mount --rbind /dev "$root/dev"
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/dev/shm" 2>/dev/null || true
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs "$root/run"
mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
if [ -d /lib/modules ]; then
    mkdir -p "$root/lib/modules"
    mount --bind -o ro /lib/modules "$root/lib/modules"
fi

# The same hierarchies as outside; seen from here, each begins at this machine's own group.
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
    # A group that passes controllers on has no processes of its own.
    mkdir "$root/sys/fs/cgroup/init"
    echo 0 >"$root/sys/fs/cgroup/init/cgroup.procs"
    sed 's/[^ ]\+/+&/g' "$root/sys/fs/cgroup/cgroup.controllers" >"$root/sys/fs/cgroup/cgroup.subtree_control"
else
    mounts=$(cat /proc/self/mountinfo)
    mount -t tmpfs -o nosuid,nodev,noexec,mode=755 tmpfs "$root/sys/fs/cgroup"
    while read -r _ _ _ _ place rest; do
        case $rest in *' - cgroup '* | *' - cgroup2 '*) ;; *) continue ;; esac
        mkdir "$root$place"
        case $rest in
        *' - cgroup2 '*) mount -t cgroup2 cgroup "$root$place" ;;
        *) mount -t cgroup -o "$(controllers "${rest##* }")" cgroup "$root$place" ;;
        esac
    done <<MOUNTS
$mounts
MOUNTS
fi

# What the shell expands here is expanded by the first process.
# shellcheck disable=SC2016
exec unshare --pid --fork --kill-child sh -c '
    set -eu
    cd "$1"
    mount -t proc -o nosuid,nodev,noexec proc proc
    pivot_root . old
    exec chroot . sh /opt/first.sh "$2"
' sh "$root" "$command"
