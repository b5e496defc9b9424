"""What a drawing will take, before it begins: one call of the network and one decoded tile are measured."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from common.geometry import STEP, triple
from common.memory import peak_bytes
from ddpm import gpu_memory
from ddpm.plan import SamplingPlan, XrayInput
from pipeline.sampling.ct_sampler import CTSampler, Placement
from pipeline.sampling.files import bytes_on_disk

_GB = 1e9
_MB_PER_SECOND = 200  # packing and writing voxels, on one core


@dataclass(frozen=True)
class Estimate:
    """Of one CT. Memory in GB, times in seconds.

    evaluations: calls of the network, with `windows_per_call` windows each.
    latent_gb: the latent with its noise, sums and what a sampler's step makes of them, where `latents_on` says.
    network_gb: weights, activations of one call or of one tile's decoding, and on a CPU everything loaded so far.
    """

    latent: tuple[int, int, int, int]
    mode: str
    windows: int
    windows_per_call: int
    evaluations: int
    latents_on: str
    latent_gb: float
    network_gb: float
    disk_gb: float
    sampling_s: float
    decoding_s: float
    writing_s: float

    @property
    def total_s(self) -> float:
        return self.sampling_s + self.decoding_s + self.writing_s

    def lines(self) -> list[str]:
        """For a person to read."""
        size = " × ".join(str(n) for n in self.latent)
        per_call = f"{self.windows_per_call} at once" if self.mode == "fused" else "one at once"
        return [
            f"mode              {self.mode}",
            f"latent            {size} (C, D, H, W)",
            f"windows           {self.windows}, {per_call}",
            f"evaluations       {self.evaluations} of the network",
            f"memory, latents   {self.latent_gb:.2f} GB on {self.latents_on}",
            f"memory, networks  {self.network_gb:.2f} GB",
            f"disk              up to {self.disk_gb:.2f} GB",
            f"time per CT       {_duration(self.total_s)}: sampling {_duration(self.sampling_s)},"
            f" decoding {_duration(self.decoding_s)}, writing {_duration(self.writing_s)}",
        ]


def estimate(model: CTSampler, xray: XrayInput, place: Placement, plan: SamplingPlan, tile: int | str) -> Estimate:
    """Measure a call and a tile, multiply by how many there are. `plan` must be settled."""
    generator, grid, side = model.generator, place.grid, model.decoding(tile)[0]
    shape = generator.latent_shape(grid)
    latent = (generator.denoiser.latent_channels, *shape)
    evaluations = generator.evaluations(grid, plan)
    call = generator.window_of(xray, grid, plan)
    piece = torch.zeros(latent[0], *(min(n, side) for n in shape))
    call_s, call_bytes = _measure(call, generator.device)
    voxels = triple([STEP * n for n in piece.shape[1:]])
    tile_s, tile_bytes = _measure(lambda: next(model.slabs(piece, voxels, side)), generator.device)
    return Estimate(
        latent=latent,
        mode=plan.mode,
        windows=generator.windows(grid, plan.mode),
        windows_per_call=plan.windows_per_call,
        evaluations=evaluations,
        latents_on=plan.latent_device,
        latent_gb=gpu_memory.LATENT_COPIES * 4 * math.prod(latent) / _GB,
        network_gb=max(call_bytes, tile_bytes) / _GB,
        disk_gb=bytes_on_disk(grid.shape, 1) / _GB,
        sampling_s=evaluations * call_s,
        decoding_s=math.prod(-(-n // side) for n in shape) * tile_s,
        writing_s=bytes_on_disk(grid.shape, 1) / 1e6 / _MB_PER_SECOND,
    )


def _measure(run: Callable[[], Any], device: torch.device) -> tuple[float, int]:
    """Seconds of a second run, and the bytes held at the worst moment."""
    on_gpu = device.type == "cuda"
    run()  # the first one loads and chooses kernels
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    return seconds, peak_bytes(device)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
