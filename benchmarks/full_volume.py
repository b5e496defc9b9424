"""What does a whole CT take? `python -m benchmarks.full_volume shape=[604,512,512] device=auto steps=30 networks=auto`

Draws one CT from one X-ray through the code that `sample_ddpm_patches.py` runs, files included, with random weights:
networks=guide are those of `model=ddpm_4gpu_patches` (the default on a GPU), networks=small those that a CPU can work
with. Further settings are those of sample_ddpm_patches.py and of train_ddpm_patches_4gpu.py, and with `vqgan.` before
them those of train_vqgan_patches_4gpu.py, e.g. `mode=whole`, `model=ddpm_4gpu_patches_8ch`, `vqgan.model.n_hiddens=4`.

The last line is one JSON object: seconds in all and per stage, peak memory (of the GPU, else of the process),
evaluations of the network, and how many times longer the guide's way takes: each window drawn apart in 1000 ancestral
steps, one at a time in the same precision, extrapolated from measured steps; the other stages are taken as ours
(measured_steps=0 leaves this out).

decodings=true: the latent's first quarter once more in float32 and float16, tiles of 32 and 64: seconds, GB, and which
share of voxels lies 1 HU or more apart.
compare=maisi: MONAI's MAISI draws a CT of the same shape on the same device, see benchmarks/against_maisi.py;
ratio_time, ratio_cpu_time (of the process, whatever else the machine does) and ratio_memory are what it takes per voxel
over what ours takes, for diffusion and decoding, which both have; memory on a CPU without what the process held before
it made its networks.
"""

import itertools
import json
import logging
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.command import benchmark, split
from benchmarks.measure import CpuClock, now, parameters, stamp
from benchmarks.networks import write_random_model
from benchmarks.timing import free_memory
from common.errors import UserError
from common.geometry import STEP, Triple, triple
from common.memory import forget_peak, peak_bytes, resident_bytes
from common.voxel_file import VoxelFile
from dataset.scans.xray_io import write_xray
from ddpm.plan import Grid, SamplingPlan, XrayInput
from pipeline.cli import composed
from pipeline.devices import pick_device
from pipeline.sampling.ct_sampler import CTSampler, Placement, plan_of
from pipeline.sampling.files import write_sample

SAMPLING = ["xray=x", "output=x", "shape=[604,512,512]", "spacing=[0.7,0.7,0.7]", "steps=30", "mode=fused"]
TILES = (32, 64)  # latent voxels
ALIVE = 0.02  # std of parameters that begin at 0

log = logging.getLogger(__name__)


def draw(
    model: CTSampler, xray_file: Path, output: Path, place: Placement, plan: SamplingPlan, busy: CpuClock
) -> tuple[dict[str, float], torch.Tensor]:
    """Draw and write one CT; seconds of each stage, and the latent. `busy` is entered for diffusion and decoding."""
    generator, device, shape = model.generator, model.generator.device, place.grid.shape
    begun = now(device)
    xray = model.load_xray(xray_file)
    seen = now(device)
    with (
        tqdm(total=generator.evaluations(place.grid, plan), desc="drawing", unit="evaluation", mininterval=5) as bar,
        busy,
    ):
        latent = generator.latent(xray, place.grid, plan, seed=0, progress=bar.update)
    drawn = now(device)
    with VoxelFile(shape, output.parent) as voxels:
        with busy:
            for first, slab in model.slabs(latent, shape):
                voxels.write(first, slab)
        decoded = now(device)
        write_sample(output, voxels.read, place, xray.xray[0].numpy(), asdict(plan), {})
    written = now(device)
    stages = {"xray": seen - begun, "diffusion": drawn - seen, "decode": decoded - drawn, "write": written - decoded}
    return stages, latent


def seconds_per_guide_step(model: CTSampler, xray: XrayInput, plan: SamplingPlan, steps: int) -> float:
    """One ancestral step of one window: the median of the times between evaluations of the network."""
    generator = model.generator
    grid = Grid(triple([STEP * n for n in generator.window]), (1.0, 1.0, 1.0))
    alone = replace(plan, steps=steps + 1, sampler="ddpm", mode="whole", window_batch=1)
    begun: list[float] = []
    generator.latent(xray, grid, alone, seed=0, progress=lambda: begun.append(now(generator.device)))
    return median(later - earlier for earlier, later in itertools.pairwise(begun))


