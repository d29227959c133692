#!/bin/sh
# Prints what containerd holds for Kubernetes: a line "image NAME DIGEST" for each image, "blob DIGEST" for each blob.

images=$(ctr --namespace k8s.io images ls)
blobs=$(ctr --namespace k8s.io content ls -q)
# REF TYPE DIGEST and more; the first line is the table's head.
echo "$images" | while read -r name _ digest _; do
  echo "image $name $digest"
done
for digest in $blobs; do
  echo "blob $digest"
done
