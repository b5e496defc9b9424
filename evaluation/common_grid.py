"""One millimetre grid for volumes of different shape and spacing, so that any two of them can be compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

MIN_SIZE = 8  # voxels along an axis; SSIM needs 7


@dataclass(frozen=True)
class CommonGrid:
    """`shape` (D, H, W) voxels of `spacing` (d, h, w) mm, centred on each volume's own centre."""

    shape: Shape
    spacing: Spacing


def choose_grid(geometries: Sequence[tuple[Sequence[int], Sequence[float]]], max_size: int = 96) -> CommonGrid:
    """A grid on which all cases can be compared: their median extent, cubic voxels.

    The voxels' edge is the coarsest axis of the median spacing, made larger until no axis has more than
    `max_size` voxels, so that every pairing of many volumes stays affordable.

    Args:
        geometries: (shape, spacing in mm) of each case, both in (d, h, w) order.
    """
    if not geometries:
        raise ValueError("a common grid needs at least one case, got none")
    shapes = np.array([shape for shape, _ in geometries], dtype=np.float64)
    spacings = np.array([spacing for _, spacing in geometries], dtype=np.float64)
    if shapes.shape != (len(geometries), 3) or spacings.shape != shapes.shape or not (spacings > 0).all():
        raise ValueError(f"each case needs three sizes and three spacings > 0 mm, got {list(geometries)}")
    extent = np.median(shapes * spacings, axis=0)
    edge = max(float(np.median(spacings, axis=0).max()), float(extent.max()) / max_size)
    edge = math.ceil(edge * 100 - 1e-6) / 100  # a round number of 0.01 mm reads better in a report
    d, h, w = (max(MIN_SIZE, round(float(e) / edge)) for e in extent)
    return CommonGrid((d, h, w), (edge, edge, edge))


def to_grid(
    hu: NDArray, spacing: Sequence[float], grid: CommonGrid, window: tuple[float, float]
) -> NDArray[np.float32]:
    """Resample a volume onto the grid; the volumes' centres coincide.

    Trilinear; where the grid is coarser than the volume, the triangle widens to the grid's step
    (anti-aliasing). HU are clipped to `window` before, as generated volumes are. Outside the volume lies the
    window's floor.

    Args:
        hu: (D, H, W) in HU, `spacing` in mm in the same order.
    Returns:
        float32 HU of shape `grid.shape`.
    """
    if hu.ndim != 3 or len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"need a volume (D, H, W) and three spacings > 0 mm, got {hu.shape} and {spacing}")
    floor = np.float32(window[0])
    values = np.clip(hu.astype(np.float32), *window) - floor
    for axis in range(3):
        weights = axis_weights(hu.shape[axis], spacing[axis], grid.shape[axis], grid.spacing[axis])
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values) + floor


def axis_weights(size: int, step: float, new_size: int, new_step: float) -> NDArray[np.float32]:
    """(new_size, size): how much each old voxel adds to each new one along an axis.

    Rows sum to 1, or are 0 where the new voxel's centre lies outside the old extent. Steps in mm.
    """
    old = (np.arange(size) - (size - 1) / 2) * step
    new = (np.arange(new_size) - (new_size - 1) / 2) * new_step
    inside = np.abs(new) <= size * step / 2 * (1 + 1e-9)  # rounding alone must not put a centre outside
    nearest = np.clip(new, old[0], old[-1])  # up to half a voxel beyond the last centre, the last voxel counts
    weights = np.maximum(0, 1 - np.abs(nearest[:, None] - old[None]) / max(step, new_step))
    weights = weights / weights.sum(axis=1, keepdims=True) * inside[:, None]
    return weights.astype(np.float32)
