#!/bin/sh
# Starts the kubelet, unless it runs.

systemctl is-active -q kubelet || systemctl start kubelet
