#!/bin/sh
# On a node of a cluster that kind has made of a bundle: copies the KMS plugin from the bundle to where it runs, once. What it
# logs in by has to belong to root, whoever has written the bundle; and what is changed there later is not to be undone.
set -eu
from=/kind/kprov/bundle
to=/kind/kprov/kms
[ ! -d "$to" ] || exit 0
umask 077
rm -rf "$to.new"
mkdir "$to.new"
cp -R "$from/." "$to.new/"
chmod 700 "$to.new/start" "$to.new/kprov"
if [ -e "$to.new/lib/loader" ]; then chmod 700 "$to.new/lib/loader"; fi
mv "$to.new" "$to"
