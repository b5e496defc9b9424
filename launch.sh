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
if [[ -v SLURM_STEP_TASKS_PER_NODE && ! $SLURM_STEP_TASKS_PER_NODE =~ ^1(\(x[0-9]+\))?$ ]]; then
    echo "error: srun started $SLURM_STEP_NUM_TASKS launchers, several on a machine, each of which would train by" \
        "itself. Start one for each machine: sbatch launch_slurm.sbatch ./launch_ddpm_patches_4gpu.sh [settings]" >&2
    exit 2
fi
env -u SLURM_STEP_NUM_TASKS python "$script" check=true "$@" # srun started launchers, not these processes
signals=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
if [[ -n "$(trap -p SIGHUP)" ]]; then signals=${signals/SIGHUP,/}; fi # under nohup, which torchrun would not heed
exec torchrun --nproc_per_node="$NGPU" --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --max_restarts="${MAX_RESTARTS:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="$MASTER_PORT" \
    --signals-to-handle="$signals" "$script" "$@"
