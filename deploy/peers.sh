#!/usr/bin/env bash
# The full tests talk to programs of other makers. DCMTK, Orthanc and Poppler come from the system (Debian: dcmtk,
# orthanc, poppler-utils); dciodvfy, plastimatch, dcmqi and dcmrtstruct2nii come with `.[dev]`. Installs what is missing
# where that is possible, and says loudly what stays missing. Orthanc's own service is left off: the tests start one of
# their own, on this machine alone.
set -euo pipefail

DCMTK="storescu echoscu dcmconv dcmdump dsrdump storescp dcmqrscp findscu movescu dcm2pdf dcmj2pnm"
POLICY=/usr/sbin/policy-rc.d

is_dcmtk() {  # pynetdicom puts a storescu and others of its own beside Python: any of that name on PATH may be the one
    local found
    for found in $(type -ap "$1"); do
        [[ "$("$found" --version 2>/dev/null)" == *dcmtk* ]] && return 0
    done
    return 1
}

missing() {
    local program
    for program in $DCMTK; do
        is_dcmtk "$program" || echo "$program"
    done
    type -p pdftotext >/dev/null || echo pdftotext
    PATH="$PATH:/usr/sbin" type -p Orthanc >/dev/null || echo Orthanc  # /usr/sbin is not on everybody's PATH
}

packages() {  # the Debian packages that these programs are in
    local program
    for program in "$@"; do
        case "$program" in
            Orthanc) echo orthanc ;;
            pdftotext) echo poppler-utils ;;
            *) echo dcmtk ;;
        esac
    done | sort -u
}

without_services() {  # run a command during which Debian starts no service (policy-rc.d, Debian Policy 9.3.3.1)
    if [ ! -e "$POLICY" ]; then
        trap 'rm -f "$POLICY"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$POLICY"
        chmod 755 "$POLICY"
    fi
    "$@"
}

install_packages() {
    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@" || return 1
    if [[ " $* " == *" orthanc "* ]]; then
        update-rc.d orthanc disable
    fi
}

lacking=$(missing)
[ -z "$lacking" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    wanted=$(packages $lacking)
    echo "peers: installing" $wanted
    log=$(mktemp)
    without_services install_packages $wanted >"$log" 2>&1 \
        || { tail -n 5 "$log" >&2; echo "peers: apt-get failed" >&2; }
    rm -f "$log"
    lacking=$(missing)
fi

if [ -n "$lacking" ]; then
    echo "=====================================================================================" >&2
    echo "peers: NOT installed:" $lacking >&2
    echo "       Every test that needs one of them will be SKIPPED, and counted at the end." >&2
    echo "       On Debian or Ubuntu: sudo apt-get install" $(packages $lacking) >&2
    echo "=====================================================================================" >&2
fi
