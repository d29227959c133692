#!/bin/sh
# Replaces the file $path by what is read, at once: readers see the old one or the new one, and after a crash of the host it
# is one of them.
#
# Needs $path, $size (input that ends early, since whoever sends it was killed, is not taken for the whole) and $mode.

umask 077
folder=${path:?}
folder=${folder%/*}
# Beside the target, so that the rename stays on one file system; named so that the kubelet, which ignores dot files in its
# manifests folder, does not take it for a manifest.
new=$folder/.${path##*/}.kprov
trap 'rm -f "$new"' EXIT
cat > "$new"
[ "$(wc -c < "$new")" -eq "${size:?}" ]
chmod "${mode:?}" "$new"
sync "$new"
mv -f "$new" "$path"
sync "$folder"
