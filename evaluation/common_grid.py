"""One millimetre grid for volumes of different shape and spacing, so that any two of them can be compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.geometry import Spacing, Triple, axis_weights, centres

MIN_SIZE = 8  # voxels along an axis; SSIM needs 7


@dataclass(frozen=True)
class CommonGrid:
    """`shape` (D, H, W) voxels of `spacing` (d, h, w) mm, centred on each volume's own centre."""

    shape: Triple
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
        places = centres(grid.shape[axis], grid.spacing[axis])
        weights = axis_weights(hu.shape[axis], spacing[axis], places)
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values) + floor
