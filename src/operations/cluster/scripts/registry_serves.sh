#!/bin/sh
# Says how a registry serves: `whole`, or `alone` if it is a cache whose upstream does not answer. Fails while it does not listen:
# 1388 is its port, 0A says that somebody listens there.
#
#   sh -euc "$(cat registry_serves.sh)" registry_serves FOLDER
grep -q ':1388 [0-9A-F:]* 0A ' /proc/net/tcp /proc/net/tcp6
if [ -e "$1/alone" ]; then echo alone; else echo whole; fi
