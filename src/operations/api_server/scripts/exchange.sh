#!/bin/sh
# Exchanges the API server's manifest for what is read, and restarts it. Runs to its end whatever becomes of who sent it.
# What could fail, on a full disk say, is done before anything is stopped.
#
# Needs static_pod.sh and end_static_pod.sh; $manifest, $size of the new one, $looks that the old process has to end by
# itself, and $before: where the old manifest is kept, or nothing.

trap '' HUP PIPE TERM
umask 077
folder=${manifest:?}
folder=${folder%/*}
new=$folder/.${manifest##*/}.kprov
if [ -n "${before?}" ]; then
  mkdir -p "${before%/*}"
  cp -p "$manifest" "$before.new"
  sync "$before.new"
  mv -f "$before.new" "$before"
fi
trap 'rm -f "$new"; systemctl start kubelet' EXIT
cat > "$new"
# Input that ends early, since whoever sends it was killed, is not taken for the whole.
[ "$(wc -c < "$new")" -eq "${size:?}" ]
chmod --reference="$manifest" "$new"
sync "$new"
systemctl stop kubelet
mv -f "$new" "$manifest"
sync "$folder"
end_static_pod kube-apiserver "${looks:?}"
