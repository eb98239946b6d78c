#!/usr/bin/env bash
# Bring Airflow's metadata database to this image's version and create the first administrator. Safe to run on every start.
set -euo pipefail

: "${ADMIN_USERNAME:?}" "${ADMIN_EMAIL:?}" "${ADMIN_PASSWORD:?put it into .env: openssl rand -hex 16}"

airflow db migrate

# An existing user is left as it is, password included: people change theirs in the UI.
# The password goes in through standard input (asked for twice), so that it is on no command line.
printf '%s\n%s\n' "$ADMIN_PASSWORD" "$ADMIN_PASSWORD" | airflow users create \
    --role Admin --username "$ADMIN_USERNAME" --email "$ADMIN_EMAIL" --firstname First --lastname Administrator

airflow users list --output plain | awk -v name="$ADMIN_USERNAME" '$2 == name { found = 1 } END { exit !found }' || {
    echo "The administrator $ADMIN_USERNAME was not created; the lines above say why." >&2
    exit 1
}
