#!/usr/bin/env bash
# Stage 1 on NGPU processes (4 unless set) of this node, one of NNODES; arguments are settings, e.g. model.batch_size=4
set -euo pipefail
cd "$(dirname "$0")"
exec ./launch.sh train_vqgan_patches_4gpu.py 29500 "$@"
