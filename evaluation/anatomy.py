"""Is the anatomy right? Regions and vessels of a CT compared with those of the real one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from numpy.typing import NDArray

from common.organs import averaged, lung_mask
from evaluation.controls import Estimate, correlation, mean_of
from evaluation.metrics import Window
from evaluation.regions import Mask, regions_of
from evaluation.vessels import vessels_in

_AS_THEY_ARE = (-np.inf, np.inf)
_VESSELS_MM = 1.5  # voxels that are finer are averaged, as are those below 2 mm for regions
_MEANS = ("dice", "hd95_mm", "hu_bias", "hu_spread")
OVER_CASES = (*_MEANS, "volume_error_ml", "volume_correlation")


def dice(a: Mask, b: Mask) -> float | None:
    """Twice what both hold over the sum of both; None where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else None


def hd95_mm(a: Mask, b: Mask, spacing: Sequence[float]) -> float | None:
    """95th percentile of the distances from each surface to the other, the larger of both; None where one is empty.

    MONAI's.
    """
    if not a.any() or not b.any():
        return None
    one, other = (torch.from_numpy(mask)[None, None] for mask in (a, b))
    found = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=list(spacing))
    return float(found)


def compare_masks(
    hu: NDArray,
    real: NDArray,
    masks: Mapping[str, Mask],
    real_masks: Mapping[str, Mask],
    spacing: Sequence[float],
    window: Window = _AS_THEY_ARE,
) -> dict[str, dict[str, float | None]]:
    """Of each region that both name: dice, hd95_mm, ml, ml_real, hu_bias, hu_spread.

    hu_bias and hu_spread: mean and standard deviation of drawn minus real HU in the real region; None without one.

    Args:
        hu, real: (D, H, W) of one grid. spacing: (d, h, w) in mm. window: what HU of both are clipped to.
    """
    ml, found = float(np.prod(spacing)) / 1000, {}
    for name in (name for name in real_masks if name in masks):
        mask, true = masks[name], real_masks[name]
        error = _clipped(hu[true], window).astype(np.float64) - _clipped(real[true], window)
        found[name] = {
            "dice": dice(mask, true),
            "hd95_mm": hd95_mm(mask, true, spacing),
            "ml": float(mask.sum()) * ml,
            "ml_real": float(true.sum()) * ml,
            "hu_bias": float(error.mean()) if error.size else None,
            "hu_spread": float(error.std()) if error.size else None,
        }
    return found


class RealAnatomy:
    """A real CT (D, H, W) of `spacing` mm, whose regions and vessels are found once; HU are clipped to `window`."""

    def __init__(self, hu: NDArray, spacing: Sequence[float], window: Window) -> None:
        self._window, self._spacing = window, spacing
        self._hu, self._edges = averaged(_clipped(hu, window), spacing)
        self._masks = regions_of(self._hu, self._edges)
        self.vessels = self._vessels(hu)

    def compare(self, hu: NDArray) -> dict[str, Any]:
        """A CT of the same grid: `regions` as `compare_masks` says, and its `vessels`."""
        coarse, _ = averaged(_clipped(hu, self._window), self._spacing)
        masks = regions_of(coarse, self._edges)
        return {
            "regions": compare_masks(coarse, self._hu, masks, self._masks, self._edges),
            "vessels": self._vessels(hu),
        }

    def _vessels(self, hu: NDArray) -> dict[str, float]:
        fine, edges = averaged(_clipped(hu, self._window), self._spacing, _VESSELS_MM)
        return asdict(vessels_in(fine, lung_mask(fine, edges), edges))


def over_cases(
    cases: Sequence[Mapping[str, Mapping[str, float | None]]], patients: Sequence[str], seed: int
) -> dict[str, dict[str, Estimate]]:
    """Of each region the numbers of `OVER_CASES`: means over the cases where there are such, and the correlation of
    volumes.

    Args:
        cases: of each case what `compare_masks` gave. patients: of each. seed: of the bootstrap.
    """
    found = {}
    for name in dict.fromkeys(name for case in cases for name in case):
        rows = [(case[name], patient) for case, patient in zip(cases, patients, strict=True) if name in case]
        found[name] = {
            key: mean_of(*_known([(row[key], owner) for row, owner in rows]), seed)
            for key in _MEANS
            if any(row[key] is not None for row, _ in rows)
        }
        drawn, real = ([row[key] or 0.0 for row, _ in rows] for key in ("ml", "ml_real"))
        owners = [owner for _, owner in rows]
        found[name]["volume_error_ml"] = mean_of(np.subtract(drawn, real), owners, seed)
        found[name]["volume_correlation"] = correlation(drawn, real, owners, seed)
    return found


def mean_vessels(cases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the cases of what `Vessels` counts."""
    return {name: float(np.mean([case[name] for case in cases])) for name in cases[0]}


def _clipped(hu: NDArray, window: Window) -> NDArray:
    low, high = window
    return np.clip(hu, np.float32(low), np.float32(high))  # of whole numbers float32: half of float64


def _known(values: Sequence[tuple[float | None, str]]) -> tuple[list[float], list[str]]:
    pairs = [(value, owner) for value, owner in values if value is not None]
    return [value for value, _ in pairs], [owner for _, owner in pairs]
