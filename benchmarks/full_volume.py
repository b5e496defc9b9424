"""What does a whole CT take? `python -m benchmarks.full_volume shape=[604,512,512] device=auto steps=30 networks=auto`

Draws one CT from one X-ray through the code that `sample_ddpm_patches.py` runs, files included, with random weights:
networks=guide are those of `model=ddpm_4gpu_patches` (the default on a GPU), networks=small those that a CPU can work
with. Further settings are those of train_ddpm_patches_4gpu.py, and with `vqgan.` before them those of
train_vqgan_patches_4gpu.py, e.g. `model=ddpm_4gpu_patches_8ch` or `vqgan.model.n_hiddens=4`.

The last line is one JSON object: seconds in all and per stage, peak memory (of the GPU, else of the process),
evaluations of the network, and how many times longer the guide's way takes: each window drawn apart in 1000 ancestral
steps, one at a time in the same precision, extrapolated from measured steps; the other stages are taken as ours.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from benchmarks.options import reports_mistakes, split
from benchmarks.random_model import write_random_model
from common.errors import UserError
from common.geometry import STEP, triple
from common.memory import peak_bytes
from common.voxel_file import VoxelFile
from dataset.scans.xray_io import write_xray
from ddpm.generator import Grid, SamplingPlan, XrayInput
from pipeline import cli
from pipeline.checkpoints import checkpoint
from pipeline.devices import pick_device
from pipeline.sampling.ct_sampler import CTSampler, Placement
from pipeline.sampling.files import write_sample

OPTIONS = {
    "shape": "[604,512,512]",
    "spacing": "[0.7,0.7,0.7]",
    "device": "auto",
    "networks": "auto",
    "steps": "30",
    "sampler": "ddim",
    "mode": "fused",
    "window_batch": "auto",
    "latent_device": "auto",
    "bf16": "${gpu_bf16:}",
    "out": "outputs/full_volume",
    "guide_steps": "1000",
    "measured_steps": "10",
}
PLAN = ("steps", "sampler", "mode", "window_batch", "latent_device", "bf16")


class Stopwatch:
    """Seconds of named stages; a GPU's work is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = self.now()
        yield
        self.seconds[name] = self.now() - started

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def chest_like(size: int = 512) -> np.ndarray:
    """A smooth picture (size, size) in [0, 1] that passes for an X-ray."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    lungs = np.exp(-(((np.abs(x) - 0.4) / 0.25) ** 2) - (y / 0.6) ** 2)
    return np.clip(0.8 - 0.6 * lungs - 0.2 * y, 0, 1)


def draw(model: CTSampler, xray_file: Path, output: Path, place: Placement, plan: SamplingPlan) -> dict[str, float]:
    """Draw and write one CT; seconds of each stage."""
    clock, shape = Stopwatch(model.generator.device), place.grid.shape
    with clock.stage("xray"):
        xray = model.load_xray(xray_file)
    with clock.stage("diffusion"):
        latent = model.generator.latent(xray, place.grid, plan, seed=0, progress=progress(model, place.grid, plan))
    with VoxelFile(shape, output.parent) as voxels:
        with clock.stage("decode"):
            for first, slab in model.slabs(latent, shape):
                voxels.write(first, slab)
        with clock.stage("write"):
            write_sample(output, voxels.read, place, xray.xray[0].numpy(), asdict(plan), {})
    return clock.seconds


def progress(model: CTSampler, grid: Grid, plan: SamplingPlan) -> Callable[[], None]:
    """Says now and then how far the drawing is."""
    total, started, done = model.evaluations(grid, plan), time.monotonic(), 0

    def tell() -> None:
        nonlocal done
        done += 1
        if done == 1 or done % max(1, total // 20) == 0:
            print(f"evaluation {done} of {total}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    return tell


def seconds_per_guide_step(model: CTSampler, xray: XrayInput, plan: SamplingPlan, steps: int) -> float:
    """One ancestral step of one window: the median of the times between evaluations of the network."""
    grid = Grid(triple([STEP * n for n in model.generator.window]), (1.0, 1.0, 1.0))
    clock = Stopwatch(model.generator.device)
    alone = replace(plan, steps=steps + 1, sampler="ddpm", mode="whole", window_batch=1)
    begun: list[float] = []
    model.generator.latent(xray, grid, alone, seed=0, progress=lambda: begun.append(clock.now()))
    return median(later - earlier for earlier, later in itertools.pairwise(begun))


def machine(device: torch.device) -> dict[str, object]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": name, "versions": checkpoint.versions(), "date": date.today().isoformat()}


def make_model(options: DictConfig, overrides: list[str], out: Path) -> CTSampler:
    """A model with random weights, written and loaded again; with an X-ray beside it."""
    if options.networks not in ("auto", "guide", "small"):
        raise UserError(f"networks must be auto, guide or small, got {options.networks!r}")
    on_cpu = pick_device(options.device).type == "cpu"
    small = options.networks == "small" or (options.networks == "auto" and on_cpu)
    write_random_model(out / "model.ckpt", small, overrides)
    write_xray(out / "xray.png", chest_like(), None, synthetic=True)
    return CTSampler(out / "model.ckpt", device=options.device)


def measure(model: CTSampler, options: DictConfig, out: Path) -> dict[str, object]:
    place = Placement.centred(list(options.shape), list(options.spacing))
    xray, device = model.load_xray(out / "xray.png"), model.generator.device
    wanted = SamplingPlan(**{key: options[key] for key in PLAN})
    plan = model.generator.settle(wanted, xray, place.grid)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    stages = draw(model, out / "xray.png", out / "ct.nii.gz", place, plan)
    peak, ours = peak_bytes(device) / 1e9, sum(stages.values())
    step = seconds_per_guide_step(model, xray, plan, options.measured_steps)
    windows = model.generator.windows(place.grid)
    guide = ours - stages["diffusion"] + options.guide_steps * windows * step
    return {
        "seconds": round(ours, 2),
        **{f"seconds_{name}": round(value, 2) for name, value in stages.items()},
        "peak_gb": round(peak, 2),
        "evaluations": model.evaluations(place.grid, plan),
        "windows": windows,
        "ratio_guide_over_ours": round(guide / ours, 1),
        "guide_seconds": round(guide, 1),
        "parameters": sum(p.numel() for p in model.generator.denoiser.parameters()),
        "shape_whd": list(nib.Nifti1Image.from_filename(out / "ct.nii.gz").shape),
        "file_mb": round((out / "ct.nii.gz").stat().st_size / 1e6, 1),
        "plan": asdict(plan),
    }


@reports_mistakes("train_ddpm")
def main() -> None:
    given, overrides = split(sys.argv[1:], OPTIONS)
    cli.register_resolvers()
    options = OmegaConf.from_dotlist([f"{key}={value}" for key, value in given.items()])
    out = Path(options.out)
    model = make_model(options, overrides, out)
    print(json.dumps(measure(model, options, out) | machine(model.generator.device)))


if __name__ == "__main__":
    main()
