"""What does a GPU do during a training step? `python -m benchmarks.profile_step [device=cuda] [overrides]`

Trains stage 2 as `benchmarks.train_step` does, with the overrides of train_ddpm_patches_4gpu.py, its last `profiled`
steps under torch.profiler. Options: `steps` timed after `warmup`; `whole`, a CT's size in voxels; `parts`, any of step,
stem, whole. What is found is said at once; the last line is one JSON object:

busy: share of a step's time in which the GPU computes: its kernels' time by the profiler, over the step's time without
    a profiler, which slows the process down. kernels: a step's launches. longest: kernels by their share of that time.
stem_ms: forward and backward pass of the UNet's first convolution by batch size and input channels, in bfloat16 on
    GPUs: does it pay to fill them up to a multiple of 8?
whole: one latent of a whole CT through the network, and a training step on it with checkpointing: seconds of a call,
    the X-ray's condition included, and of a step, GB at most, and the attention that was chosen (ops of torch).
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.against_monai import seconds_of_step
from benchmarks.command import benchmark
from benchmarks.measure import now, stamp
from benchmarks.timing import free_memory, train
from benchmarks.train_step import CACHED, ON_CPU, rounded
from benchmarks.workbench import Workbench, workbench
from common.errors import UserError
from common.geometry import STEP, sizes
from common.layers import use_channels_last
from common.memory import peak_bytes
from pipeline.devices import fast_float32, pick_device

PARTS = ("step", "stem", "whole")
LONGEST = 12
STEM_BATCHES = (2, 8, 32)
STEM_CHANNELS = (111, 112)  # 64 of the latent, 15 coordinates, 32 of the X-ray; and the next multiple of 8

log = logging.getLogger(__name__)


class KernelClock(pl.Callback):
    """Times training steps after `warmup`, then watches the last `profiled` ones with torch.profiler.

    Attributes:
        seconds: of a step without the profiler, the mean.
        kernels: name to (launches, ms) of a step.
    """

    def __init__(self, warmup: int, profiled: int) -> None:
        self.warmup, self.profiled, self.seconds = warmup, profiled, 0.0
        self.kernels: dict[str, tuple[float, float]] = {}
        self._begun = 0.0
        self._profiler: Any = None

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        device, profiled_from = trainer.strategy.root_device, trainer.max_steps - self.profiled
        if trainer.global_step == self.warmup:
            self._begun = now(device)
        elif trainer.global_step == profiled_from:
            self.seconds = (now(device) - self._begun) / (profiled_from - self.warmup)
            self._profiler = profile(activities=[_activity(device)])
            self._profiler.__enter__()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            now(trainer.strategy.root_device)
            self._profiler.__exit__(None, None, None)
            found = computed(self._profiler).items()
            self.kernels = {name: (n / self.profiled, ms / self.profiled) for name, (n, ms) in found}


def _activity(device: torch.device) -> ProfilerActivity:
    return ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU


def computed(profiler: Any) -> dict[str, tuple[int, float]]:
    """What a profiler saw a GPU do, copies too: name to (number, ms in all); without a GPU the CPU's operations."""
    events = profiler.key_averages()
    on_gpu = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    if on_gpu:
        return {e.key: (e.count, e.self_device_time_total / 1000) for e in on_gpu}
    return {e.key: (e.count, e.self_cpu_time_total / 1000) for e in events if e.key.startswith("aten::")}


def step_figures(bench: Workbench, device: torch.device, warmup: int, steps: int, profiled: int) -> dict[str, Any]:
    """How busy the GPU is in a step, and with what."""
    clock = KernelClock(warmup, profiled)
    train(bench, device, warmup, steps + profiled, [CACHED], [clock])
    total = sum(ms for _, ms in clock.kernels.values())
    longest = sorted(clock.kernels.items(), key=lambda item: -item[1][1])[:LONGEST]
    return {
        "busy": total / (1000 * clock.seconds),
        "step_ms": 1000 * clock.seconds,
        "kernel_ms": total,
        "kernels": sum(n for n, _ in clock.kernels.values()),
        "longest": {name[:100]: f"{ms / total:.1%} in {n:g}" for name, (n, ms) in longest},
    }


