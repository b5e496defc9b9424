"""How visible the borders of windows are in a volume: gradients across them, and variance where windows overlap."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.geometry import Triple, axis_starts


def window_planes(size: int, window: int, stride: int) -> list[int]:
    """Where windows begin or end inside an axis: plane i lies between voxels i - 1 and i."""
    window = min(window, size)
    starts = axis_starts(size, window, min(stride, window))
    return sorted({edge for start in starts for edge in (start, start + window) if 0 < edge < size})


def seam_index(volume: NDArray, planes: Sequence[Sequence[int]], step: int = 1) -> float:
    """Mean |gradient| across window planes over that across other planes, averaged over the axes that have both.

    Args:
        volume: floats (..., D, H, W).
        planes: of each axis, as `window_planes` gives them.
        step: only planes at multiples of it count; of a decoded volume those between latent voxels, so that the
            decoder's own pattern does not count as a seam.
    """
    indices = []
    for axis, on_axis in zip((-3, -2, -1), planes, strict=True):
        size = volume.shape[axis]
        gradients = np.abs(np.moveaxis(np.diff(volume, axis=axis), axis, 0))
        across = gradients.mean(tuple(range(1, volume.ndim)), dtype=np.float64)  # plane i at i - 1
        seams = [p for p in on_axis if 0 < p < size]
        others = [p for p in range(step, size, step) if p not in seams]
        if seams and others:
            indices.append(across[[p - 1 for p in seams]].mean() / across[[p - 1 for p in others]].mean())
    if not indices:
        raise ValueError(f"no window begins or ends inside a volume of {volume.shape}: one window holds it")
    return float(np.mean(indices))


def times_covered(shape: Triple, window: Triple, stride: Triple) -> NDArray[np.int64]:
    """By how many windows each voxel (D, H, W) is drawn."""
    counts = []
    for size, n, step in zip(shape, window, stride, strict=True):
        inside, count = min(n, size), np.zeros(size, np.int64)
        for start in axis_starts(size, inside, min(step, inside)):
            count[start : start + inside] += 1
        counts.append(count)
    return np.einsum("d,h,w->dhw", *counts)


def overlap_variance(draws: NDArray, covered: NDArray) -> float:
    """Variance between draws (N, D, H, W) where windows overlap, over that where one window alone draws.

    Both are means over voxels of the variance between draws; `covered` (D, H, W) as `times_covered` gives it.
    """
    variance = draws.var(0, ddof=1, dtype=np.float64)
    return float(variance[covered > 1].mean() / variance[covered == 1].mean())
