#!/bin/sh
# Removes the file $path from $folder, for good. What is not there is no error.

if [ -d "${folder:?}" ]; then
  rm -f "${path:?}"
  sync "$folder"
fi