def stem_figures(bench: Workbench, device: torch.device, calls: int) -> dict[str, dict[str, float]]:
    """ms of a forward and backward pass of the UNet's first convolution, by batch size and input channels."""
    module, _ = bench.build(bench.settings(CACHED))
    stem = module.denoiser.unet.stem
    channels = sorted({stem.in_channels, *STEM_CHANNELS})
    size = [n // STEP for n in bench.settings().model.patch_size]
    found: dict[str, dict[str, float]] = {}
    for batch in STEM_BATCHES if device.type == "cuda" else (2,):
        for n in channels:
            x = torch.randn(batch, n, *size, device=device).contiguous(memory_format=torch.channels_last_3d)
            layer = nn.Conv3d(n, stem.out_channels, 3, padding=1).to(device)
            use_channels_last(layer)
            found.setdefault(f"batch {batch}", {})[f"{n} channels"] = pass_ms(layer, x, calls)
    return found


def pass_ms(layer: nn.Module, x: Tensor, calls: int) -> float:
    """Median of a forward and backward pass of a layer, the input's gradient included, as a training has it."""
    x.requires_grad_()

    def once() -> float:
        started = now(x.device)
        with half_precision(x.device):
            layer(x).sum().backward()
        return 1000 * (now(x.device) - started)

    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        return median([once() for _ in range(calls + 3)][3:])


@contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """bfloat16 on a GPU, float32 on a CPU."""
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        yield


def whole_figures(bench: Workbench, device: torch.device, whole: Sequence[int], calls: int) -> dict[str, Any]:
    """One latent of `whole` CT voxels through the network, and a training step on it."""
    free_memory(device)
    module, data = bench.build(bench.settings(CACHED, "model.num_workers=0", "model.checkpointing=true"))
    module.to(device)
    size = sizes([n // STEP for n in whole], "whole")
    batch = {k: v[:1].to(device) for k, v in next(iter(data.train_dataloader())).items() if isinstance(v, Tensor)}
    batch["latent"] = torch.randn(1, module.denoiser.latent_channels, *size, device=device)

    def loss() -> Tensor:
        with half_precision(device):
            return module.loss(batch)

    @torch.no_grad()
    def call() -> float:
        started = now(device)
        loss()
        return now(device) - started

    module.eval()
    found = {"latent": list(size), **watched("call", call, device, calls)}
    module.train()
    step = partial(seconds_of_step, loss, torch.optim.AdamW(module.denoiser.parameters(), lr=1e-4), device)
    return found | watched("step", step, device, calls)


def watched(name: str, run: Callable[[], float], device: torch.device, calls: int) -> dict[str, Any]:
    """Seconds that `run` tells (median after the first), GB at most, and which attention was chosen in one more."""
    free_memory(device)
    seconds = [run() for _ in range(calls + 1)][1:]
    peak = peak_bytes(device)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    ops = {e.key: e.count for e in profiler.key_averages() if "scaled_dot_product" in e.key or "attention" in e.key}
    return {f"{name}_s": median(seconds), f"{name}_gb": peak / 1e9, f"{name}_attention": ops}


@benchmark("train_ddpm")
def main(
    overrides: list[str],
    device: str = "auto",
    steps: int = 40,
    warmup: int = 15,
    profiled: int = 5,
    parts: tuple[str, ...] = PARTS,
    whole: tuple[int, ...] = (608, 512, 512),
    calls: int = 3,
) -> dict[str, Any]:
    if not set(parts) <= set(PARTS):
        raise UserError(f"parts takes any of {','.join(PARTS)}, got {','.join(parts)}")
    where = pick_device(device)
    fast_float32()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"}
    with workbench("ddpm", [*([] if where.type == "cuda" else ON_CPU), *overrides]) as bench:
        for part in parts:
            if part == "step":
                found |= rounded(step_figures(bench, where, warmup, steps, profiled))
            elif part == "stem":
                found["stem_ms"] = {k: rounded(v) for k, v in stem_figures(bench, where, 10 * calls).items()}
            else:
                found["whole"] = rounded(whole_figures(bench, where, whole, calls))
            log.info("%s", json.dumps(found))
    return found | stamp()


if __name__ == "__main__":
    main()
