#!/usr/bin/env bash
# The environment from the lock: .venv with every version and hash of requirements-dev.txt, and this package, editable.
# Run it as often as you like: it does nothing when nothing changed, and repairs a setup that was cut short.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME VIRTUAL_ENV

# The machine's own certificates count too: pip and uv bring theirs, which know no company's proxy.
certificates=/etc/ssl/certs/ca-certificates.crt
if [ -e "$certificates" ]; then
    export SSL_CERT_FILE=${SSL_CERT_FILE:-$certificates}
    export PIP_CERT=${PIP_CERT:-$SSL_CERT_FILE}
fi

stamp=.venv/.setup
lock=requirements-dev.txt

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

digest() { cat "$lock" pyproject.toml demo/setup.sh | sha256sum | cut -d' ' -f1; }

find_python() {  # the first interpreter that the lock was made for: 3.11 before anything newer
    local name
    for name in python3.11 python3.12 python3; do
        if "$name" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    fail "Python 3.11 is missing: install it with \`apt-get install python3.11 python3.11-venv\`."
}

install_packages() {  # Debian names, tried in order, one of them is enough
    local package
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] || return 1
    export DEBIAN_FRONTEND=noninteractive
    for attempt in without-update with-update; do
        if [ "$attempt" = with-update ]; then apt-get update -qq >&2 || return 1; fi
        for package in "$@"; do
            if apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1; then
                say "installed the system package $package"
                return 0
            fi
        done
    done
    return 1
}

make_venv() {
    local python=$1 version
    if .venv/bin/python -m pip --version >/dev/null 2>&1; then return; fi
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        install_packages "python$version-venv" python3-venv ||
            fail "Python's venv module is missing: install it with \`sudo apt-get install python$version-venv\`."
    fi
    say "creating .venv with Python $version"
    "$python" -m venv --clear .venv
}

install_lock() {
    local uv=.venv/bin/uv wanted pin
    wanted=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' "$lock")
    if [ "$("$uv" --version 2>/dev/null | cut -d' ' -f2)" != "$wanted" ]; then
        pin=$(mktemp)
        sed -n '/^uv==/,/[^\\]$/p' "$lock" > "$pin"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$pin" ||
            fail "uv $wanted could not be installed: is the package index reachable?"
        rm -f "$pin"
    fi
    say "installing $(grep -c '^[a-z0-9].*==' "$lock") locked packages"
    export UV_LINK_MODE=${UV_LINK_MODE:-copy} VIRTUAL_ENV=$PWD/.venv
    "$uv" pip sync --quiet --require-hashes --compile-bytecode "$lock" &&
        "$uv" pip install --quiet --no-deps --no-build-isolation --editable . ||
        fail "the locked packages could not be installed (see above); run it again to go on"
}

check_mongod() {  # the embedded server needs libcurl, which a bare machine lacks
    local problem
    problem=$(probe_mongod) && return
    if [[ $problem == *libcurl* ]] && install_packages libcurl4t64 libcurl4; then
        problem=$(probe_mongod) && return
    fi
    fail "$(tail -n 1 <<< "$problem" | sed 's/^[A-Za-z_.]*Error: //')"
}

probe_mongod() { .venv/bin/python -c 'from mongo_ops.embedded import find_mongod; find_mongod()' 2>&1; }

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(digest)" ] && [ -x .venv/bin/python ]; then exit 0; fi
rm -f "$stamp"
started=$SECONDS
python=$(find_python)
make_venv "$python"
install_lock
check_mongod
digest > "$stamp"
say "ready in $((SECONDS - started)) s"
