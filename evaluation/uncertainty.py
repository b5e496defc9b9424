"""Does the spread of several drawn CTs tell how far off they are?

Where draws are as the truth could be, the truth lies about the mean of n draws as another draw would: its squared error
is (1 + 1/n) times their variance, and in units of their standard deviation it follows Student's t with n - 1 degrees of
freedom, if they are normal.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from evaluation.controls import Estimate, mean_of
from evaluation.metrics import Window

FEWEST_DRAWS = 4
LEVELS = (50, 80, 95)  # per cent of intervals
_EDGES = np.array([0.0, *np.geomspace(2, 1024, 19), np.inf])  # of the curve's bins, HU
_LEAST_HU = 1.0  # HU are whole numbers: a smaller spread is not told apart from it
_SLAB = 32  # slices at a time


def uncertainty(mean: NDArray, std: NDArray, real: NDArray, draws: int, window: Window) -> dict[str, Any]:
    """Of one case, over all voxels:

    calibration: root of the squared error over what the spread foretells; above 1, the spread is too narrow.
    coverage: by level, share of voxels whose interval holds the real HU. diversity_hu: root mean square spread.
    bins: by predicted error, counts, and sums of predicted and of found squared errors.

    Args:
        mean, std: (D, H, W) of `draws` CTs, HU; std with draws - 1. real: clipped to `window`, as they are.
    """
    counts, foretold, found = (np.zeros(len(_EDGES) - 1) for _ in range(3))
    inside, squares = np.zeros(len(LEVELS)), 0.0
    reach = [float(student.ppf(0.5 + level / 200, draws - 1)) for level in LEVELS]
    for first in range(0, len(mean), _SLAB):
        rows = slice(first, first + _SLAB)
        error = np.abs(np.clip(real[rows].astype(np.float64), *window) - mean[rows])
        spread = std[rows].astype(np.float64)
        squares += float(np.square(spread).sum())
        own = np.maximum(spread, _LEAST_HU) * np.sqrt(1 + 1 / draws)
        inside += [(error <= times * own).sum() for times in reach]
        which = (np.digitize(own, _EDGES) - 1).ravel()
        counts += np.bincount(which, minlength=len(counts))
        foretold += np.bincount(which, np.square(own).ravel(), len(counts))
        found += np.bincount(which, np.square(error).ravel(), len(counts))
    return {
        "calibration": float(np.sqrt(found.sum() / foretold.sum())),
        "coverage": {str(level): float(n / mean.size) for level, n in zip(LEVELS, inside, strict=True)},
        "diversity_hu": float(np.sqrt(squares / mean.size)),
        "bins": {"counts": counts.tolist(), "foretold": foretold.tolist(), "found": found.tolist()},
    }


def over_cases(cases: Sequence[Mapping[str, Any]], patients: Sequence[str], seed: int) -> dict[str, Any]:
    """Means of these over cases, by name; "ence", and "curve": root mean squares of predicted and of found errors.

    ence: expected normalised calibration error (Levi et al. 2019), |predicted - found| / predicted over the bins, each
    weighed by its voxels. Few draws tell a voxel's spread roughly, so it is not 0 even of a perfect sampler (0.4 of 5
    draws, below 0.05 of very many).
    """
    counts, foretold, found = (
        np.sum([case["bins"][key] for case in cases], 0) for key in ("counts", "foretold", "found")
    )
    seen = counts > 0
    predicted, true = (np.sqrt(some[seen] / counts[seen]) for some in (foretold, found))
    estimates: dict[str, Estimate] = {
        name: mean_of([case[name] for case in cases], patients, seed) for name in ("calibration", "diversity_hu")
    }
    estimates |= {
        f"coverage_{level}": mean_of([case["coverage"][str(level)] for case in cases], patients, seed)
        for level in LEVELS
    }
    return {
        **estimates,
        "ence": float(np.average(np.abs(predicted - true) / predicted, weights=counts[seen])),
        "curve": [predicted.tolist(), true.tolist()],
    }
