"""How fast does training go? `python -m benchmarks.train_step [stage=ddpm|vqgan] [device=cpu|cuda] [overrides]`

Trains with the script's own module, loader, Trainer and callbacks on phantom volumes made on the spot, at the sizes of
the preset (`model=...`), stage 1 with its discriminators at work. Options: `steps` timed after `warmup`; `compare`, any
of onthefly, perceptual, monai (stage 2; `compare=none`); `variants`, further settings to measure in the same process,
and to compare with MONAI's UNet if that is asked for, such as "model.batch_size=8;model.batch_size=8
model.channels_last=false". Progress goes to stderr, all that is known after each variant with it; the last line is one
JSON object:

it_per_s, samples_per_s, step_ms (median), data_wait (share), peak_gb, reserved_gb: of one process.
mfu: three times the forward operations of the trained network, over the GPU's dense bf16 peak `peak_flops`. Stage 1
    counts the autoencoder alone, neither discriminators nor perceptual network.
ratio_cached_over_onthefly, ratio_perceptual: samples/s with cached latents over encoding on the fly, and with
    `model.perceptual_weight=0.05` (random ResNet-50, the preset's pauses) over without.
ratio_time_monai_over_ours, ratio_memory_monai_over_ours: see benchmarks/against_monai.py.
"""

import json
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from benchmarks import against_monai
from benchmarks.command import benchmark
from benchmarks.measure import stamp
from benchmarks.networks import codec_figures, denoiser_figures
from benchmarks.timing import free_memory, train
from benchmarks.workbench import Workbench, workbench
from common.errors import UserError
from pipeline.devices import pick_device

COMPARISONS = ("onthefly", "perceptual", "monai")
MOST_BESIDE = 20  # steps of what is compared with
TRAINING_PASSES = 3  # forward, and twice as much backward
ON_CPU = ["model.precision=32-true", "model.num_workers=0"]
OF_STAGE = {"ddpm": [], "vqgan": ["model.disc_start=0"]}  # the discriminators at work, as in most of the training
CACHED = "dataset.latents=always"
PERCEPTUAL = ["model.perceptual_weight=0.05", "model.perceptual_ckpt=random", "model.perceptual_every=1"]
# Dense bf16 FLOP/s by the maker's data sheets; the first name that a GPU's name contains (H200 is in GH200, too)
PEAK_FLOPS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12}

log = logging.getLogger(__name__)


def size(bench: Workbench, settings: Sequence[str]) -> dict[str, float]:
    """Parameters of the trained network, and GFLOP of its forward pass of one patch."""
    cfg = bench.settings(*settings)
    if bench.stage == "ddpm":
        found = denoiser_figures(cfg)
        return {"params_ours": found["unet3d_params"], "gflop_ours": found["unet3d_gflop"]}
    found = codec_figures(cfg)
    both = found["encoder_gflop"] + found["decoder_gflop"]
    return {"params_ours": found["vqgan_autoencoder_params"], "gflop_ours": both}


def speeds(bench: Workbench, device: torch.device, warmup: int, steps: int, settings: Sequence[str]) -> dict[str, Any]:
    """Training as configured, on cached latents in stage 2, with these settings besides."""
    log.info("training %s", " ".join(settings))
    cached = [CACHED] if bench.stage == "ddpm" else []
    result = train(bench, device, warmup, steps, [*cached, *settings]) | size(bench, settings)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    used = mfu(TRAINING_PASSES * 1e9 * result["gflop_ours"] * result["samples_per_s"], gpu)
    return result | used | {"batch_size": bench.settings(*settings).model.batch_size, "steps": steps, "gpu": gpu}


def mfu(flop_per_s: float, gpu: str) -> dict[str, float | None]:
    """Share of the GPU's dense bf16 peak that the network's own operations use, and that peak; None if unknown."""
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in gpu), None)
    return {"mfu": peak and flop_per_s / peak, "peak_flops": peak}


def variant(
    bench: Workbench, device: torch.device, warmup: int, steps: int, settings: str, beside_monai: bool
) -> dict[str, Any]:
    """The figures of `speeds` and of MONAI's UNet, as far as the memory sufficed."""
    found: dict[str, Any] = {}
    try:
        found |= speeds(bench, device, warmup, steps, settings.split())
        if beside_monai:
            found |= monai(bench, device, steps, settings.split())
    except torch.OutOfMemoryError as error:
        found["error"] = str(error)
    return found


