#!/bin/sh
# Connects a node's pods with those of other nodes, as kindnet will.
#
# Defines functions for the calls that are put after it.

# route SUBNET GATEWAY
route() {
  ip route replace "$1" via "$2"
}

# cni_config FILE: makes the CNI's configuration of what is read. One that is there already is kindnet's own. Renamed when
# it is whole, since containerd watches the folder.
cni_config() {
  if [ -e "$1" ]; then return; fi
  mkdir -p "${1%/*}"
  cat > "$1.kprov"
  mv -n "$1.kprov" "$1"
  rm -f "$1.kprov"
}
