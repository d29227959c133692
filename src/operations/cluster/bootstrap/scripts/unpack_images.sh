#!/bin/sh
# Has containerd unpack those of its images whose names hold one of the lines that are read. One that is not unpacked now is
# when its pod comes.

wanted=$(cat)
[ -n "$wanted" ]
for image in $(ctr --namespace k8s.io images ls -q | grep -F -e "$wanted"); do
  if ctr --namespace k8s.io containers create "$image" kprov-unpack; then
    ctr --namespace k8s.io containers rm kprov-unpack
  fi
done
