#!/bin/sh
# Starts kprov as a KMS plugin on a node, with whatever arguments. Where it was brought with the libraries that it was
# built for, by those: the node's own may be older.
here=/kind/kprov/kms
if [ -e "$here/lib/loader" ]; then
  exec "$here/lib/loader" --library-path "$here/lib" "$here/kprov" "$@"
fi
exec "$here/kprov" "$@"
