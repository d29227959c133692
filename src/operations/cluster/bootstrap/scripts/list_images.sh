#!/bin/sh
# Prints the names of the images that the node holds. On a node whose boot has been seen, containerd may still be starting.

tries=0
until ctr version >/dev/null 2>&1 || [ $tries -ge 300 ]; do
  tries=$((tries + 1))
  sleep 0.1
done
ctr --namespace k8s.io images ls -q
