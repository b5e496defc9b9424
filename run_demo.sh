#!/usr/bin/env bash
# The whole way on synthetic patients, under $DEMO_DIR, else the experiment's own folder, such as outputs/demo.
# Arguments are settings, e.g. experiment=demo_ci. The last line on standard output is one JSON object; everything else
# goes to standard error.
set -euo pipefail
if [[ -n "${DEMO_DIR:-}" ]]; then
    DEMO_DIR=$(realpath -m "$DEMO_DIR")
    export DEMO_DIR
else
    unset DEMO_DIR # empty is not given
fi
cd "$(dirname "$0")"
./make_env.sh >&2
exec .venv/bin/python run_demo.py "$@"
