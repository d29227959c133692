#!/bin/sh
# Makes way for the files of the KMS plugin, or starts it when they are there.
case ${1:?} in
prepare)
  # A program that runs cannot be written.
  systemctl stop kprov-kms.service 2>/dev/null || true
  mkdir -p /kind/kprov
  [ -d /kind/kprov/kms ] || mkdir -m 700 /kind/kprov/kms
  ;;
start)
  systemctl daemon-reload
  systemctl start kprov-kms.service
  ;;
esac
