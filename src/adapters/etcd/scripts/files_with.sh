#!/bin/sh
# Prints the files of etcd's data that hold any of the lines that are read, as paths below its folder. A file that goes
# meanwhile is none of them.
#
# Needs $folder, etcd's data.

texts=$(cat)
[ -n "$texts" ]
cd "${folder:?}" || exit
# Where nothing is, nothing is found, and nothing proven.
[ -d member/wal ]
find member -type f | while IFS= read -r file; do
  code=0
  grep -qaF -e "$texts" "$file" || code=$?
  case $code in
  0) echo "$file" ;;
  1) ;;
  *) if [ -e "$file" ]; then exit 1; fi ;;
  esac
done
