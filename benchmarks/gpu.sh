#!/usr/bin/env bash
# What only a GPU can tell, unattended, in parts, what matters most first; the first seven take 5 to 10 minutes on an H100:
#
#   benchmarks/gpu.sh [PART...]      all unless some are named:
#     1  the GPU's tests (half precision with the real generators, a GPU draws what a CPU draws)
#     2  training steps at batch 2, 8, 32, beside MONAI's UNet
#     3  how busy the GPU is in a step, with what; the first convolution at 111 and 112 channels
#     4  a CT of 512×512×604 in 30 steps, its decoding in float32 and float16
#     5  a whole latent through the network, and a training step on it; which attention was chosen
#     6  training under the launcher (NCCL, 4 loader processes), SIGTERM, and on from last.ckpt
#     7  the same steps without CUDA graphs, and with blocks that are compiled
#     8  what is left: MAISI on the same volume, stage 1, encoding on the fly, the perceptual loss
#
#   OUT=FOLDER      of the results; else benchmarks/results/DEVICE-TIME
#   WHEELS=FOLDER   wheels that this machine's Python lacks (ONLY=... ./make_wheelhouse.sh); nothing is installed
#   DEVICE=cpu      every part at sizes that mean nothing, to see that it works
#   PATIENCE=N      a whole number, times what a step may take on an H100; 2, with which no part takes 8 minutes
#
# The others go on when a step fails or runs out of time. Each leaves NAME.log, and at once its figures in summary.json
# and a line in summary.txt. Parts 1 and 6 measure no time and run side by side.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
DEVICE="${DEVICE:-cuda}"
OUT="$(realpath -m "${OUT:-benchmarks/results/$DEVICE-$(date -u +%Y%m%d-%H%M%S)}")"
if [[ -x .venv/bin/python ]]; then PATH="$PWD/.venv/bin:$PATH"; fi
# python and torchrun of the interpreter that python3 is, whether or not they have these names on this machine
PATH="$(dirname "$("${PYTHON:-python3}" -c 'import sys; print(sys.executable)')"):$PATH"
export PYTHONUNBUFFERED=1
mkdir -p "$OUT"
temporary="$(mktemp -d)"
trap 'rm -rf "$temporary"' EXIT
if [[ -n "${WHEELS:-}" ]]; then
    python -m pip install --quiet --no-index --no-deps --no-compile --disable-pip-version-check \
        --target "$temporary/site" "$WHEELS"/*.whl || exit
    export PYTHONPATH="$temporary/site${PYTHONPATH:+:$PYTHONPATH}"
fi

read -ra parts <<<"${*:-1 2 3 4 5 6 7 8}"
for part in "${parts[@]}"; do
    [[ $part == [1-8] ]] || { echo "benchmarks/gpu.sh: parts are 1 to 8, got $part" >&2 && exit 2; }
done
chosen() { [[ " ${parts[*]} " == *" $1 "* ]]; }

step() { # NAME SECONDS COMMAND...
    local name=$1 limit=$(($2 * ${PATIENCE:-2})) status=0 begin=$SECONDS
    shift 2
    timeout --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1 </dev/null || status=$?
    printf '\n== %s: %s\n%s\n' "$name" "$*" "$(tail -n 1 "$OUT/$name.log" | cut -c 1-2000)"
    flock "$temporary" python -m benchmarks.gpu_results "$OUT" "$name" "$status" "$((SECONDS - begin))" "$*"
}
speed() { # NAME SECONDS OPTIONS...
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" python -m benchmarks.train_step device="$DEVICE" "$@"
}

timed=(steps=40 warmup=15)
stage1=() stage2=() compiled=() whole=(whole=[608,512,512]) volume=(shape=[604,512,512]) workers=4
larger="model.batch_size=8;model.batch_size=32" more=20
beside_monai=$larger
if [[ $DEVICE == cpu ]]; then
    timed=(steps=1 warmup=1)
    stage1=(model.patch_size=[16,16,16] model.n_hiddens=4 model.n_codes=64 model.disc_channels=4)
    stage2=(model.patch_size=[32,32,32] model.diffusion_num_channels=4 xray_encoder=tiny_random
        model.dim=8 model.dim_mults=[1,2] model.num_res_blocks=1 model.middle_blocks=1)
    compiled=(model.dim_mults=[1] model.cond=[pooled]) # one kind of block: a CPU compiles for minutes
    whole=(whole=[40,32,32] calls=1) volume=(shape=[40,64,32] steps=2) workers=1 more=2
    larger="model.batch_size=4" beside_monai="" # its 149 M parameters once will do
fi

part_1() {
    local tests several=()
    mapfile -t tests < <(grep -l 'mark\.gpu' tests/test_*.py)
    if python -c 'import xdist' 2>/dev/null; then several=(-n 4); fi # each process begins with the same trainings
    step tests 90 python -m pytest -q -p no:cacheprovider --continue-on-collection-errors --durations=8 \
        ${several[@]+"${several[@]}"} -m "gpu and not slow" "${tests[@]}"
}
part_2() { speed train 150 "${stage2[@]}" "${timed[@]}" compare=monai variants="$beside_monai"; }
part_3() {
    step profile 60 python -m benchmarks.profile_step device="$DEVICE" "${stage2[@]}" "${timed[@]}" parts=step,stem
}
part_4() {
    step full_volume 70 python -m benchmarks.full_volume "${volume[@]}" device="$DEVICE" measured_steps=0 decodings=true
}
part_5() {
    step whole 60 python -m benchmarks.profile_step device="$DEVICE" "${stage2[@]}" parts=whole "${whole[@]}"
}
part_6() { step restart 150 python -m benchmarks.restart device="$DEVICE" workers=$workers more=$more; }
part_7() {
    speed eager 90 "${stage2[@]}" "${timed[@]}" compare=none model.graph=false \
        variants="${larger//;/ model.graph=false;} model.graph=false"
    speed compile 90 "${stage2[@]}" "${timed[@]}" "${compiled[@]}" compare=none model.compile=true
}
part_8() {
    step maisi 100 python -m benchmarks.full_volume "${volume[@]}" device="$DEVICE" measured_steps=3 compare=maisi
    speed more 80 "${stage2[@]}" "${timed[@]}" compare=onthefly,perceptual
    speed stage1 50 "${stage1[@]}" "${timed[@]}" stage=vqgan variants=model.batch_size=4
}

python -m benchmarks.gpu_results "$OUT"
side=()
for part in "${parts[@]}"; do
    if [[ $part == 6 ]] && chosen 1; then continue; fi
    if [[ $part == 1 ]] && chosen 6; then
        part_6 &
        side=($!)
    fi
    "part_$part"
    if [[ $part == 1 ]]; then wait ${side[@]+"${side[@]}"}; fi
done
printf '\n'
cat "$OUT/summary.txt"
