"""How fast does training go? `python -m benchmarks.train_step [stage=ddpm|vqgan] [device=cpu|cuda] [overrides]`

Trains with the script's own module, loader, Trainer and callbacks on phantom volumes made on the spot, at the sizes of
the preset (`model=...`), stage 1 with its discriminators at work. Options: `steps` timed after `warmup`; `compare`, any
of onthefly, perceptual, monai (stage 2; `compare=none`); `variants`, further settings to measure in the same process,
such as "model.batch_size=8;model.batch_size=8 model.channels_last=false". Progress goes to stderr, the last line is one
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
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.model_card import META, codec, denoiser, denoiser_gflop, gflop, parameters
from benchmarks.options import reports_mistakes, split
from benchmarks.timing import free_memory, mfu, train
from benchmarks.workbench import Workbench, workbench
from common.errors import UserError
from common.geometry import STEP
from pipeline.checkpoints import checkpoint
from pipeline.devices import pick_device

DEFAULTS = {
    "stage": "ddpm",
    "device": "auto",
    "steps": "",
    "warmup": "",
    "compare": "onthefly,perceptual,monai",
    "variants": "",
}
COMPARISONS = ("onthefly", "perceptual", "monai")
TRAINING_PASSES = 3  # forward, and twice as much backward
ON_CPU = ["model.precision=32-true", "model.num_workers=0"]
OF_STAGE: dict[str, list[str]] = {
    "ddpm": [],
    "vqgan": ["model.disc_start=0"],
}  # the discriminators at work, as in most of the training
CACHED = "dataset.latents=always"
PERCEPTUAL = ["model.perceptual_weight=0.05", "model.perceptual_ckpt=random", "model.perceptual_every=1"]

log = logging.getLogger(__name__)


def card(bench: Workbench, settings: list[str]) -> dict[str, Any]:
    """Parameters of the trained network, and GFLOP of its forward pass of one patch."""
    cfg = bench.settings(*settings)
    patch = list(cfg.model.patch_size)
    if bench.stage == "vqgan":
        vqgan = codec(cfg)
        code = torch.empty(1, vqgan.embedding_dim, *(n // STEP for n in patch), device=META)
        image = torch.empty(1, 1, *patch, device=META)
        both = gflop(lambda: vqgan.encode(image)) + gflop(lambda: vqgan.decode(code))
        return {"params_ours": parameters(vqgan), "gflop_ours": both}
    encoder = bench.xray_encoder(cfg)
    network = denoiser(cfg, encoder)
    return {
        "params_ours": parameters(network),
        "gflop_ours": denoiser_gflop(network, encoder, [n // STEP for n in patch]),
    }


def speeds(bench: Workbench, device: torch.device, warmup: int, steps: int, settings: list[str]) -> dict[str, Any]:
    """Training as configured, on cached latents in stage 2, with these settings besides."""
    log.info("training %s", " ".join(settings))
    speed = train(bench, device, warmup, steps, [*([CACHED] if bench.stage == "ddpm" else []), *settings])
    result = asdict(speed) | card(bench, settings)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    result["mfu"], result["peak_flops"] = mfu(TRAINING_PASSES * 1e9 * result["gflop_ours"], speed, gpu)
    return result | {"batch_size": bench.settings(*settings).model.batch_size, "steps": steps, "gpu": gpu}


def variant(bench: Workbench, device: torch.device, warmup: int, steps: int, settings: str) -> dict[str, Any]:
    """The figures of `speeds`, or that the memory did not suffice."""
    try:
        return speeds(bench, device, warmup, steps, settings.split())
    except torch.OutOfMemoryError as error:
        return {"error": str(error)}


def comparisons(
    bench: Workbench, device: torch.device, steps: int, wanted: Sequence[str], cached: Mapping[str, Any]
) -> dict[str, Any]:
    """Stage 2 in other ways, beside its figures on cached latents."""
    result: dict[str, Any] = {}
    if "onthefly" in wanted:
        log.info("the same with latents encoded on the fly")
        slow = train(bench, device, 1, min(steps, 20), ["dataset.latents=never"])
        result["ratio_cached_over_onthefly"] = cached["samples_per_s"] / slow.samples_per_s
        result["samples_per_s_onthefly"] = slow.samples_per_s
    if "perceptual" in wanted:
        log.info("the same with the perceptual loss")
        result["ratio_perceptual"] = perceptual_ratio(bench, device, 1 / cached["it_per_s"], min(steps, 20))
    if "monai" in wanted:
        log.info("beside MONAI's DiffusionModelUNet")
        from benchmarks.against_monai import compare  # here: MONAI is needed for nothing else

        free_memory(device)
        module, data = bench.build(bench.settings(CACHED, "model.num_workers=0"))
        result |= compare(module, next(iter(data.train_dataloader())), device, steps)
    return result


def perceptual_ratio(bench: Workbench, device: torch.device, seconds: float, steps: int) -> float:
    """Samples/s with the perceptual loss over those without, whose step takes `seconds`; one of `every` has it."""
    every = bench.settings().model.perceptual_every
    due = train(bench, device, 1, steps, [CACHED, *PERCEPTUAL])
    return every * seconds / ((every - 1) * seconds + 1 / due.it_per_s)


def chosen(stage: str, names: str) -> list[str]:
    """The comparisons asked for; only stage 2 has any.

    Raises:
        ValueError: a name that there is not.
    """
    wanted = [name for name in names.split(",") if name not in ("", "none")]
    if not set(wanted) <= set(COMPARISONS):
        raise UserError(f"compare takes any of {','.join(COMPARISONS)}, or none; got {names!r}")
    if "monai" in wanted and not all(map(find_spec, ("monai", "einops"))):
        raise UserError("compare=monai needs MONAI: pip install monai einops; or leave it out with compare=onthefly")
    return wanted if stage == "ddpm" else []


@reports_mistakes("train_ddpm")
def main() -> None:
    own, overrides = split(sys.argv[1:], DEFAULTS)
    if own["stage"] not in ("ddpm", "vqgan"):
        raise UserError(f"stage must be ddpm or vqgan, got {own['stage']!r}")
    wanted, device = chosen(own["stage"], own["compare"]), pick_device(own["device"])
    on_gpu = device.type == "cuda"
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in (".*does not have many workers.*", ".*LeafSpec.*"):
        warnings.filterwarnings("ignore", message=message)
    warmup, steps = int(own["warmup"] or (20 if on_gpu else 1)), int(own["steps"] or (100 if on_gpu else 3))
    defaults = [*OF_STAGE[own["stage"]], *([] if on_gpu else ON_CPU)]
    with workbench(own["stage"], [*defaults, *overrides]) as bench:
        result = speeds(bench, device, warmup, steps, [])
        log.info("%s", json.dumps(rounded(result)))  # whatever becomes of the rest
        result |= comparisons(bench, device, steps, wanted, result)
        others = {name: variant(bench, device, warmup, steps, name) for name in own["variants"].split(";") if name}
        precision = bench.settings().trainer.precision
    about = {
        "command": " ".join(["python -m benchmarks.train_step", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "stage": own["stage"],
        "device": str(device),
        "precision": precision,
        "versions": checkpoint.versions(),
    }
    variants = {"variants": {name: rounded(figures) for name, figures in others.items()}} if others else {}
    print(json.dumps(about | rounded(result) | variants))


def rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    """To four digits."""
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in figures.items()}


if __name__ == "__main__":
    main()
