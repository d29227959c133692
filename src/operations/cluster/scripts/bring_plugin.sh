#!/bin/sh
# Makes way for the files of the KMS plugin, starts it when they are there, or takes it away with all that it has.
case ${1:?} in
prepare)
  # A program that runs cannot be written.
  systemctl stop kprov-kms.service 2>/dev/null || true
  mkdir -p /kind/kprov
  [ -d /kind/kprov/kms ] || mkdir -m 700 /kind/kprov/kms
  ;;
start)
  systemctl daemon-reload
  # A plugin on the host is its owner's to start.
  if [ -e /etc/systemd/system/kprov-kms.service ]; then
    # Why it does not start, who waits for it says better.
    systemctl start kprov-kms.service || true
  fi
  ;;
remove)
  if systemctl cat kprov-kms.service >/dev/null 2>&1; then systemctl stop kprov-kms.service; fi
  # What it logs in by goes first.
  rm -rf /kind/kprov/kms
  # The folder of a plugin on the host stays what it is.
  mountpoint -q /run/kprov-kms || rm -rf /run/kprov-kms
  units=/etc/systemd/system
  for unit in kprov-kms.service kprov-kms.service.d/10-bundle.conf kubelet.service.d/20-kprov-kms.conf; do
    # In a cluster that kind has made of a bundle, they are mounted.
    if mountpoint -q "$units/$unit"; then umount "$units/$unit"; fi
    rm -f "$units/$unit"
  done
  systemctl daemon-reload
  ;;
esac
