"""Volumes whose axes do not stand at right angles, as a tilted gantry leaves them, on an upright grid."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from dataset.scans.resample import AIR_HU

HALF = 0.5  # of a voxel: noise of headers that moves no voxel further is no tilt, gap or drift
UPRIGHT_RULE = "the axes of a CT stand at right angles (no tilted gantry)"


def tilt_of(affine: np.ndarray, shape: Sequence[int]) -> tuple[float, float]:
    """How far from a right angle the axes stand, in degrees, and how far voxels at an end lie off for it, in mm.

    0 for both where that is not more than half a voxel. The shorter of two axes is counted, which would do to turn.

    Args:
        affine: (4, 4) to mm, of an array (x, y, z) of `shape`.
    """
    columns = affine[:3, :3]
    sizes = np.linalg.norm(columns, axis=0)
    extents = sizes * (np.array(shape[:3]) - 1)
    found = (0.0, 0.0)
    for i, j in combinations(range(3), 2):
        cosine = abs(float(columns[:, i] @ columns[:, j] / (sizes[i] * sizes[j])))
        off = cosine * min(extents[i], extents[j]) / 2
        if off > HALF * sizes.min() and off > found[1]:
            found = (float(np.degrees(np.arcsin(min(1.0, cosine)))), float(off))
    return found


def upright_grid(affine: np.ndarray, shape: Sequence[int]) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of what `to_upright` gives."""
    along, shears, low, count = _sheared(affine, shape)
    upright = affine.copy()
    upright[:3, :3] -= np.outer(affine[:3, along], shears)
    upright[:3, 3] += low * affine[:3, along]
    return tuple(count if axis == along else n for axis, n in enumerate(shape[:3])), upright


def to_upright(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The volume (x, y, z) on a grid along its head-foot axis, as the table moved, and its affine.

    Columns of voxels along that axis slide on it, by linear interpolation; the grid holds the whole of them.
    What lies outside the scan is `AIR_HU`, and lower values count as it.
    """
    along, shears, low, _ = _sheared(affine, array.shape)
    shape, upright = upright_grid(affine, array.shape)
    source, out = np.moveaxis(array, along, 0), np.empty(shape, dtype=np.int16, order="F")
    target = np.moveaxis(out, along, 0)
    u, v = (axis for axis in range(3) if axis != along)
    slide = shears[u] * np.arange(shape[u])[:, None] + shears[v] * np.arange(shape[v])
    last = len(source) - 1
    for index in range(len(target)):
        at = index + low - slide
        inside = (at >= -HALF) & (at <= last + HALF)
        at = at.clip(0, last)
        below = np.minimum(at.astype(int), max(0, last - 1))
        above = np.minimum(below + 1, last)
        first, second = (_picked(source, k) for k in (below, above))
        target[index] = np.where(inside, np.rint(first + (second - first) * (at - below)), AIR_HU)
    return out, upright


def _picked(source: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """float32 (u, v): of each column along the first axis the voxel of its index."""
    return np.take_along_axis(source, indices[None], 0)[0].clip(AIR_HU).astype(np.float32)


def _sheared(affine: np.ndarray, shape: Sequence[int]) -> tuple[int, np.ndarray, int, int]:
    """The axis nearest to head-foot, by how many of its voxels a voxel of each other one climbs along it, the first
    voxel along it that is needed, and how many there are then.
    """
    columns = affine[:3, :3]
    sizes = np.linalg.norm(columns, axis=0)
    along = int(np.argmax(np.abs(columns[2]) / sizes))
    shears = columns.T @ columns[:, along] / sizes[along] ** 2
    shears[along] = 0
    climbs = shears * (np.array(shape[:3]) - 1)
    low, high = (int(end) for end in (np.floor(climbs.clip(max=0).sum() + 1e-6), np.ceil(climbs.clip(0).sum() - 1e-6)))
    return along, shears, low, shape[along] + high - low