def both_decodings(model: CTSampler, latent: torch.Tensor) -> dict[str, Any]:
    """Decoding in both precisions by the tile's side: seconds (the second time), GB at most, HU apart.

    The codec's parameters that begin at 0 become random: a fresh decoder adds nothing to its linear map.
    """
    generator, some = model.generator, latent[:, : -(-latent.shape[1] // 4)]
    for parameter in generator.get_submodule("codec").parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=ALIVE)
    low, high = model.hu_window
    found: dict[str, Any] = {}
    for tile, half in itertools.product(TILES, (False, True)):
        for _ in range(2):
            free_memory(generator.device)
            begun = now(generator.device)
            for _block in generator.decode(some, tile, half):
                pass
            seconds = now(generator.device) - begun
        name = f"{'float16' if half else 'float32'}, tiles of {tile}"
        found[name] = {"seconds": round(seconds, 3), "peak_gb": round(peak_bytes(generator.device) / 1e9, 2)}
    blocks = zip(generator.decode(some, TILES[0], False), generator.decode(some, TILES[0], True), strict=True)
    apart = [((exact - rounded).abs() * (high - low) / 2).cpu() for (_, exact), (_, rounded) in blocks]
    voxels = sum(hu.numel() for hu in apart)
    found["share_1hu_apart"] = sum(int((hu >= 1).sum()) for hu in apart) / voxels
    found["most_hu_apart"] = max(float(hu.max()) for hu in apart)
    return found


def beside_maisi(ours: dict[str, Any], shape: Triple, device: torch.device) -> dict[str, Any]:
    """MAISI's figures, of a process of its own, and how many times more it takes per voxel."""
    words = [f"shape={list(shape)}", f"device={device.type}", f"steps={ours['plan']['steps']}"]
    command = [sys.executable, "-m", "benchmarks.against_maisi", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    maisi = json.loads(done.stdout.splitlines()[-1])
    per_voxel = maisi["voxels"] / math.prod(shape)
    seconds = [f["seconds_diffusion"] + f["seconds_decode"] for f in (maisi, ours)]
    return {
        "maisi": maisi,
        "ratio_time": round(seconds[0] / seconds[1] / per_voxel, 2),
        "ratio_cpu_time": round(maisi["cpu_seconds"] / ours["cpu_seconds"] / per_voxel, 2),
        "ratio_memory": round(maisi["own_gb"] / ours["own_gb"] / per_voxel, 2),
    }


def measure(
    model: CTSampler, out: Path, place: Placement, wanted: SamplingPlan, guide_steps: int, measured_steps: int
) -> tuple[dict[str, Any], torch.Tensor]:
    """The figures, and the latent that was drawn."""
    generator, file = model.generator, out / "ct.nii.gz"
    device, xray = generator.device, model.load_xray(out / "xray.png")
    plan, windows = generator.settle(wanted, xray, place.grid), generator.windows(place.grid)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    busy = CpuClock()
    stages, latent = draw(model, out / "xray.png", file, place, plan, busy)
    peak, ours = peak_bytes(device), sum(stages.values())
    found = {
        "seconds": round(ours, 2),
        **{f"seconds_{name}": round(value, 2) for name, value in stages.items()},
        "cpu_seconds": round(busy.seconds, 2),
        "peak_gb": round(peak / 1e9, 2),
        "evaluations": model.generator.evaluations(place.grid, plan),
        "windows": windows,
        "parameters": parameters(generator.denoiser),
        "shape_whd": list(nib.Nifti1Image.from_filename(file).shape),
        "file_mb": round(file.stat().st_size / 1e6, 1),
        "plan": asdict(plan),
    }
    log.info("%s", json.dumps(found))  # whatever becomes of the rest
    if measured_steps:
        guides = guide_steps * windows * seconds_per_guide_step(model, xray, plan, measured_steps)
        guide = ours - stages["diffusion"] + guides
        found |= {"ratio_guide_over_ours": round(guide / ours, 1), "guide_seconds": round(guide, 1)}
    return found, latent


@benchmark("train_ddpm")
def main(
    overrides: list[str],
    networks: str = "auto",
    out: str = "outputs/full_volume",
    guide_steps: int = 1000,
    measured_steps: int = 10,
    decodings: bool = False,
    compare: str = "none",
) -> dict[str, Any]:
    if compare not in ("none", "maisi"):
        raise UserError(f"compare must be none or maisi, got {compare!r}")
    if networks not in ("auto", "guide", "small"):
        raise UserError(f"networks must be auto, guide or small, got {networks!r}")
    for_sampling, for_networks = split(overrides, composed("sample_ddpm", SAMPLING))
    cfg, folder = composed("sample_ddpm", [*SAMPLING, *for_sampling]), Path(out)
    device, place = pick_device(cfg.device), Placement.centred(cfg.shape, cfg.spacing)
    small = networks == "small" or (networks == "auto" and device.type == "cpu")
    write_random_model(folder / "model.ckpt", small, for_networks)
    write_xray(folder / "xray.png", np.random.default_rng(0).random((512, 512)), None, synthetic=True)
    if device.type == "cpu":
        forget_peak()
    before = resident_bytes() if device.type == "cpu" else 0
    model = CTSampler(folder / "model.ckpt", device=cfg.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    found, latent = measure(model, folder, place, plan_of(cfg), guide_steps, measured_steps)
    found |= {"device": name, "own_gb": round(found["peak_gb"] - before / 1e9, 2)}
    if decodings:
        found["decodings"] = both_decodings(model, latent)
        log.info("%s", json.dumps(found))
    if compare == "maisi":
        del model, latent
        free_memory(device)
        found |= beside_maisi(found, place.grid.shape, device)
    return found | stamp()


if __name__ == "__main__":
    main()
