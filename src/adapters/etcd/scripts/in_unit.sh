#!/bin/sh
# Runs the script that is read, in a systemd unit of its own: it goes on whatever becomes of who sent it, and however it
# ends, what it has started ends, too, and the kubelet runs.
#
# Needs $unit, $work, a folder that is the script's alone, $size of the script, and $seconds that it may take.

umask 077
case $(systemctl show --property=ActiveState --value "${unit:?}") in
inactive | failed) ;;
*)
  echo "another one is at work" >&2
  exit 1
  ;;
esac
rm -rf "${work:?}"
mkdir "$work"
cat > "$work/script.sh"
# Input that ends early, since whoever sends it was killed, is not taken for the whole.
[ "$(wc -c < "$work/script.sh")" -eq "${size:?}" ]
# A unit of one shot has started once its script has ended. Without --wait, which needs D-Bus: not every node has it.
if systemd-run --quiet --collect --unit="$unit" --service-type=oneshot --property=TimeoutStartSec="${seconds:?}" \
  --property=StandardOutput="file:$work/output" --property=StandardError="file:$work/output" \
  --property="ExecStopPost=/bin/systemctl --no-block start kubelet" sh -eu "$work/script.sh" 2> "$work/refused"; then
  rm -rf "$work"
else
  cat "$work/output" || cat "$work/refused"
  rm -rf "$work"
  exit 1
fi >&2
