#!/bin/sh
# The first process of a new machine: runs the README's command as its first user would, and asks for the evidence again.
#
#   first.sh COMMAND
set -eu

umount -l /old
rmdir /old
export HOME=/root PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /root/kprov

begin=$(date +%s)
echo "fresh: \$ $1" >&2
# The README's words, as a shell would read them.
sh -c "$1"
echo "fresh: it took $(($(date +%s) - begin)) s" >&2

# The engine that it has started is the default one, and the program the only one that it has built.
for program in target/*/kprov; do
    "$program" verify demo
    "$program" down demo
done
echo "fresh: the cluster was proven" >&2
