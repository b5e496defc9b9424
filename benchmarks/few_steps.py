"""What do few steps cost? `python -m benchmarks.few_steps few=30 many=250 cases=6 device=auto`

Draws held-out patients of the demo with each sampler at `few` evaluations of the network and with DDIM at `many`, from
the same noise. Other settings are those of run_demo.py, which trains the model into DEMO_DIR (`dir=`) if it is not
there. The last line is one JSON object: for each sampler the PSNR against the real CT with few and with many
evaluations (dB, HU clipped to the model's window), the mean squared gradient over that of the many-step draw (below 1:
smoother), and how many times fewer evaluations it takes.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.command import benchmark
from benchmarks.demo_model import Demo, HeldOut
from dataset.intensity import hu_to_unit
from ddpm.plan import SamplingPlan
from evaluation.metrics import psnr
from pipeline.sampling.ct_sampler import CTSampler

REFERENCE = "many"


def plans(few: int, many: int) -> dict[str, SamplingPlan]:
    """By name; all but the reference evaluate the network `few` times (Heun's method twice a step, but for two)."""
    steps = {"ddim": few, "dpmpp_2m": few, "heun": few // 2 + 1}
    chosen = {name: SamplingPlan(n, name, "fused", window_batch=8) for name, n in steps.items()}
    return chosen | {REFERENCE: SamplingPlan(many, "ddim", "fused", window_batch=8)}


def squared_slopes(volume: np.ndarray) -> float:
    """Mean squared difference of neighbouring voxels (D, H, W), summed over the axes."""
    return float(sum(np.square(np.diff(volume, axis=axis)).mean() for axis in range(3)))


def compare(
    sampler: CTSampler, cases: Sequence[HeldOut], named: Mapping[str, SamplingPlan]
) -> dict[str, dict[str, float]]:
    """One entry per sampler, averaged over the patients."""
    window = sampler.hu_window
    scores: dict[str, list[float]] = {name: [] for name in named}
    energies: dict[str, list[float]] = {name: [] for name in named}
    for case in tqdm(cases, "drawing", unit="patient", disable=None):
        for name, plan in named.items():
            hu = sampler.draw(case.xray, case.grid, plan, seed=0)
            scores[name].append(psnr(hu, case.hu, window))
            energies[name].append(squared_slopes(hu_to_unit(hu, window)))
    looks = {name: sampler.generator.evaluations(cases[0].grid, plan) for name, plan in named.items()}
    return {
        name: {
            "psnr_few": round(mean(scores[name]), 3),
            "psnr_many": round(mean(scores[REFERENCE]), 3),
            "gradient_energy_ratio": round(mean(energies[name]) / mean(energies[REFERENCE]), 4),
            "evaluations_ratio": round(looks[REFERENCE] / looks[name], 2),
        }
        for name in named
        if name != REFERENCE
    }


@benchmark("demo")
def main(overrides: list[str], few: int = 30, many: int = 250, cases: int = 6, device: str = "auto") -> dict[str, Any]:
    demo = Demo(overrides, device)
    held_out = demo.held_out(cases)
    result = compare(demo.sampler, held_out, plans(few, many))
    return {"samplers": result, "few": few, "many": many, "cases": len(held_out)}


if __name__ == "__main__":
    main()
