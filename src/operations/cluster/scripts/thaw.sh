#!/bin/sh
# Lets go on what stands still in the cgroups of a container, and prints each such group. For cgroup v1: in v2, what stands still
# ends when it is killed.
#
#   sh -euc "$(cat thaw.sh)" thaw FOLDER CONTAINER      FOLDER: where the host's cgroups are
# Without a name, it would be the groups of all of the host.
: "${2:?which container}"
find "$1" -path "*$2*" -name freezer.state | while read -r state; do
  # Groups go while they are looked at.
  if [ "$(cat "$state" 2>/dev/null || echo THAWED)" != THAWED ]; then
    echo THAWED >"$state" || :
    echo "$state"
  fi
done
