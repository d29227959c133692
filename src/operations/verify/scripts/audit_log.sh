#!/bin/sh
# Prints how long the file $log is: 0 if it is not there.

stat -c %s "${log:?}" || echo 0
