#!/bin/sh
# Keeps $before, the manifest before the last change, as $backup. It has been kept already if it is not there.

if [ -e "${before:?}" ]; then
  mv -f "$before" "${backup:?}"
  sync "${backup%/*}"
fi
