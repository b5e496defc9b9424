"""Cheap facts about a CT, from a copy thinned to about 4 mm."""

import hashlib

import numpy as np
from scipy import ndimage

from common.geometry import Region, Spacing, Triple, triple

HU_PERCENTILES = (0.5, 5, 25, 50, 75, 95, 99.5)
_THIN_MM = 4.0
_BODY_HU = -300  # above air and lung
_TABLE_OPENING = 2  # thinned voxels: removes sheets up to about 16 mm, such as the table


def thin_strides(spacing: Spacing) -> Triple:
    """Strides (d, h, w) that leave a voxel about every 4 mm."""
    d, h, w = (max(1, int(_THIN_MM / size)) for size in spacing)
    return d, h, w


def thinned(hu: np.ndarray, strides: Triple) -> np.ndarray:
    d, h, w = strides
    return np.ascontiguousarray(hu[::d, ::h, ::w])


def hu_percentiles(thin: np.ndarray) -> tuple[float, ...]:
    """HU at `HU_PERCENTILES`."""
    return tuple(float(value) for value in np.percentile(thin, HU_PERCENTILES))


def fingerprint(array: np.ndarray) -> str:
    """SHA-256 of shape and values: equal for equal arrays, however they were stored."""
    digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def body_of(hu: np.ndarray, spacing: Spacing) -> Region:
    """`body_box` of a volume (D, H, W)."""
    strides, (d, h, w) = thin_strides(spacing), hu.shape
    return body_box(thinned(hu, strides), strides, (d, h, w))


def body_box(thin: np.ndarray, strides: Triple, shape: Triple) -> Region:
    """First and one-past-last voxel (d, h, w) of the patient's body, with a margin of about 4 mm.

    The body is the largest connected tissue once thin sheets are gone; the whole volume if there is none.
    """
    opened = ndimage.binary_opening(np.pad(thin > _BODY_HU, _TABLE_OPENING, mode="edge"), iterations=_TABLE_OPENING)
    inner = (slice(_TABLE_OPENING, -_TABLE_OPENING),) * 3
    labels, count = ndimage.label(opened[inner])
    if count == 0:
        return (0, 0, 0), shape
    largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    found = ndimage.find_objects(labels, largest)[-1]
    starts = [max(0, (s.start - 1) * step) for s, step in zip(found, strides, strict=True)]
    stops = [min(n, (s.stop + 1) * step) for s, step, n in zip(found, strides, shape, strict=True)]
    return triple(starts), triple(stops)
