#!/usr/bin/env bash
# launch.sh SCRIPT PORT [settings]: torchrun with its usual environment variables, after one readable check
set -euo pipefail
cd "$(dirname "$0")"
script=$1 port=$2
shift 2
if [[ -x .venv/bin/python ]]; then PATH="$PWD/.venv/bin:$PATH"; fi
export NGPU="${NGPU:-4}" MASTER_PORT="${MASTER_PORT:-$port}" # the check looks whether that is free
for setting in "$@"; do # asked for help or for the configuration: nothing to launch
    case "$setting" in
        --help | -h | --hydra-help | --version | --cfg | --cfg=* | -c | --info | --info=* | -i)
            exec python "$script" "$@"
            ;;
    esac
done
python "$script" check=true "$@"
exec torchrun --nproc_per_node="$NGPU" --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --max_restarts="${MAX_RESTARTS:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="$MASTER_PORT" \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 "$script" "$@"
