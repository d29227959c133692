#!/bin/sh
# Takes all permissions of group and others off the files that $patterns match.

for file in ${patterns:?}; do
  if [ -f "$file" ]; then chmod go-rwx "$file"; fi
done
