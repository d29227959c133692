#!/bin/sh
# Logs in on the KMS server beside a cluster as who administers its key, then does what the arguments say, if any.
BAO_TOKEN=$(bao write -field=token auth/approle/login role_id=admin secret_id=@/kprov/openbao/admin.secret)
export BAO_TOKEN
if [ $# -gt 0 ]; then exec bao "$@"; fi
