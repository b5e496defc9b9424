"""Do borders of windows show? `python -m benchmarks.seams cases=8 draws=2 steps=20 realisations=8192 device=auto`

On a Gaussian field whose exact denoiser is known (`toy_*`) and on the demo's trained model and held-out patients
(`model_*`), for every mode of drawing. Other settings are those of run_demo.py, which trains the model into DEMO_DIR
(`dir=`) if it is not there. The last line is one JSON object.

Seam index: mean |gradient| across window planes over that across other planes, of HU in the window; the model's is
divided by that of the real CT, and counts planes between latent voxels only (see `evaluation.seams`). 1: no seams.
Overlap variance: variance between draws where windows overlap over that elsewhere; the model's is divided by that of
its whole draws, since not every place is equally uncertain. 1: averaging windows loses nothing.
"""

from statistics import mean
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import gaussian_field
from benchmarks.command import benchmark
from benchmarks.decoded import window_faces
from benchmarks.demo_model import Demo, HeldOut
from common.errors import UserError
from common.geometry import STEP
from dataset.intensity import hu_to_unit
from ddpm.plan import SamplingPlan
from evaluation.seams import overlap_variance, seam_index, times_covered
from pipeline.sampling.ct_sampler import CTSampler

MODES = ("independent", "fused", "whole")


class Windows:
    """Where windows lie in the volume of one patient, in voxels."""

    def __init__(self, sampler: CTSampler, case: HeldOut) -> None:
        generator = sampler.generator
        self.planes = window_faces(generator, case.grid)
        covered = times_covered(generator.latent_shape(case.grid), generator.window, generator.stride)
        for axis, size in enumerate(case.grid.shape):
            covered = covered.repeat(STEP, axis).take(range(size), axis)
        self.covered = covered


def measure(sampler: CTSampler, case: HeldOut, draws: int, steps: int) -> dict[str, float]:
    """Seam indices and overlap variances of one patient."""
    windows, hu_window = Windows(sampler, case), sampler.hu_window
    real = seam_index(hu_to_unit(case.hu, hu_window), windows.planes, STEP)
    index, variance = {}, {}
    for mode in MODES:
        plan = SamplingPlan(steps, mode=mode, window_batch=8)
        drawn = np.stack([sampler.draw(case.xray, case.grid, plan, seed) for seed in range(draws)])
        drawn = hu_to_unit(drawn, hu_window)
        index[mode] = seam_index(drawn, windows.planes, STEP) / real
        variance[mode] = overlap_variance(drawn, windows.covered)
    return index | {f"{mode}_overlap_variance": variance[mode] / variance["whole"] for mode in MODES[:2]}


@benchmark("demo")
def main(
    overrides: list[str],
    cases: int = 8,
    draws: int = 2,
    steps: int = 20,
    realisations: int = 8192,
    device: str = "auto",
) -> dict[str, Any]:
    if draws < 2:
        raise UserError(f"draws={draws}: a variance takes two or more")
    toy = gaussian_field.measure(realisations)
    demo = Demo(overrides, device)
    held_out = tqdm(demo.held_out(cases), "drawing", unit="patient", disable=None)
    found = [measure(demo.sampler, case, draws, steps) for case in held_out]
    model = {f"model_{name}": round(mean(one[name] for one in found), 3) for name in found[0]}
    return toy | model | {"cases": len(found), "draws": draws, "steps": steps}


if __name__ == "__main__":
    main()
