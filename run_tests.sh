#!/usr/bin/env bash
# Environment, linters, types, all tests, in two processes. Arguments go to pytest: ./run_tests.sh -n 0 -k metrics
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
./make_env.sh
PATH="$PWD/.venv/bin:$PATH"

failed=()
check() {
    local name="$1"
    shift
    printf '\n== %s\n' "$name"
    "$@" || failed+=("$name")
}

check "ruff check" ruff check .
check "ruff format" ruff format --check .
check "mypy" mypy
check "pytest" python -m pytest -n 2 --dist worksteal "$@"

echo
if ((${#failed[@]})); then
    printf 'run_tests.sh: failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "run_tests.sh: everything passed"
