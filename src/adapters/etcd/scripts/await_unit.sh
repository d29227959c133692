#!/bin/sh
# Waits until the unit $unit has ended; prints something if there was one to wait for.

while :; do
  case $(systemctl show --property=ActiveState --value "${unit:?}") in
  inactive | failed) break ;;
  esac
  echo waiting
  sleep 0.2
done
