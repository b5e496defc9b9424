"""Do borders of windows show? `python -m benchmarks.seams cases=8 draws=2 steps=20 realisations=8192 device=auto`

On a Gaussian field whose exact denoiser is known (`toy_*`) and on the demo's trained model and held-out patients
(`model_*`), for every mode of drawing. Other settings are those of run_demo.py, which trains the model into DEMO_DIR
(`dir=`) if it is not there. The last line is one JSON object.

Seam index: mean |gradient| across window planes over that across other planes, of HU in the window; the model's is
divided by that of the real CT, and counts planes between latent voxels only (see `benchmarks.seam_index`). 1: no seams.
Overlap variance: variance between draws where windows overlap over that elsewhere; the model's is divided by that of
its whole draws, since not every place is equally uncertain. 1: averaging windows loses nothing.
"""

import json
import sys
from collections.abc import Sequence
from statistics import mean

import torch
from tqdm import tqdm

from benchmarks import gaussian_field
from benchmarks.demo_model import Demo, HeldOut, as_unit
from benchmarks.options import reports_mistakes, split
from benchmarks.seam_index import overlap_variance, seam_index, times_covered, window_planes
from common.errors import UserError
from ddpm.generator import SamplingPlan
from pipeline.sampling.ct_sampler import CTSampler

OPTIONS = {"cases": "8", "draws": "2", "steps": "20", "realisations": "8192", "device": "auto"}
MODES = ("independent", "fused", "whole")
STEP = 4  # voxels per latent voxel


class Windows:
    """Where windows lie in the volume of one patient, in voxels."""

    def __init__(self, sampler: CTSampler, case: HeldOut) -> None:
        generator = sampler.generator
        latent = generator.latent_shape(case.grid)
        sizes = zip(latent, generator.window, generator.stride, strict=True)
        self.planes = [[STEP * plane for plane in window_planes(*axis)] for axis in sizes]
        covered = times_covered(latent, generator.window, generator.stride)
        for axis, size in enumerate(case.grid.shape):
            covered = covered.repeat_interleave(STEP, axis).narrow(axis, 0, size)
        self.covered = covered


def measure(sampler: CTSampler, case: HeldOut, draws: int, steps: int) -> dict[str, float]:
    """Seam indices and overlap variances of one patient."""
    windows, low_high = Windows(sampler, case), sampler.hu_window
    real = seam_index(as_unit(case.hu, low_high), windows.planes, STEP)
    index, variance = {}, {}
    for mode in MODES:
        plan = SamplingPlan(steps, mode=mode, window_batch=8)
        drawn = torch.stack(
            [as_unit(sampler.draw(case.xray, case.grid, plan, seed), low_high) for seed in range(draws)]
        )
        index[mode] = seam_index(drawn, windows.planes, STEP) / real
        variance[mode] = overlap_variance(drawn, windows.covered)
    ratios = {f"{mode}_overlap_variance": variance[mode] / variance["whole"] for mode in ("independent", "fused")}
    return index | ratios


def average(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    return {f"model_{name}": round(mean(m[name] for m in measured), 3) for name in measured[0]}


@reports_mistakes("demo")
def main() -> None:
    options, overrides = split(sys.argv[1:], OPTIONS)
    draws = int(options["draws"])
    if draws < 2:
        raise UserError(f"draws={draws}: a variance takes two or more")
    result: dict[str, object] = dict(gaussian_field.measure(int(options["realisations"])))
    demo = Demo(overrides, options["device"])
    cases = demo.held_out(int(options["cases"]))
    bar = tqdm(cases, desc="drawing", unit="patient", disable=not sys.stderr.isatty())
    measured = [measure(demo.sampler, case, draws, int(options["steps"])) for case in bar]
    result |= average(measured) | {"cases": len(cases), "draws": draws, "steps": int(options["steps"])}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
