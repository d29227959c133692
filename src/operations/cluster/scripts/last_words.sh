#!/bin/sh
# Prints the last lines of the newest log of a static pod of this control plane; nothing if it never ran. Where they are
# the end of a long text on its flags, what it said of the flag that it did not take comes first.
#
# Needs the pod's name in $component.

newest=
for log in /var/log/containers/"${component:?}"-*.log; do
  if [ -e "$log" ] && { [ -z "$newest" ] || [ -n "$(find -L "$log" -newer "$newest")" ]; }; then newest=$log; fi
done
if [ -n "$newest" ]; then
  lines=$(wc -l < "$newest")
  if [ "$lines" -gt 12 ]; then head -n $((lines - 12)) "$newest" | grep -m 2 -e ' F Error: ' -e ' flag provided but not defined' || true; fi
  tail -n 12 "$newest"
fi
