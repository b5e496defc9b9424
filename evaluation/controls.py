"""Does the X-ray decide the CT? Scores with the right X-ray beside controls that change one thing each.

A model that ignores its X-ray can still score well, because chests resemble each other. So every case is drawn again on
its own grid and from the same noise, with the X-rays of other patients and with none, and the mean training CT is
offered for it, and the training CT whose X-ray is most alike. A model that sees no X-ray scores right - wrong = 0.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

CONTROLS = ("wrong", "null", "mean_volume", "lookup")
NUM_DRAWS = 2000  # of the bootstrap
FEWEST_FOR_INTERVAL = 5  # patients; redrawing fewer gives too few different draws


@dataclass(frozen=True)
class Estimate:
    """A value over patients with its 95 % bootstrap interval; None where there is none.

    `low` and `high` are None for fewer than `FEWEST_FOR_INTERVAL` patients.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ControlScores:
    """One score over all cases.

    means: of "right", of those of `CONTROLS` there are, and of "codec".
    differences: right minus each of `CONTROLS`, case by case.
    """

    means: dict[str, float]
    differences: dict[str, Estimate]


def wrong_xrays(patients: Sequence[str], count: int, seed: int) -> list[list[int]]:
    """For each case, the cases of other patients with whose X-rays it is drawn again.

    Patients form a ring in an order that follows from their names and the seed; a case takes the X-rays of the next
    `count` patients, or of as many as there are. So each patient's X-ray serves as often as any other's.

    Args:
        patients: of each case; of a patient with several cases, the first one's X-ray serves.
    """
    ring = sorted(set(patients), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    place, first = {name: i for i, name in enumerate(ring)}, {name: patients.index(name) for name in ring}
    steps = range(1, min(count, len(ring) - 1) + 1)
    return [[first[ring[(place[name] + step) % len(ring)]] for step in steps] for name in patients]


def compare_with_controls(
    scores: Mapping[str, Sequence[float]], patients: Sequence[str], seed: int = 0
) -> ControlScores:
    """Means and differences of one score.

    Args:
        scores: of each case, by what was compared with its real CT: "right" and some of `CONTROLS` and "codec".
        patients: of each case. seed: of the bootstrap.
    """
    right = np.asarray(scores["right"], dtype=np.float64)
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    with np.errstate(invalid="ignore"):  # two infinite PSNRs have no difference
        differences = {
            name: mean_of(right - np.asarray(scores[name]), patients, seed) for name in CONTROLS if name in scores
        }
    return ControlScores(means, differences)


def mean_of(values: Sequence[float] | Matrix, patients: Sequence[str], seed: int = 0) -> Estimate:
    """The mean over cases; patients are redrawn, each with all its cases."""
    return _estimate([np.ones(len(values)), values], patients, lambda sums: sums[:, 1] / sums[:, 0], seed)


def correlation(
    a: Sequence[float | None], b: Sequence[float | None], patients: Sequence[str], seed: int = 0
) -> Estimate:
    """Pearson's correlation, e.g. of drawn and real lung volumes; its value is None where it is undefined.

    Cases count that have both numbers: neither None nor NaN. Undefined: fewer than three of them, or one list constant.
    """
    if len(a) != len(b):
        raise ValueError(f"correlation needs lists of one length, got {len(a)} and {len(b)}")
    every = np.array([a, b], dtype=np.float64)
    known = np.flatnonzero(np.isfinite(every).all(0)).tolist()
    pairs = every[:, known]
    if len(known) < 3 or (np.ptp(pairs, 1) == 0).any():
        return Estimate(None)
    x, y = pairs - pairs.mean(1, keepdims=True)
    owners = [patients[i] for i in known]
    return _estimate([np.ones(len(x)), x, y, x * x, y * y, x * y], owners, _pearson, seed)


def _pearson(sums: Matrix) -> Matrix:
    """Correlations (B,) from sums (B, 6) of 1, x, y, xx, yy, xy."""
    n, x, y, xx, yy, xy = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw of one patient only has none
        found: Matrix = (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))
    return found


def _estimate(
    columns: Sequence[Sequence[float] | Matrix],
    patients: Sequence[str],
    statistic: Callable[[Matrix], Matrix],
    seed: int,
) -> Estimate:
    """A statistic of the columns' sums, with its interval.

    Args:
        columns: values of each case. patients: of each case. statistic: sums (B, columns) → (B,).
    """
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    sums = np.zeros((len(names), len(columns)))
    np.add.at(sums, owner, np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1))
    value = float(statistic(sums.sum(0)[None])[0])
    if len(names) < FEWEST_FOR_INTERVAL or math.isnan(value):
        return Estimate(value)
    draws = np.random.default_rng(seed).integers(len(names), size=(NUM_DRAWS, len(names)))
    found = statistic(sums[draws].sum(1))
    low, high = np.percentile(found[~np.isnan(found)], [2.5, 97.5], method="nearest")  # infinite ones among them
    return Estimate(value, float(low), float(high))


def finite(value: Any) -> Any:
    """Plain data with None in place of numbers that JSON does not have: infinite, or not a number."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
