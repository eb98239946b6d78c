#!/bin/sh
# Start Redis with its password read from standard input: it shows up neither in the process list nor in a file.
set -eu

: "${REDIS_PASSWORD:?put it into .env: openssl rand -hex 32}"

exec redis-server - <<CONFIG
requirepass $REDIS_PASSWORD
dir /data
appendonly yes
save ""
CONFIG
