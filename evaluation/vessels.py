"""The contrast-filled vessels within the lungs: how many, how long, how much of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

from common.geometry import box_around

VESSEL_HU = 100
DIAMETER_MM = 3.0

_AROUND = np.ones((3, 3, 3), np.uint8)
_HALF = [o for o in np.ndindex(3, 3, 3) if o > (1, 1, 1)]  # one of each two opposite neighbours


@dataclass(frozen=True)
class Vessels:
    """count: branches between forks and ends. length_mm: of the centre lines. volume_ml: of the vessels around them."""

    count: int
    length_mm: float
    volume_ml: float


def vessels_in(
    hu: NDArray, lung: NDArray[np.bool_], spacing: Sequence[float], diameter_mm: float = DIAMETER_MM
) -> Vessels:
    """Vessels of at least `diameter_mm`: voxels above `VESSEL_HU` in the lungs, their skeleton (Lee et al. 1994).

    A branch counts where twice the mean distance from its centre line to the wall is `diameter_mm` or more; a vessel's
    voxel belongs to the nearest of the skeleton. Lengths are those of the links between neighbouring voxels, up to 8 %
    more than those of straight lines. Thick slices make vessels of voxels that touch; compare CTs of one grid only.

    Args:
        hu, lung: (D, H, W). spacing: (d, h, w) in mm.
    """
    vessel = (hu > VESSEL_HU) & lung
    vessel = np.pad(vessel[box_around(vessel)], 1)  # beyond it nothing is nearer
    skeleton = skeletonize(vessel)
    if not skeleton.any():
        return Vessels(0, 0.0, 0.0)
    # a voxel's centre lies half a voxel within the wall, which the transform puts at the next centre outside
    radius = ndimage.distance_transform_edt(vessel, spacing) - min(spacing) / 2
    forks = skeleton & (ndimage.convolve(skeleton.astype(np.uint8), _AROUND, mode="constant") > 3)
    branches, count = ndimage.label(skeleton & ~forks, _AROUND)
    names = np.arange(1, count + 1)
    kept = names[2 * ndimage.mean(radius, branches, names) >= diameter_mm]
    wide = np.isin(branches, kept)
    wide |= forks & ndimage.binary_dilation(wide, _AROUND)
    nearest = ndimage.distance_transform_edt(~skeleton, spacing, return_distances=False, return_indices=True)
    volume = (wide[tuple(nearest)] & vessel).sum() * np.prod(spacing) / 1000
    return Vessels(len(kept), _length(wide, spacing), float(volume))


def _length(skeleton: NDArray[np.bool_], spacing: Sequence[float]) -> float:
    """mm of the links between neighbours; a link beside a shorter way round counts not: a fork has no triangles."""
    total = 0.0
    for offset in _HALF:
        step = np.subtract(offset, 1)
        linked = skeleton & np.roll(skeleton, tuple(-step), (0, 1, 2))  # nothing lies on the border
        axes = np.flatnonzero(step)
        if len(axes) > 1:
            for axis in axes:
                between = np.zeros(3, int)
                between[axis] = step[axis]
                linked &= ~np.roll(skeleton, tuple(-between), (0, 1, 2))
                if len(axes) == 3:
                    linked &= ~np.roll(skeleton, tuple(between - step), (0, 1, 2))
        total += float(linked.sum() * np.linalg.norm(step * np.asarray(spacing)))
    return total
