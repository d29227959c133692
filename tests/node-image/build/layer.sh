#!/bin/sh
# Copies programs out of the node's system, with the libraries that they load, into the layer of a component's image.
#
#   layer.sh ROOT LAYER PROGRAM...
set -eu

root=$1 layer=$2
shift 2

mkdir -p "$layer/tmp" "$layer/etc/ssl/certs" "$layer/usr/bin" "$layer/usr/sbin" "$layer/usr/lib" "$layer/usr/lib64"
for folder in bin sbin lib lib64; do ln -sfn "usr/$folder" "$layer/$folder"; done
cp "$root/etc/ssl/certs/ca-certificates.crt" "$layer/etc/ssl/certs/"
chmod 1777 "$layer/tmp"

# A static program has no libraries; ldd says so by failing.
libraries=
[ $# = 0 ] || libraries=$(chroot "$root" ldd "$@" 2>/dev/null | grep -o '/[^ :]*\.so[^ :]*' | sort -u || true)

for file in "$@" $libraries; do
    [ ! -e "$layer$file" ] || continue
    mkdir -p "$layer${file%/*}"
    # A link is followed within the system: from outside, an absolute one leads to a file of the machine that builds.
    cp "$root$(chroot "$root" readlink -f "$file")" "$layer$file"
done
