"""What does it cost to score a pair of full size? `python -m benchmarks.score_cost [depth=604] [side=512]`

A phantom chest resampled to `depth` slices of `side`×`side` pixels and the same with noise stand for the real and the
drawn CT. The last line is one JSON object: seconds of CPU and on the clock of each score and of the regions, their
sums, and peak_gb, of the process with both volumes (int16) in memory.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import zoom

from benchmarks.command import benchmark
from benchmarks.measure import stamp
from common.memory import forget_peak, peak_bytes
from dataset.phantom.thorax import make_phantom
from evaluation.anatomy import RealAnatomy
from evaluation.metrics import PRESETS, hu_mae, psnr, slice_psnr, ssim

WINDOW = (-1000.0, 1000.0)
EXTENT_MM = (422.8, 358.4, 358.4)  # of 604×512×512 voxels of 0.7 mm


def pair(depth: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """int16 HU (depth, side, side), real and drawn."""
    small = make_phantom(0, (96, 80, 80), tuple(e / n for e, n in zip(EXTENT_MM, (96, 80, 80), strict=True))).hu
    factors = [n / m for n, m in zip((depth, side, side), small.shape, strict=True)]
    real = zoom(small.astype(np.float32), factors, order=1, output=np.int16)
    noise = np.random.default_rng(0).normal(0, 40, (side, side)).astype(np.int16)
    return real, real + noise


@benchmark()
def main(depth: int = 604, side: int = 512) -> dict[str, Any]:
    real, drawn = pair(depth, side)
    spacing = [e / n for e, n in zip(EXTENT_MM, real.shape, strict=True)]
    compat = PRESETS["x2ct_compat"]
    scores: dict[str, Callable[[], Any]] = {
        "psnr_slices": lambda: slice_psnr(drawn, real, compat.window, compat.data_range),
        "psnr_3d": lambda: psnr(drawn, real, WINDOW),
        "ssim_3d": lambda: ssim(drawn, real, WINDOW),
        "mae": lambda: hu_mae(drawn, real, WINDOW),
        "regions": lambda: RealAnatomy(real, spacing, WINDOW).compare(drawn),
    }
    forget_peak()
    cpu, clock = {}, {}
    for name, score in scores.items():
        began = time.process_time(), time.perf_counter()
        score()
        cpu[name], clock[name] = time.process_time() - began[0], time.perf_counter() - began[1]
    return {
        "shape": list(real.shape),
        "cpu_s": sum(cpu.values()),
        "seconds": sum(clock.values()),
        "peak_gb": peak_bytes() / 1e9,
        "cpu_s_by_score": cpu,
        "seconds_by_score": clock,
    } | stamp()


if __name__ == "__main__":
    main()
