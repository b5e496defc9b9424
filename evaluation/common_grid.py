"""One millimetre grid for volumes of different shape and spacing, so that any two of them can be compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.geometry import Spacing, Triple, axis_weights, centres
from common.voxel_file import ReadBox, box_of

_SLAB = 64  # slices read at a time


@dataclass(frozen=True)
class CommonGrid:
    """`shape` (D, H, W) voxels of `spacing` (d, h, w) mm, centred on each volume's own centre."""

    shape: Triple
    spacing: Spacing


def choose_grid(geometries: Sequence[tuple[Sequence[int], Sequence[float]]], max_size: int = 96) -> CommonGrid:
    """A grid that holds all cases: their largest extent, cubic voxels.

    The voxels' edge is the coarsest axis of the median spacing, made larger until the median extent has no more than
    `max_size` voxels along any axis, so that many volumes can be averaged on it.

    Args:
        geometries: (shape, spacing in mm) of each case, both in (d, h, w) order.
    """
    if not geometries:
        raise ValueError("a common grid needs at least one case, got none")
    shapes = np.array([shape for shape, _ in geometries], dtype=np.float64)
    spacings = np.array([spacing for _, spacing in geometries], dtype=np.float64)
    if shapes.shape != (len(geometries), 3) or spacings.shape != shapes.shape or not (spacings > 0).all():
        raise ValueError(f"each case needs three sizes and three spacings > 0 mm, got {list(geometries)}")
    extents = shapes * spacings
    edge = max(float(np.median(spacings, axis=0).max()), float(np.median(extents, axis=0).max()) / max_size)
    d, h, w = (math.ceil(float(extent) / edge - 1e-6) for extent in extents.max(axis=0))
    return CommonGrid((d, h, w), (edge, edge, edge))


def to_grid(
    hu: NDArray, spacing: Sequence[float], grid: CommonGrid, window: tuple[float, float]
) -> NDArray[np.float32]:
    """Resample a volume (D, H, W) in memory onto the grid, see `boxes_to_grid`."""
    if hu.ndim != 3 or len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"need a volume (D, H, W) and three spacings > 0 mm, got {hu.shape} and {spacing}")
    return boxes_to_grid(box_of(hu), hu.shape, spacing, grid, window)


def boxes_to_grid(
    read: ReadBox, shape: Sequence[int], spacing: Sequence[float], grid: CommonGrid, window: tuple[float, float]
) -> NDArray[np.float32]:
    """Resample a volume onto the grid; the volumes' centres coincide. It is read a few slices at a time.

    Trilinear; where the grid is coarser than the volume, the triangle widens to the grid's step
    (anti-aliasing). HU are clipped to `window` before, as generated volumes are. Outside the volume lies the
    window's floor.

    Args:
        read: boxes of a volume of `shape` (D, H, W) in HU, `spacing` in mm in the same order.
    Returns:
        float32 HU of shape `grid.shape`.
    """
    floor = np.float32(window[0])
    depth, height, width = (
        axis_weights(n, step, centres(new, new_step))
        for n, step, new, new_step in zip(shape, spacing, grid.shape, grid.spacing, strict=True)
    )
    total = np.full(grid.shape, floor)
    for first in range(0, shape[0], _SLAB):
        rows = min(_SLAB, shape[0] - first)
        slab = np.clip(read((first, 0, 0), (rows, shape[1], shape[2])).astype(np.float32), *window) - floor
        slab = height @ (slab @ width.T)
        for i, weights in enumerate(depth[:, first : first + rows]):  # one by one: `total` may be large
            near = np.flatnonzero(weights)
            if len(near):
                total[i] += np.tensordot(weights[near], slab[near], axes=1)
    return total
