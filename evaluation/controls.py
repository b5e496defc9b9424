"""Does the X-ray decide the CT? Scores with the right X-ray beside three controls.

A model that ignores its X-ray can still score well, because chests resemble each other. So every report sets
the score against CTs generated from other patients' X-rays, the mean training CT, and the codec's ceiling.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics import Window, psnr, ssim

Matrix = NDArray[np.float64]

NUM_DRAWS = 2000  # of the bootstrap
FEWEST_FOR_INTERVAL = 5  # redrawing fewer cases gives too few different draws


@dataclass(frozen=True)
class ControlScores:
    """One metric over all cases.

    Attributes:
        right: mean of g_i against its own c_i.
        shuffled: mean of g_i against c_j over all i != j.
        mean_volume: mean of the mean training volume against c_i; None without training cases.
        codec: mean of the codec's reconstruction r_i against c_i, the ceiling.
        difference: right - shuffled, with its 95 % bootstrap interval over cases (`low`, `high`), which are None for
            fewer than `FEWEST_FOR_INTERVAL` cases.
        matrix: [i][j] is g_i against c_j.
    """

    right: float
    shuffled: float
    mean_volume: float | None
    codec: float
    difference: float
    low: float | None
    high: float | None
    matrix: list[list[float]]


@dataclass(frozen=True)
class Controls:
    """PSNR (dB) and SSIM controls of `num_cases` cases, on HU clipped to `window`."""

    num_cases: int
    window: Window
    psnr: ControlScores
    ssim: ControlScores


def compare_with_controls(
    generated: Sequence[NDArray],
    real: Sequence[NDArray],
    mean_volume: NDArray | None,
    codec: Sequence[NDArray],
    window: Window,
    seed: int = 0,
) -> Controls:
    """Score every generated volume against every real one, and the controls.

    Args:
        generated, real, codec: HU volumes (D, H, W) of the same cases in the same order, on one common grid.
        mean_volume: mean of the training CTs on that grid; None where there are none.
        seed: of the bootstrap.
    """
    if not (len(generated) == len(real) == len(codec) >= 2):
        raise ValueError(
            "controls need the same two or more cases in all lists,"
            f" got {len(generated)} generated, {len(real)} real, {len(codec)} codec volumes"
        )
    scores = [_control_scores(metric, generated, real, mean_volume, codec, window, seed) for metric in (psnr, ssim)]
    return Controls(len(real), window, *scores)


def _control_scores(
    metric: Callable[[NDArray, NDArray, Window], float],
    generated: Sequence[NDArray],
    real: Sequence[NDArray],
    mean_volume: NDArray | None,
    codec: Sequence[NDArray],
    window: Window,
    seed: int,
) -> ControlScores:
    matrix = np.array([[metric(g, c, window) for c in real] for g in generated])
    right, shuffled = right_and_shuffled(matrix, np.ones((1, len(real))))
    low, high = bootstrap_interval(matrix, seed) if len(real) >= FEWEST_FOR_INTERVAL else (None, None)
    return ControlScores(
        right=float(right[0]),
        shuffled=float(shuffled[0]),
        mean_volume=None if mean_volume is None else float(np.mean([metric(mean_volume, c, window) for c in real])),
        codec=float(np.mean([metric(r, c, window) for r, c in zip(codec, real, strict=True)])),
        difference=float(right[0] - shuffled[0]),
        low=low,
        high=high,
        matrix=matrix.tolist(),
    )


def right_and_shuffled(matrix: Matrix, counts: Matrix) -> tuple[Matrix, Matrix]:
    """Mean of the diagonal and of the rest, (B,) each, when case i occurs counts[b, i] times.

    A case is never paired with its own copy.
    """
    cases = counts.sum(axis=1)
    right = counts @ np.diag(matrix) / cases
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0.0, matrix)
    pairs = cases**2 - (counts**2).sum(axis=1)
    return right, np.einsum("bi,ij,bj->b", counts, wrong, counts) / pairs


def bootstrap_interval(matrix: Matrix, seed: int) -> tuple[float, float]:
    """95 % interval of right minus shuffled. Cases are redrawn, so X-rays and CTs vary together."""
    num_cases = len(matrix)
    draws = np.random.default_rng(seed).integers(num_cases, size=(NUM_DRAWS, num_cases))
    counts = np.stack([np.bincount(draw, minlength=num_cases) for draw in draws]).astype(np.float64)
    counts = counts[(counts > 0).sum(axis=1) > 1]  # a draw of one case only holds no wrong pairing
    right, shuffled = right_and_shuffled(matrix, counts)
    low, high = np.percentile(right - shuffled, [2.5, 97.5])
    return float(low), float(high)


def correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's correlation, e.g. of generated and real lung volumes; None where it is undefined.

    Undefined: fewer than three cases, or one list constant.
    """
    if len(a) != len(b):
        raise ValueError(f"correlation needs lists of one length, got {len(a)} and {len(b)}")
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def finite(value: Any) -> Any:
    """Plain data with None in place of numbers that JSON does not have: infinite, or not a number."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
