"""Stored numbers -> HU as int16."""

from pathlib import Path

import numpy as np

from common.errors import BadFileError

MAX_VOXELS = 2**31  # 4 GB of int16; a chest CT has up to about 1024 x 1024 x 1000
_LIMITS = np.iinfo(np.int16)


def to_hu(stored: np.ndarray, path: Path, slope: float = 1.0, intercept: float = 0.0) -> np.ndarray:
    """stored * slope + intercept (x, y, z), rounded to int16 slice by slice to save memory.

    Raises:
        BadFileError: a voxel of `path` holds no number, or one that no CT has.
    """
    if stored.dtype == np.int16 and stored.dtype.isnative and (slope, intercept) == (1.0, 0.0):
        return stored
    out = np.empty(stored.shape, dtype=np.int16, order="F" if stored.flags.f_contiguous else "C")
    for index in range(stored.shape[-1]):
        hu = stored[..., index].astype(np.float64) * slope + intercept
        if not np.isfinite(hu).all():
            bad = np.count_nonzero(~np.isfinite(hu))
            found = f"NaN or infinity in {bad} voxel(s) at index {index} of the last axis"
            raise BadFileError(path, "a CT holds a number in every voxel", found, "Repair or leave out this scan.")
        if hu.min() < _LIMITS.min or hu.max() > _LIMITS.max:
            rule, found = f"HU lie in [{_LIMITS.min}, {_LIMITS.max}]", f"{hu.min():g} to {hu.max():g}"
            raise BadFileError(path, rule, found, "Check the rescale slope and intercept.")
        out[..., index] = np.rint(hu)
    return out
