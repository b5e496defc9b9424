#!/usr/bin/env bash
# Collects the wheels that make_env.sh installs, on a machine with a package index, for machines without one.
#
#   ./make_wheelhouse.sh [FOLDER]                  wheelhouse/ beside this script, for this machine and its Python
#   PYTHON=python3.12 ./make_wheelhouse.sh         for this interpreter
#   TARGET_PYTHON=3.12 TARGET_ARCH=aarch64 ./make_wheelhouse.sh    for Linux with glibc 2.28 or newer elsewhere
#   ONLY="hydra-core omegaconf" ./make_wheelhouse.sh    these packages, without what they need, for a machine that has
#                                                       the others; in the versions of requirements.txt
#
# pip's own settings hold. What is there already is not fetched again; SHA256SUMS tells make_env.sh what belongs here.
set -euo pipefail
folder="$(realpath -m "${1:-$(dirname "${BASH_SOURCE[0]}")/wheelhouse}")"
cd "$(dirname "${BASH_SOURCE[0]}")"
python="${PYTHON:-python3}"

fail() {
    printf 'make_wheelhouse.sh: %s\n' "$@" >&2
    exit 2
}

"$python" -m pip --version >/dev/null || fail "$python has no pip; name another Python: PYTHON=/path/to/python3.12"

target=()
if [[ -n "${TARGET_PYTHON:-}${TARGET_ARCH:-}" ]]; then
    arch="${TARGET_ARCH:-x86_64}"
    [[ -z "${TARGET_PYTHON:-}" ]] || target+=(--python-version "$TARGET_PYTHON")
    for glibc in {28..17}; do target+=(--platform "manylinux_2_${glibc}_$arch"); done
    target+=(--platform "manylinux2014_$arch" --platform "linux_$arch")
fi

wanted=(-r requirements.txt)
if [[ -n "${ONLY:-}" ]]; then
    read -ra names <<<"$ONLY"
    wanted=(--no-deps --constraint requirements.txt "${names[@]}")
fi

mkdir -p "$folder"
# the one dependency that is published as source only; its wheel serves every platform
"$python" -m pip wheel --no-deps --find-links "$folder" --wheel-dir "$folder" 'antlr4-python3-runtime==4.9.*' >&2 ||
    fail "pip could not make the wheel of antlr4-python3-runtime (its own message stands above)."
"$python" -m pip download --only-binary=:all: --find-links "$folder" --dest "$folder" \
    ${target[@]+"${target[@]}"} "${wanted[@]}" >&2 ||
    fail "pip could not collect the wheels (its own message stands above)." \
        "Then start the same command again: what was fetched stays."
(cd "$folder" && sha256sum -- *.whl >SHA256SUMS)
printf 'make_wheelhouse.sh: %s wheels, %s, in %s\n' \
    "$(find "$folder" -name '*.whl' | wc -l)" "$(du -sh "$folder" | cut -f1)" "$folder" >&2
