"""Organs measured in a chest CT by their HU alone, on real, phantom and generated volumes alike."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from common.geometry import box_around

_LUNG_HU = -430  # half way between lung and what surrounds it, so that blurred borders count half
_FREE_AIR_HU, _MOST = -930, 0.8  # above it lies most of a lung (0.9 and more), and less of air outside (up to 0.7)
_VESSEL_MM = 6.0  # vessels up to about twice as wide belong to the lung around them
_OPEN = 2.0  # voxels at the sides, as a share of size^(2/3): half a ball has 1.9, air along a side or in a corner more
_CORE_MM = 10.0  # so deep lies a pocket's core, though at most _CORE_DEPTH voxels; openings of twice that join nothing
_CORE_DEPTH = 2
_MEASURED_MM = 2.0
_SMALLEST_SHARE = 0.1  # of the larger lung; smaller pockets of air are stomach, bowel or airways


def lung_mask(hu: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Both lungs with the vessels in them.

    Air that is not spread along the sides of the volume, in pockets of at least a tenth of the largest, with its
    holes closed. A lung may touch a side, where the field of view cuts the body. The windpipe counts where it joins
    the lungs. A small opening in the chest wall joins no lung to the air outside.

    Args:
        hu: (D, H, W), axes foot -> head, front -> back, right -> left.
        spacing: (d, h, w) in mm.

    Returns:
        bool (D, H, W); all False where there is no such air.
    """
    return _lungs(hu, spacing)[0]


def _lungs(hu: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, int]:
    """The mask, and the voxels of air in lungs that it leaves out since they lie widely open to a side."""
    if hu.ndim != 3 or len(spacing) != 3:
        raise ValueError(f"need a CT (D, H, W) and a spacing (d, h, w), got {hu.shape} and {tuple(spacing)}")
    pockets = pockets_of(hu < _LUNG_HU, spacing)
    sizes = np.bincount(pockets.ravel())
    sides = (pockets[:, 0], pockets[:, -1], pockets[:, :, 0], pockets[:, :, -1])
    touching = np.bincount(np.concatenate([side.ravel() for side in sides]), minlength=len(sizes))
    outside = touching > _OPEN * sizes ** (2 / 3)
    outside[0] = True  # no air
    dense = ndimage.uniform_filter(hu.astype(np.float32), 3) > _FREE_AIR_HU
    of_lung = np.bincount(pockets[dense], minlength=len(sizes)) > _MOST * sizes
    cut = int(sizes[1:][(outside & of_lung)[1:]].sum())
    inner, _ = ndimage.label(~outside[pockets])
    sizes = np.bincount(inner.ravel())
    sizes[0] = 0
    lungs = (sizes >= max(1.0, _SMALLEST_SHARE * sizes.max()))[inner]
    return _closed(lungs, spacing), cut


def lung_volume_ml(hu: np.ndarray, spacing: Sequence[float]) -> float:
    """Volume of both lungs in ml, see `lung_mask`; NaN where the field of view cuts them so that it cannot be measured.

    Of voxels finer than 2 mm several are averaged: lungs are large.
    """
    coarse, edges = averaged(hu, spacing)
    mask, cut = _lungs(coarse, edges)
    if cut > _SMALLEST_SHARE * mask.sum():
        return float("nan")
    return float(mask.sum() * np.prod(edges) / 1000)


def averaged(
    hu: np.ndarray, spacing: Sequence[float], edge: float = _MEASURED_MM
) -> tuple[np.ndarray, tuple[float, ...]]:
    """The means of blocks of voxels that are about `edge` mm wide, and their spacing; coarser axes stay as they are."""
    steps = [max(1, round(edge / s)) for s in spacing]
    for axis, step in enumerate(steps):
        if step > 1:
            hu = np.moveaxis(_means(np.moveaxis(hu, axis, 0), step), 0, axis)
    return hu, tuple(float(n * s) for n, s in zip(steps, spacing, strict=True))


def _means(planes: np.ndarray, step: int) -> np.ndarray:
    """float32 means of every `step` planes (D, H, W), the last of those that are left."""
    sums = planes[::step].astype(np.float32)
    for place in range(1, step):
        further = planes[place::step]
        sums[: len(further)] += further
    counts = np.minimum(step, len(planes) - np.arange(0, len(planes), step))
    sums /= counts.astype(np.float32)[:, None, None]
    return sums


def pockets_of(air: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Labels from 1, int (D, H, W), of pockets of air that hang together by more than a thin opening; 0 elsewhere.

    All cores grow alike within the air; those alone in a piece of it have it whole.
    """
    depth = max(1, min(_CORE_DEPTH, round(_CORE_MM / min(spacing))))
    cores, count = ndimage.label(ndimage.binary_erosion(air, iterations=depth, border_value=1))
    pieces, number = ndimage.label(air)
    if count == 0:
        return pieces
    within = np.flatnonzero(cores)
    piece, core = pieces.ravel()[within], cores.ravel()[within]
    core_of, is_shared = np.zeros(number + 1, cores.dtype), np.zeros(number + 1, bool)
    core_of[piece] = core
    is_shared[piece[core_of[piece] != core]] = True
    pockets: np.ndarray = core_of[pieces]
    if is_shared.any():
        shared = is_shared[pieces]
        box = box_around(shared)
        shared = shared[box]
        grown = watershed(np.zeros(shared.shape, np.uint8), cores[box] * shared, mask=shared)
        pockets[box][shared] = grown[shared]
    return pockets


def _closed(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """The mask with gaps of a vessel's width closed and holes within a slice filled."""
    box = box_around(mask, 1)  # closing adds nothing outside of it
    if not mask[box].size:
        return mask
    reach = [max(1, round(_VESSEL_MM / s)) for s in spacing]
    padded = np.pad(mask[box], [(r, r) for r in reach], mode="edge")
    offsets = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
    ball = sum((o * s / _VESSEL_MM) ** 2 for o, s in zip(offsets, spacing, strict=True)) <= 1.0
    closed = ndimage.binary_closing(padded, ball)[tuple(slice(r, -r) for r in reach)]
    found = np.zeros_like(mask)
    found[box] = np.stack([ndimage.binary_fill_holes(plane) for plane in closed])
    return found
