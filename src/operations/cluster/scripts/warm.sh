#!/bin/sh
# On a container of a node image: has containerd unpack all images that it holds, and lays the store that comes of it into the
# image's own files, for its next layer. What never changes, layers packed and unpacked, goes to $WARM; in containerd's folder,
# links lead there.
#
# /var is a volume, as on a node, since nothing can be unpacked onto layers. Below it, at $own, are the image's own files.

WARM=/kind/warm
store=/var/lib/containerd
snapshots=io.containerd.snapshotter.v1.overlayfs/snapshots
blobs=io.containerd.content.v1.content/blobs/sha256
own=/mnt

mount --bind / "$own"
containerd >/run/containerd.log 2>&1 &
daemon=$!
trap 'kill "$daemon" 2>/dev/null || true' EXIT
tries=0
until ctr version >/dev/null 2>&1; do
  tries=$((tries + 1))
  if [ "$tries" -ge 300 ]; then
    tail -n 5 /run/containerd.log
    echo 'containerd does not answer'
    exit 1
  fi
  sleep 0.1
done
# One that cannot be unpacked now is when its pod comes.
ctr --namespace k8s.io images ls -q | grep -v '^sha256:' | while read -r image; do
  if ctr --namespace k8s.io containers create "$image" kprov-unpack >/dev/null 2>&1; then
    ctr --namespace k8s.io containers rm kprov-unpack >/dev/null
  fi
done
kill "$daemon"
wait "$daemon" || true

cd "$store/$snapshots" || exit
if [ -z "$(ls)" ]; then
  echo 'there was nothing to unpack'
  exit 1
fi
# The marks by which a layer hides what is in those below it cannot be copied into a layer.
if [ -n "$(find . -type c)" ] ||
  find . -type d -print0 | tar --create --format=pax --xattrs --xattrs-include='trusted.overlay.*' --no-recursion --null \
    --files-from=- | grep -qaE 'SCHILY.xattr.trusted.overlay.(opaque|redirect|metacopy)='; then
  echo 'a layer of its images hides files of another one'
  exit 1
fi
mkdir -p "$own$WARM/blobs"
cp -a . "$own$WARM/snapshots"
cp -a "$store/$blobs" "$own$WARM/blobs"
for folder in "$snapshots" "$blobs"; do
  kept=$WARM/snapshots
  [ "$folder" = "$snapshots" ] || kept=$WARM/blobs/sha256
  for name in "$store/$folder"/*; do
    rm -rf "$name"
    ln -s "$kept/${name##*/}" "$name"
  done
done
rm -rf "$own$store"
cp -a "$store" "$own$store"

# On a node, containers' file systems are laid over these: not every engine's own can lie below another one.
cd /var || exit
mkdir kprov-upper kprov-work kprov-merged
for lower in "$WARM"/snapshots/*/fs; do
  mount -t overlay overlay -o "lowerdir=$lower,upperdir=/var/kprov-upper,workdir=/var/kprov-work" /var/kprov-merged
  umount /var/kprov-merged
  break
done
umount "$own"
