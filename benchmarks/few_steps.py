"""What do few steps cost? `python -m benchmarks.few_steps few=30 many=250 cases=6 device=auto`

Draws held-out patients of the demo with each sampler at `few` evaluations of the network and with DDIM at `many`, from
the same noise. Other settings are those of run_demo.py, which trains the model into DEMO_DIR (`dir=`) if it is not
there. The last line is one JSON object: for each sampler the PSNR against the real CT with few and with many
evaluations (dB, HU clipped to the model's window), the mean squared gradient over that of the many-step draw (below 1:
smoother), and how many times fewer evaluations it takes.
"""

import json
import sys
from collections.abc import Mapping
from statistics import mean

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.demo_model import Demo, HeldOut, as_unit
from benchmarks.options import reports_mistakes, split
from ddpm.generator import SamplingPlan
from evaluation.metrics import psnr
from pipeline.sampling.ct_sampler import CTSampler

OPTIONS = {"few": "30", "many": "250", "cases": "6", "device": "auto"}
REFERENCE = "many"


def plans(few: int, many: int) -> dict[str, SamplingPlan]:
    """By name; all but the reference evaluate the network `few` times (Heun's method twice a step, but for two)."""
    steps = {"ddim": few, "dpmpp_2m": few, "heun": few // 2 + 1}
    chosen = {name: SamplingPlan(n, name, window_batch=8) for name, n in steps.items()}
    return chosen | {REFERENCE: SamplingPlan(many, "ddim", window_batch=8)}


def gradient_energy(volume: torch.Tensor) -> float:
    """Mean squared difference of neighbouring voxels (D, H, W), summed over the axes."""
    return float(sum(volume.diff(dim=axis).square().mean() for axis in range(3)))


def draw_all(sampler: CTSampler, case: HeldOut, named: Mapping[str, SamplingPlan]) -> dict[str, np.ndarray]:
    return {name: sampler.draw(case.xray, case.grid, plan, seed=0) for name, plan in named.items()}


def compare(demo: Demo, cases: list[HeldOut], named: Mapping[str, SamplingPlan]) -> dict[str, dict[str, float]]:
    """One entry per sampler, averaged over the patients."""
    window = demo.sampler.hu_window
    bar = tqdm(cases, desc="drawing", unit="patient", disable=not sys.stderr.isatty())
    drawn = [(case, draw_all(demo.sampler, case, named)) for case in bar]
    scores = {name: mean(psnr(draws[name], case.hu, window) for case, draws in drawn) for name in named}
    energy = {name: mean(gradient_energy(as_unit(draws[name], window)) for _, draws in drawn) for name in named}
    looks = {name: demo.sampler.evaluations(cases[0].grid, plan) for name, plan in named.items()}
    return {
        name: {
            "psnr_few": round(scores[name], 3),
            "psnr_many": round(scores[REFERENCE], 3),
            "gradient_energy_ratio": round(energy[name] / energy[REFERENCE], 4),
            "evaluations_ratio": round(looks[REFERENCE] / looks[name], 2),
        }
        for name in named
        if name != REFERENCE
    }


@reports_mistakes("demo")
def main() -> None:
    options, overrides = split(sys.argv[1:], OPTIONS)
    few, many = int(options["few"]), int(options["many"])
    demo = Demo(overrides, options["device"])
    cases = demo.held_out(int(options["cases"]))
    result = compare(demo, cases, plans(few, many))
    print(json.dumps({"samplers": result, "few": few, "many": many, "cases": len(cases)}))


if __name__ == "__main__":
    main()
