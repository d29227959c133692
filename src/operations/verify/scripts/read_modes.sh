#!/bin/sh
# Prints mode, owner and name of each file that $patterns match, and of the folder $data, unless that is empty.

for file in ${patterns:?}; do
  if [ -f "$file" ]; then stat -L -c '%a %U:%G %n' "$file"; fi
done
if [ -n "${data?}" ]; then stat -L -c '%a %U:%G %n' "$data"; fi
