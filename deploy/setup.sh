#!/usr/bin/env bash
# Make or mend the virtual environment given as first argument: exact versions from constraints.txt, the project itself
# editable. Quiet unless something fails. Run from the repository root (the Makefile does).
set -euo pipefail
venv=${1:-.venv}

usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if [ ! -x "$venv/bin/python" ]; then
    for python in "${PYTHON:-}" python3.11 python3; do
        [ -n "$python" ] && usable "$python" && break
        python=
    done
    [ -n "$python" ] || { echo "setup: Python 3.11 or newer is needed, and neither python3.11 nor python3 is one" >&2; exit 2; }
    echo "setup: $("$python" --version) ($python) -> $venv; the first time downloads several hundred MB and takes minutes"
    "$python" -m venv "$venv"
else
    echo "setup: bringing $venv up to date"
fi

say() {  # run quietly; on failure show everything that was said
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        echo "setup: failed: $*" >&2
        rm -f "$log"
        exit 1
    fi
    rm -f "$log"
}

pip=("$venv/bin/python" -m pip --disable-pip-version-check install --constraint constraints.txt)
# The build tools first and in the open, so that their versions are pinned as well; then everything on one line, so that
# rt-utils finds the two alias packages of deploy/shims in place of opencv-python and the dataclasses backport.
say "${pip[@]}" hatchling editables setuptools
say "${pip[@]}" --no-build-isolation ./deploy/shims/opencv-python ./deploy/shims/dataclasses --editable '.[dev]'
