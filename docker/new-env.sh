#!/usr/bin/env bash
# Write .env from .env.example, every empty value filled by the command in the comment above it ("# $ command").
# Usage: docker/new-env.sh [FILE]. Never overwrites: losing the old secrets locks you out of the volumes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${1:-$root/.env}
if [[ -e $target ]]; then
    echo "$target exists and is kept. Move it away first if you really want new secrets." >&2
    exit 1
fi

umask 077
recipe=""
while IFS= read -r line; do
    case $line in
        '# $ openssl rand '*) recipe=${line#'# $ '} ;;
        [A-Z]*=)
            if [[ -z $recipe ]]; then
                echo "No command is given above ${line%=} in .env.example." >&2
                exit 1
            fi
            line+=$(bash -o pipefail -c "$recipe")
            recipe=""
            ;;
    esac
    printf '%s\n' "$line"
done <"$root/.env.example" >"$target.new"
mv "$target.new" "$target"
echo "$target written, readable by you only. Back it up where secrets belong; it is not in git."
