#!/usr/bin/env bash
# What only a GPU can tell, unattended, in about 10 minutes on one H100 or H200: benchmarks/gpu.sh [RESULTS FOLDER]
#
# Every step runs under a time limit, and the others go on when one fails. Each writes NAME.log; summary.json gathers
# their commands, statuses and figures with date, GPU and versions. DEVICE=cpu runs every command at sizes that mean
# nothing, to see that the script itself works.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -x .venv/bin/python ]]; then PATH="$PWD/.venv/bin:$PATH"; fi
DEVICE="${DEVICE:-cuda}"
OUT="${1:-benchmarks/results/$DEVICE-$(date -u +%Y%m%d-%H%M%S)}"
mkdir -p "$OUT"

long=(steps=60 warmup=20) short=(steps=30 warmup=10)
stage1=() stage2=() compiled=() volume=(shape=[604,512,512])
sweep="model.channels_last=false;model.batch_size=4;model.batch_size=8;model.batch_size=16;model.batch_size=32"
if [[ $DEVICE == cpu ]]; then
    long=(steps=2 warmup=1) short=(steps=2 warmup=1)
    stage1=(model.patch_size=[16,16,16] model.n_hiddens=4 model.n_codes=64 model.disc_channels=4)
    stage2=(model.patch_size=[32,32,32] model.diffusion_num_channels=4 xray_encoder=tiny_random
        model.dim=8 model.dim_mults=[1,2] model.num_res_blocks=1 model.middle_blocks=1)
    compiled=(model.dim_mults=[1] model.cond=[pooled]) # one kind of block: a CPU compiles for minutes
    volume=(shape=[40,32,32])
    sweep="model.channels_last=false;model.batch_size=4"
fi

step() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2 status=0 begin=$SECONDS
    shift 2
    printf '\n== %s: %s\n' "$name" "$*"
    timeout --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1 || status=$?
    tail -n 1 "$OUT/$name.log" | cut -c 1-1000
    python -m benchmarks.gpu_results "$OUT" "$name" "$status" "$((SECONDS - begin))" "$*"
}
speed() { # NAME SECONDS OPTIONS...
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" python -m benchmarks.train_step device="$DEVICE" "$@"
}

step model_card 60 python -m benchmarks.model_card model=ddpm_4gpu_patches
step model_card_8ch 60 python -m benchmarks.model_card model=ddpm_4gpu_patches_8ch
speed train 180 "${stage2[@]}" "${long[@]}" compare=onthefly,perceptual # batch 2
speed variants 150 "${stage2[@]}" "${short[@]}" compare=none variants="$sweep"
for batch in 2 8; do # each by itself: a first compilation takes minutes
    speed "compiled_$batch" 180 "${stage2[@]}" "${short[@]}" "${compiled[@]}" compare=none model.compile=true "model.batch_size=$batch"
done
speed stage1 90 "${stage1[@]}" "${short[@]}" stage=vqgan variants=model.batch_size=4
step full_volume 180 python -m benchmarks.full_volume "${volume[@]}" device="$DEVICE"
speed monai 120 "${stage2[@]}" "${short[@]}" compare=monai
step tests 300 python -m pytest -q -m gpu tests/test_gpu.py tests/test_generator.py
printf '\n'
python -m benchmarks.gpu_results "$OUT" | tee "$OUT/summary.txt"
