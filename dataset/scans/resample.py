"""A CT on another grid: other voxel sizes around the same centre, or a box cut out of it."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from common.geometry import Triple, axis_weights, centres

AIR_HU = -1024  # lower values mark places outside the scan; they must not bleed into the body
_SLAB = 16  # output slices at a time: memory stays small


def resampled_shape(shape: Triple, spacing: Sequence[float], wanted: Sequence[float]) -> Triple:
    """Voxels (d, h, w) of size `wanted` that come closest to the extent of `shape` voxels of size `spacing`."""
    d, h, w = (max(1, round(n * a / b)) for n, a, b in zip(shape, spacing, wanted, strict=True))
    return d, h, w


def resample(hu: np.ndarray, affine: np.ndarray, wanted: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Linear resampling to voxels of `wanted` (d, h, w) mm; the volume's centre keeps its place in the world.

    Axes that become coarser are smoothed first, with the Gaussian of skimage.transform.resize. Beyond the outer
    voxel centres the volume goes on with their values. Values below `AIR_HU` count as `AIR_HU`.

    Args:
        hu: int16 (D, H, W). affine: (4, 4), voxel (w, h, d) -> RAS mm.

    Returns:
        int16 (D', H', W') and its affine.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[::-1]
    shape = resampled_shape((hu.shape[0], hu.shape[1], hu.shape[2]), spacing.tolist(), wanted)
    along_d, along_h, along_w = (
        _smoothing_weights(n, size, m, new) for n, size, m, new in zip(hu.shape, spacing, shape, wanted, strict=True)
    )
    out = np.empty(shape, dtype=np.int16)
    for start in range(0, shape[0], _SLAB):
        weights = along_d[start : start + _SLAB]
        used = np.flatnonzero(weights.any(0))
        slab = hu[used[0] : used[-1] + 1].clip(AIR_HU).astype(np.float32)
        coarse = np.tensordot(weights[:, used[0] : used[-1] + 1], slab, axes=1)
        out[start : start + _SLAB] = np.rint(along_h @ coarse @ along_w.T)
    return out, regridded(affine, hu.shape, shape, np.asarray(wanted, dtype=float) / spacing)


def cropped_affine(affine: np.ndarray, start: Triple) -> np.ndarray:
    """Affine of the part of a volume that begins at voxel `start` (d, h, w)."""
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ start[::-1]
    return moved


def regridded(affine: np.ndarray, old: Sequence[int], new: Sequence[int], factor: np.ndarray) -> np.ndarray:
    """`affine` for voxels `factor` (d, h, w) times as large, `new` of them instead of `old`, with the same centre."""
    centre = affine[:3, :3] @ ((np.array(old[::-1]) - 1) / 2) + affine[:3, 3]
    out = affine.copy()
    out[:3, :3] = affine[:3, :3] * factor[::-1]
    out[:3, 3] = centre - out[:3, :3] @ ((np.array(new[::-1]) - 1) / 2)
    return out


def _smoothing_weights(size: int, spacing: float, new_size: int, new_spacing: float) -> np.ndarray:
    """float32 (new_size, size): smoothing, then linear interpolation, both centred on the axis' middle."""
    at = centres(new_size, new_spacing).clip(-(size - 1) / 2 * spacing, (size - 1) / 2 * spacing)
    weights = axis_weights(size, spacing, at, width=spacing)
    sigma = max(0.0, (new_spacing / spacing - 1) / 2)
    if sigma > 0:
        # column j of `smooth` is what the filter makes of a unit at j: smooth @ x filters x
        smooth = ndimage.gaussian_filter1d(np.eye(size), sigma, axis=0, mode="nearest")
        weights = weights @ smooth
    return weights.astype(np.float32)
