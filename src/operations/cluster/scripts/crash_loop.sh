#!/bin/sh
# Prints the first static pod of this control plane that keeps ending: "COMPONENT" on a line. One that has ended once or
# twice does not count, since that may be due to another's being slower, and neither does one that runs, or that has not
# ended since its logs in $known, a line each, were listed.
#
# Needs static_pod.sh and starts.sh.

starts | while read -r component log; do
  if ! printf '%s\n' "${known?}" | grep -qxF "$component $log" && [ -z "$(static_pod_pids "$component")" ]; then
    echo "$component"
    break
  fi
done
