#!/bin/sh
# Makes the node's system from Debian packages.
#
#   rootfs.sh MMDEBSTRAP SUITE MIRROR KEYRING PACKAGES DIRECTORY
set -eu

mmdebstrap=$1 suite=$2 mirror=$3 keyring=$4 packages=$5 root=$6

# What no node reads is not unpacked. As options of mmdebstrap, these would make it look for a helper, written in Python,
# that a machine need not have; dpkg reads them by itself.
unread='/usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /usr/share/lintian /usr/share/zoneinfo
    /usr/lib/udev/hwdb.d'
rules=$(for folder in $unread; do printf 'path-exclude=%s/*\\n' "$folder"; done)
"$mmdebstrap" --quiet --mode=root --variant=essential --format=directory --include="$packages" \
    --setup-hook="mkdir -p \"\$1/etc/dpkg/dpkg.cfg.d\"; printf '$rules' >\"\$1/etc/dpkg/dpkg.cfg.d/unread\"" \
    "$suite" "$root" "deb [signed-by=$keyring] $mirror $suite main"

# Only what a node needs starts: the journal, and what the image enables itself. Each unit left out is one that nobody
# waits for when a cluster is made.
cd "$root"
# The essential packages were unpacked before dpkg was there to heed its rules.
for folder in $unread; do rm -rf "./$folder"; done
rm -rf var/cache/apt var/lib/apt/lists var/cache/debconf var/log/* tmp/* usr/share/bash-completion
rm -f etc/machine-id etc/resolv.conf etc/hostname var/lib/dbus/machine-id
rm -rf etc/systemd/system/*.wants lib/systemd/system/multi-user.target.wants/* lib/systemd/system/basic.target.wants/* \
    lib/systemd/system/local-fs.target.wants/* lib/systemd/system/timers.target.wants/* \
    lib/systemd/system/graphical.target.wants
for unit in dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount kmod-static-nodes.service \
    systemd-modules-load.service systemd-sysctl.service systemd-sysusers.service systemd-tmpfiles-setup.service \
    systemd-tmpfiles-setup-dev.service systemd-update-utmp.service systemd-update-done.service ldconfig.service \
    systemd-journal-catalog-update.service systemd-journal-flush.service systemd-machine-id-commit.service \
    systemd-random-seed.service systemd-binfmt.service systemd-firstboot.service systemd-hwdb-update.service \
    systemd-boot-system-token.service systemd-pstore.service systemd-repart.service systemd-pcrphase-sysinit.service \
    systemd-pcrphase.service systemd-pcrmachine.service cryptsetup.target veritysetup.target integritysetup.target \
    systemd-ask-password-console.path systemd-ask-password-wall.path systemd-initctl.socket systemd-oomd.service \
    systemd-networkd.service systemd-logind.service systemd-user-sessions.service getty.target console-getty.service \
    etcd.service
do
    rm -f "lib/systemd/system/sysinit.target.wants/$unit" "lib/systemd/system/sockets.target.wants/$unit"
    ln -sf /dev/null "etc/systemd/system/$unit"
done
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target
mkdir -p etc/systemd/system/multi-user.target.wants etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nReadKMsg=no\nRateLimitIntervalSec=0\n' >etc/systemd/journald.conf.d/node.conf

# The default for pods' containers, without resource limits: a node may not be allowed to raise them.
mkdir -p etc/containerd
chroot . ctr oci spec | tr -d '\n' | sed 's/"rlimits": *\[[^]]*\], *//' >etc/containerd/cri-base.json
rm -f usr/bin/containerd-shim usr/bin/containerd-shim-runc-v1 usr/bin/containerd-stress
