#!/bin/sh
# Prints the name of the segment of etcd's write-ahead log that is written to.
#
# Needs $folder, etcd's data.

last=
for segment in "${folder:?}"/member/wal/*.wal; do
  if [ -e "$segment" ]; then last=${segment##*/}; fi
done
echo "$last"
