"""Sizes, boxes and axes of volumes. Pure geometry without torch, which would load into every preparing process.

Sizes, starts and spacings are ordered (d, h, w) throughout.
"""

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
Region = tuple[Triple, Triple]  # first and one-past-last voxel
Slices = tuple[slice, slice, slice]

STEP = 4  # voxels per latent voxel and axis: the codec halves every axis twice


def triple(values: Any, name: str = "size") -> Triple:
    """Three whole numbers as a tuple; UserError if they are not."""
    d, h, w = _three(values, name, Integral, "whole numbers")
    return int(d), int(h), int(w)


def sizes(values: Any, name: str) -> Triple:
    """Three sizes in voxels as a tuple; UserError if they are not whole numbers above zero."""
    found = triple(values, name)
    if min(found) < 1:
        raise UserError(f"{name} needs three whole numbers > 0 (voxels) in the order d, h, w, got {list(found)}")
    return found


def lengths(values: Any, name: str = "spacing") -> Spacing:
    """Three lengths in mm, or one for all three axes, as a tuple; UserError if they are not all above zero."""
    three = (values,) * 3 if isinstance(values, Real) and not isinstance(values, bool) else values
    d, h, w = (float(v) for v in _three(three, name, Real, "lengths > 0 (mm)"))
    if not all(np.isfinite(v) and v > 0 for v in (d, h, w)):
        raise UserError(f"{name} needs three lengths > 0 (mm) in the order d, h, w, or one, got {values}")
    return d, h, w


def _three(values: Any, name: str, kind: Any, what: str) -> list[Any]:
    is_list = isinstance(values, Iterable) and not isinstance(values, str | bytes)
    found = list(values) if is_list else values
    if not is_list or len(found) != 3 or not all(isinstance(v, kind) and not isinstance(v, bool) for v in found):
        raise UserError(f"{name} needs three {what} in the order d, h, w, got {found!r}")
    return found


def slices(start: Iterable[int], size: Iterable[int]) -> Slices:
    """The box of `size` that begins at voxel `start`."""
    d, h, w = (slice(int(s), int(s) + int(n)) for s, n in zip(start, size, strict=True))
    return d, h, w


def box_around(mask: NDArray[np.bool_], margin: int = 0) -> Slices:
    """The smallest box that holds all that is True, and `margin` voxels more where the volume goes on; else empty."""
    ends = []
    for axis in range(3):
        held = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        ends.append((max(0, held[0] - margin), min(mask.shape[axis], held[-1] + 1 + margin)) if len(held) else (0, 0))
    d, h, w = (slice(int(first), int(last)) for first, last in ends)
    return d, h, w


def overlap(start: Triple, size: Triple, shape: Triple) -> tuple[Triple, Triple, Slices] | None:
    """What of a box lies inside a volume of `shape`: its first voxel and size there, and where it is in the box.

    None if nothing does.
    """
    low = [max(0, s) for s in start]
    high = [min(n, s + length) for n, s, length in zip(shape, start, size, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return None
    inside = triple([b - a for a, b in zip(low, high, strict=True)])
    return triple(low), inside, slices([a - s for a, s in zip(low, start, strict=True)], inside)


def axis_starts(size: int, patch: int, stride: int) -> list[int]:
    """First voxels of patches that cover an axis; the last patch is anchored at its end."""
    if not 0 < patch <= size:
        raise UserError(
            f"need 0 < patch <= size (voxels), got patch {patch} and size {size}; pad volumes smaller than a patch"
        )
    if not 0 < stride <= patch:
        raise UserError(f"need 0 < stride <= patch (voxels), got stride {stride} and patch {patch}")
    last = size - patch
    return [*range(0, last, stride), last]


def whole_latents(patch_size: Sequence[int]) -> Triple:
    """A patch size in voxels, if the codec's step divides it; UserError otherwise."""
    size = triple(patch_size, "patch_size")
    if any(n <= 0 or n % STEP for n in size):
        nearest = [max(STEP, round(n / STEP) * STEP) for n in size]
        raise UserError(
            f"patch_size must be multiples of {STEP} (the codec's downsampling), got {list(size)}; nearest is {nearest}"
        )
    return size


def padded_shape(shape: Triple, patch: Triple = (1, 1, 1)) -> Triple:
    """A volume's shape after padding at the high end to at least a patch and to a multiple of the codec's step."""
    d, h, w = (-(-max(n, p) // STEP) * STEP for n, p in zip(shape, patch, strict=True))
    return d, h, w


def latent_shape(shape: Triple, patch: Triple = (1, 1, 1)) -> Triple:
    """Latent voxels (d, h, w) of a volume, padded to hold a patch."""
    d, h, w = (n // STEP for n in padded_shape(shape, patch))
    return d, h, w


def three_quarters(patch: Sequence[int]) -> list[int]:
    """The stride that follows from a patch size: 25 % overlap, on whole latent voxels."""
    return [max(STEP, 3 * n // 4 // STEP * STEP) for n in patch]


def centres(size: int, step: float) -> NDArray[np.float64]:
    """Centres (size,) of an axis' voxels, in mm from the axis' middle."""
    return np.asarray((np.arange(size) - (size - 1) / 2) * step)


def axis_weights(size: int, step: float, at: NDArray, width: float | None = None) -> NDArray[np.float32]:
    """Linear resampling of an axis of `size` voxels, centred on 0, at the places `at` (n,): weights (n, size).

    Where the places lie further apart than the voxels, the triangle widens to their distance, so that nothing is
    skipped. Rows sum to 1 inside the axis (to half a voxel beyond the outer centres, where the last voxel counts) and
    are 0 outside. Lengths in mm.

    Args:
        width: half the triangle's base instead of the places' distance.
    """
    apart = abs(at[1] - at[0]) if len(at) > 1 else step
    half_base = max(step, float(apart)) if width is None else width
    inside = np.abs(at) <= size * step / 2 * (1 + 1e-9)  # rounding alone must not put a centre outside
    old = centres(size, step)
    nearest = np.clip(at, old[0], old[-1])
    weights = np.maximum(0, 1 - np.abs(nearest[:, None] - old[None]) / half_base)
    weights /= weights.sum(axis=1, keepdims=True)
    return (weights * inside[:, None]).astype(np.float32)
