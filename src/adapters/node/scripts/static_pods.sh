#!/bin/sh
# Prints the container that runs of each of the static pods $components, a line "COMPONENT CONTAINER"; without the second
# word where none does.
#
# Needs static_pod.sh.

for component in ${components:?}; do
  found=$(static_pod "$component")
  echo "$component ${found%% *}"
done