def monai(bench: Workbench, device: torch.device, steps: int, settings: Sequence[str] = ()) -> dict[str, float]:
    """A step of our denoiser and of MONAI's UNet, in the training's precision."""
    log.info("beside MONAI's DiffusionModelUNet %s", " ".join(settings))
    free_memory(device)
    cfg = bench.settings(CACHED, "model.num_workers=0", *settings)
    module, data = bench.build(cfg)
    batch = next(iter(data.train_dataloader()))
    return against_monai.compare(module, batch, device, min(steps, MOST_BESIDE), cfg.trainer.precision)


def comparisons(
    bench: Workbench, device: torch.device, steps: int, wanted: Sequence[str], cached: Mapping[str, Any]
) -> dict[str, Any]:
    """Stage 2 in other ways, beside its figures on cached latents."""
    result: dict[str, Any] = {}
    if "onthefly" in wanted:
        log.info("the same with latents encoded on the fly")
        slow = train(bench, device, 1, min(steps, MOST_BESIDE), ["dataset.latents=never"])
        result["ratio_cached_over_onthefly"] = cached["samples_per_s"] / slow["samples_per_s"]
        result["samples_per_s_onthefly"] = slow["samples_per_s"]
    if "perceptual" in wanted:
        log.info("the same with the perceptual loss")
        result["ratio_perceptual"] = perceptual_ratio(bench, device, 1 / cached["it_per_s"], min(steps, MOST_BESIDE))
    if "monai" in wanted:
        result |= monai(bench, device, steps)
    return result


def perceptual_ratio(bench: Workbench, device: torch.device, seconds: float, steps: int) -> float:
    """Samples/s with the perceptual loss over those without, whose step takes `seconds`; one of `every` has it."""
    every = bench.settings().model.perceptual_every
    due = train(bench, device, 1, steps, [CACHED, *PERCEPTUAL])
    return every * seconds / ((every - 1) * seconds + 1 / due["it_per_s"])


def chosen(stage: str, names: Sequence[str]) -> list[str]:
    """The comparisons asked for; only stage 2 has any. UserError for a name or a stage that there is not."""
    if stage not in OF_STAGE:
        raise UserError(f"stage must be ddpm or vqgan, got {stage!r}")
    wanted = [name for name in names if name not in ("", "none")]
    if not set(wanted) <= set(COMPARISONS):
        raise UserError(f"compare takes any of {','.join(COMPARISONS)}, or none; got {','.join(names)}")
    return wanted if stage == "ddpm" else []


@benchmark("train_ddpm")
def main(
    overrides: list[str],
    stage: str = "ddpm",
    device: str = "auto",
    steps: int = 0,
    warmup: int = 0,
    compare: tuple[str, ...] = COMPARISONS,
    variants: str = "",
) -> dict[str, Any]:
    wanted, where = chosen(stage, compare), pick_device(device)
    on_gpu = where.type == "cuda"
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in (".*does not have many workers.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", message=message)
    before, timed = warmup or (20 if on_gpu else 1), steps or (100 if on_gpu else 3)
    with workbench(stage, [*OF_STAGE[stage], *([] if on_gpu else ON_CPU), *overrides]) as bench:
        result = speeds(bench, where, before, timed, [])
        log.info("%s", json.dumps({"stage": stage, **rounded(result)}))  # whatever becomes of the rest
        result |= comparisons(bench, where, timed, wanted, result)
        others: dict[str, Any] = {}
        for name in filter(None, variants.split(";")):
            others[name] = rounded(variant(bench, where, before, timed, name, "monai" in wanted))
            log.info("%s", json.dumps({"stage": stage, **rounded(result), "variants": others}))
        precision = bench.settings().trainer.precision
    command = " ".join(["python -m benchmarks.train_step", *sys.argv[1:]])
    about = {"command": command, "stage": stage, "device": str(where), "precision": precision} | stamp()
    several = {"variants": others} if others else {}
    return about | rounded(result) | several


def rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    """To four digits."""
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in figures.items()}


if __name__ == "__main__":
    main()
