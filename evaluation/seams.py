"""How visible seams are in a volume: of windows, whose borders may show and which differ where they overlap, and of
latent voxels, which a decoder may leave as blocks or repeat as a lattice."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from common.geometry import STEP, Triple, axis_starts

_FAINT = 0.0025  # of the window: detail below it is noise to the eye
_SLAB = 64  # slices whose gradients are taken at a time


def window_planes(size: int, window: int, stride: int) -> list[int]:
    """Where windows begin or end inside an axis: plane i lies between voxels i - 1 and i."""
    window = min(window, size)
    starts = axis_starts(size, window, min(stride, window))
    return sorted({edge for start in starts for edge in (start, start + window) if 0 < edge < size})


def plane_gradients(volume: NDArray, window: tuple[float, float] = (-np.inf, np.inf)) -> list[NDArray[np.float64]]:
    """Mean |gradient| across each plane of each axis of a volume (..., D, H, W), clipped to `window`.

    Plane i, between voxels i - 1 and i, is at i - 1 of its axis' values.
    """
    sums: list[list[NDArray[np.float64]]] = [[], [], []]
    for start in range(0, volume.shape[-3], _SLAB):
        slab = np.clip(volume[..., start : start + _SLAB + 1, :, :].astype(np.float32), *window)
        for axis in (-3, -2, -1):
            own = slab if axis == -3 else slab[..., :_SLAB, :, :]
            gradients = np.abs(np.moveaxis(np.diff(own, axis=axis), axis, 0))
            sums[axis].append(gradients.sum(tuple(range(1, volume.ndim)), dtype=np.float64))
    across = [np.concatenate(sums[-3]), np.sum(sums[-2], axis=0), np.sum(sums[-1], axis=0)]
    return [total * size / volume.size for total, size in zip(across, volume.shape[-3:], strict=True)]


def seam_index(volume: NDArray, planes: Sequence[Sequence[int]], step: int = 1) -> float:
    """Mean |gradient| across window planes over that across other planes, averaged over the axes that have both.

    Args:
        volume: floats (..., D, H, W).
        planes: of each axis, as `window_planes` gives them.
        step: only planes at multiples of it count; of a decoded volume those between latent voxels, so that the
            decoder's own pattern does not count as a seam.
    """
    return _index(plane_gradients(volume), planes, step)


def block_index(gradients: Sequence[NDArray[np.float64]]) -> float:
    """Mean |gradient| across planes between latent voxels over that across other planes, averaged over the axes.

    1: the decoder's blocks do not show; above, its latent voxels stand out like tiles.

    Args:
        gradients: of a CT as it was drawn or reconstructed, as `plane_gradients` gives them.
    """
    return _index(gradients, [range(STEP, len(across) + 1, STEP) for across in gradients], step=1)


def lattice_index(volume: NDArray, window: tuple[float, float]) -> float:
    """By how much more fine detail is like that two latent voxels on than like that a voxel nearer or farther.

    A difference of correlations, averaged over the axes: about 0 in real CTs and where there is no lattice, 1 and more
    where there is nothing else.

    Args:
        volume: (D, H, W). window: what it is clipped to.
    """
    values = np.clip(volume.astype(np.float32), *window)
    detail = values - uniform_filter(values, STEP + 1)
    strength = np.sqrt(gaussian_filter(detail**2, STEP))  # running sums, as of uniform_filter, may end below 0
    detail /= strength + _FAINT * (window[1] - window[0])
    detail /= np.sqrt(np.square(detail).mean(dtype=np.float64))
    nearer, there, farther = (_alike(detail, 2 * STEP + off) for off in (-1, 0, 1))
    return there - (nearer + farther) / 2


def _alike(detail: NDArray, lag: int) -> float:
    """Correlation of detail of unit root mean square with that `lag` voxels on, averaged over the axes."""
    along = (np.moveaxis(detail, axis, 0) for axis in range(3))
    return float(np.mean([(line[:-lag] * line[lag:]).mean(dtype=np.float64) for line in along]))


def gradient_energy(drawn: Sequence[NDArray[np.float64]], real: Sequence[NDArray[np.float64]]) -> float:
    """Mean |gradient| of one volume over that of another, averaged over the axes. Below 1: smoother.

    Args:
        drawn, real: as `plane_gradients` gives them.
    """
    return float(np.mean([a.mean() for a in drawn]) / np.mean([b.mean() for b in real]))


def _index(gradients: Sequence[NDArray[np.float64]], planes: Sequence[Sequence[int]], step: int) -> float:
    indices = []
    for across, on_axis in zip(gradients, planes, strict=True):
        size = len(across) + 1
        seams = [p for p in on_axis if 0 < p < size]
        others = sorted(set(range(step, size, step)) - set(seams))
        if seams and others:
            with np.errstate(invalid="ignore", divide="ignore"):  # a volume without gradients has no index
                indices.append(across[[p - 1 for p in seams]].mean() / across[[p - 1 for p in others]].mean())
    if not indices:
        sizes = tuple(len(across) + 1 for across in gradients)
        raise ValueError(f"no window begins or ends inside a volume of {sizes}: one window holds it")
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
