#!/bin/sh
# Starts the controller manager and the scheduler, whose manifests have waited in $later.
#
# Needs $later and $manifests.

mv "${later:?}"/*.yaml "${manifests:?}/"
rmdir "$later"
