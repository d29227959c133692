#!/bin/sh
# Makes a machine of a pristine Debian root and namespaces of its own, runs a command of a clean checkout on it, and removes
# it again, whatever comes of it.
#
#   machine.sh SUITE MIRROR KEYRING MMDEBSTRAP TOOLCHAIN CARGO_SETTINGS REPOSITORY COMMIT COMMAND FOLDER
#
# The machine shares this one's kernel, devices and processors. Its processes, mounts, network and cgroups are its own, so
# that the engine it starts meets no other. It reaches the network through a process of this machine, slirp4netns: no
# address, route or firewall rule is changed here.
set -eu

suite=$1 mirror=$2 keyring=$3 mmdebstrap=$4 toolchain=$5 cargo_settings=$6 repository=$7 commit=$8 command=$9
shift 9
folder=$1
scripts=$(dirname "$0")
root=$folder/root

machine='' network=''

# Where this machine's cgroups have a place for the new one's: in each hierarchy.
groups() {
    while read -r _ _ _ _ place rest; do
        case $rest in *' - cgroup '* | *' - cgroup2 '*) echo "$place/kprov-fresh-$suite" ;; esac
    done </proc/self/mountinfo
}

# Ends a process that this script has started.
end() {
    if [ -n "$1" ]; then
        kill -KILL "$1" 2>/dev/null || true
        wait "$1" 2>/dev/null || true
    fi
}

remove() {
    # The machine's first process takes all others with it, and the last of them its mounts and its network.
    end "$machine"
    end "$network"
    for group in $(groups); do
        attempts=0
        while [ -d "$group" ] && ! find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; do
            attempts=$((attempts + 1))
            if [ "$attempts" -gt 100 ]; then
                echo "fresh: $group cannot be removed" >&2
                break
            fi
            sleep 0.1
        done
    done
    rm -rf --one-file-system "$folder"
}

# What a killed run left behind.
remove
mkdir -p "$folder"
trap remove EXIT
trap 'exit 130' INT TERM HUP

apt-config dump | grep -iE '^Acquire::(https?|ftp|Check-Valid-Until|Check-Date|Retries|ForceIPv[46])\b' >"$folder/apt.conf" || true
# What rustup needs, and a C compiler.
"$mmdebstrap" --quiet --mode=root --variant=minbase --format=directory --include=ca-certificates,curl,gcc,libc6-dev \
    --aptopt="$folder/apt.conf" "$suite" "$root" "deb [signed-by=$keyring] $mirror $suite main"

# This machine's way to the registries: whom it trusts, and cargo's settings.
[ ! -f /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
[ ! -f "$cargo_settings" ] || install -D -m 600 "$cargo_settings" "$root/root/.cargo/config.toml"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
printf '127.0.0.1 localhost fresh\n' >"$root/etc/hosts"

mkdir -p "$root/opt/rust" "$root/root/kprov" "$root/old"
git -C "$repository" archive "$commit" | tar --extract --no-same-owner --directory "$root/root/kprov"
cp "$scripts/first.sh" "$root/opt/first.sh"

for group in $(groups); do
    mkdir "$group"
    # On the first version of cgroups, nothing can enter a group that has no processors or memory yet.
    for file in cpuset.cpus cpuset.mems; do
        [ ! -e "${group%/*}/cgroup.clone_children" ] || [ ! -e "$group/$file" ] || cat "${group%/*}/$file" >"$group/$file"
    done
done

mkfifo "$folder/made" "$folder/connected" "$folder/network"
(
    for group in $(groups); do echo 0 >"$group/cgroup.procs"; done
    exec unshare --mount --net --uts --ipc --cgroup --propagation private \
        sh "$scripts/enter.sh" "$folder" "$toolchain" "$command"
) </dev/null &
machine=$!
read -r _ <"$folder/made"
slirp4netns --configure --mtu=65520 --disable-host-loopback --ready-fd=3 "$machine" eth0 \
    >"$folder/network.log" 2>&1 3>"$folder/network" &
network=$!
# One byte, without a newline, says that the network is there; the end of the stream alone, that it will not be.
if [ "$(head -c 1 "$folder/network" | wc -c)" != 1 ]; then
    cat "$folder/network.log" >&2
    echo "fresh: slirp4netns does not connect the machine" >&2
    exit 1
fi
echo >"$folder/connected"

status=0
wait "$machine" || status=$?
machine=''
exit "$status"
