#!/bin/sh
# Makes $folder, for root alone, unless it is there. The folders above it are as the image has them, or as any.

# The mode is for the last folder alone, as the first line says.
# shellcheck disable=SC2174
[ -d "${folder:?}" ] || mkdir -m 700 -p "$folder"
