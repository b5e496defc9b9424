#!/usr/bin/env bash
# The whole way on synthetic patients, under ${DEMO_DIR:-outputs/demo}; arguments are settings, e.g. experiment=demo_ci.
# The last line on standard output is one JSON object; everything else goes to standard error.
set -euo pipefail
DEMO_DIR=$(realpath -m "${DEMO_DIR:-$(dirname "$0")/outputs/demo}")
export DEMO_DIR
cd "$(dirname "$0")"
./make_env.sh >&2
exec .venv/bin/python run_demo.py "$@"
