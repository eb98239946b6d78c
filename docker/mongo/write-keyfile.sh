#!/usr/bin/env bash
# Write the replica set's key file with the only mode mongod accepts, owned by the account that runs mongod.
# Reads MONGO_REPLICA_SET_KEY; the first argument is the file to write. Safe to run on every start.
set -euo pipefail

file=${1:?usage: write-keyfile.sh FILE}
key=${MONGO_REPLICA_SET_KEY:?put it into .env: openssl rand -hex 64}

if [[ ! $key =~ ^[A-Za-z0-9+/=]{64,1024}$ ]]; then
    echo "MONGO_REPLICA_SET_KEY must be 64 to 1024 base64 or hex characters. Make one with: openssl rand -hex 64" >&2
    exit 1
fi

umask 0377
rm -f "$file"
printf '%s\n' "$key" >"$file"
echo "Key file written: $(stat -c '%n mode %a owner %u:%g' "$file")"
