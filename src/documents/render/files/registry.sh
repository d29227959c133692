#!/bin/sh
# Serves a registry. A cache ends as soon as it starts without its upstream: it then serves what it has, and asks the upstream
# again after a while, and later ever more seldom.
#
#   sh serve.sh
#
# What it is told lies beside this file: config.yml and, of a cache, alone.yml for as long as it is without its upstream. While it is,
# there is a file `alone`.
set -u
cd "${0%/*}" || exit
rm -f alone
child=
trap 'kill "$child" 2>/dev/null; exit 0' TERM INT

serve() {
  "$@" &
  child=$!
  wait "$child"
}

if [ ! -e alone.yml ]; then
  exec registry serve config.yml
fi
pause=60
while :; do
  serve registry serve config.yml
  : >alone
  echo "the upstream does not answer: what is here is served without it" >&2
  serve timeout "$pause" registry serve alone.yml
  rm -f alone
  if [ "$pause" -lt 1800 ]; then pause=$((pause * 2)); fi
done
