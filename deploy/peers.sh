#!/usr/bin/env bash
# The full tests talk to programs of other makers. DCMTK comes from the system (Debian: dcmtk); dciodvfy and plastimatch
# come with `.[dev]` as wheels. Installs what is missing where that is possible, and says loudly what stays missing.
set -euo pipefail

is_dcmtk() {  # pynetdicom puts a storescu and an echoscu of its own beside Python: any of that name on PATH may be the one
    local found
    for found in $(type -ap "$1"); do
        [[ "$("$found" --version 2>/dev/null)" == *dcmtk* ]] && return 0
    done
    return 1
}

missing() {
    local program
    for program in storescu echoscu dcmdump dsrdump; do
        is_dcmtk "$program" || echo "$program"
    done
}

lacking=$(missing)
[ -z "$lacking" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "peers: installing dcmtk"
    log=$(mktemp)
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends dcmtk; } >"$log" 2>&1 \
        || { tail -n 5 "$log" >&2; echo "peers: apt-get failed" >&2; }
    rm -f "$log"
    lacking=$(missing)
fi

if [ -n "$lacking" ]; then
    echo "=====================================================================================" >&2
    echo "peers: NOT installed: $(echo $lacking). Every test that needs them will be SKIPPED." >&2
    echo "       On Debian or Ubuntu: sudo apt-get install dcmtk" >&2
    echo "=====================================================================================" >&2
fi
