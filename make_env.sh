#!/usr/bin/env bash
# Builds .venv beside this script from requirements.txt and installs the project into it. A second run finds it
# finished and ends at once.
#
#   ./make_env.sh                            the newest of python3.13, 3.12, 3.11, python3 that works
#   PYTHON=/opt/python3.12 ./make_env.sh     this interpreter (3.11 or newer)
#   WHEELHOUSE=/media/usb ./make_env.sh      without a network, from a folder that make_wheelhouse.sh filled; one
#                                            named wheelhouse beside this script is taken by itself
#
# pip's own settings hold: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, pip.conf, proxies.
set -euo pipefail
wheelhouse="${WHEELHOUSE:+$(realpath -m "$WHEELHOUSE")}"
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
    printf 'make_env.sh: %s\n' "$@" >&2
    exit 2
}

# version of an interpreter that is new enough, nothing for any other
version_of() {
    "$1" -c 'import sys; v = sys.version_info; print("%d.%d.%d" % v[:3]) if v >= (3, 11) else sys.exit(1)' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        # pyenv and others install commands that exist and refuse to run
        if version_of "$candidate" >/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

fingerprint() {
    { cat requirements.txt pyproject.toml; .venv/bin/python -V; pwd -P; } 2>/dev/null | sha256sum | cut -d' ' -f1
}

if [[ -n "${PYTHON:-}" ]]; then
    wanted="$(version_of "$PYTHON")" ||
        fail "PYTHON=$PYTHON is not a working Python >= 3.11 ($("$PYTHON" -V 2>&1 | head -1 || true))." \
            "Set PYTHON to a newer one, or leave it out."
else
    wanted=""
fi

current="$(version_of .venv/bin/python || true)"
if [[ -n "$current" && (-z "$wanted" || "$wanted" == "$current") ]]; then
    if [[ "$(cat .venv/.fingerprint 2>/dev/null)" == "$(fingerprint)" ]]; then
        exit 0
    fi
    # console scripts hold the path they were installed under: a copied environment cannot be mended
    shebang="$(head -1 .venv/bin/pip 2>/dev/null || true)"
    [[ "$(dirname "${shebang#\#!}")" -ef .venv/bin ]] || current=""
else
    current=""
fi

from=()
if [[ -n "$wheelhouse" || -d wheelhouse ]]; then
    wheelhouse="${wheelhouse:-$PWD/wheelhouse}"
    [[ -f "$wheelhouse/SHA256SUMS" ]] ||
        fail "no wheels in $wheelhouse (SHA256SUMS is missing)." \
            "Copy the whole folder that make_wheelhouse.sh filled, or remove it to install from a package index."
    (cd "$wheelhouse" && sha256sum --check --quiet SHA256SUMS >&2) ||
        fail "$wheelhouse is not as make_wheelhouse.sh left it (see above); copy it anew."
    from=(--no-index --find-links "$wheelhouse")
    printf 'make_env.sh: installing from %s, without a network\n' "$wheelhouse" >&2
fi

if [[ -z "$current" ]]; then
    python="${PYTHON:-$(find_python)}"
    [[ -n "$python" ]] ||
        fail "no Python >= 3.11 found (python3 is $(python3 -V 2>&1 | head -1 || true))." \
            "Install Python 3.11 or newer, or name one: PYTHON=/path/to/python3.12 ./make_env.sh"
    printf 'make_env.sh: creating .venv with %s (%s)\n' "$python" "$(version_of "$python")" >&2
    "$python" -m venv --clear .venv >&2 ||
        fail "$python cannot make virtual environments." "On Debian and Ubuntu: apt-get install python3-venv"
fi

install() {
    .venv/bin/python -m pip install ${from[@]+"${from[@]}"} "$@" >&2 ||
        fail "pip could not install $* (its own message stands above)." \
            "A mirror? PIP_INDEX_URL=https://MIRROR/simple. No network? Fill a folder with make_wheelhouse.sh" \
            "elsewhere, for this Python ($(version_of .venv/bin/python)) and system, and set WHEELHOUSE=FOLDER." \
            "No space? Set PIP_NO_CACHE_DIR=1 or clear a disk." \
            "Then start the same command again: what is installed stays."
}

# torch first: the largest download, and the one that differs between machines
install "$(grep -E '^torch==' requirements.txt)"
install -r requirements.txt
# so that scripts and notebooks in other folders can import the project
install --quiet --no-deps --no-build-isolation --editable .
fingerprint >.venv/.fingerprint
printf 'make_env.sh: .venv is ready\n' >&2
