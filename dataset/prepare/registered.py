"""Where the film of a pair really stood: found on its own CT."""

import numpy as np

from common.geometry import Spacing
from dataset.scans.camera import Matrix
from dataset.scans.registration import LEAST_SCORE, Registration, check_pair, fits_better, register
from dataset.scans.resample import resample
from dataset.store.case import Problem

_RULE = "a film shows what its CT shows"
_VOXEL_MM, _READ_MM = 4.5, 3.0


def registered(
    patient_id: str, path: str, square: np.ndarray, hu: np.ndarray, spacing: Spacing, declared: Matrix
) -> tuple[Registration, list[Problem]]:
    """The camera of a film (h, w) on its CT, int16 (D, H, W), by `register`; a problem, not fatal, if it is not found.

    path: the X-ray's, for the problem.
    """
    thin, step = _thinned(hu, spacing)
    found = register(square, thin, step, declared)
    if found.ok:
        return found, []
    better = fits_better(check_pair(square, thin, step, declared))
    told = f"a likeness of {found.score:.2f}, not {LEAST_SCORE} or more"
    told += f"; taken for {better} it fits better" if better else ""
    remedy = "Check that both are one patient's, the film upright and not mirrored. Its declared geometry is used."
    return found, [Problem(patient_id, path, _RULE, told, remedy, fatal=False)]


def _thinned(hu: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, Spacing]:
    """The CT around the same middle at about 4.5 mm, smoothed from voxels of up to 3 mm of it."""
    every = [max(1, int(_READ_MM / size)) for size in spacing]
    part = hu[tuple(slice((n - 1) % k // 2, None, k) for n, k in zip(hu.shape, every, strict=True))]
    read = np.multiply(spacing, every)
    d, h, w = (float(size) for size in np.maximum(read, _VOXEL_MM))
    return resample(part, np.diag([*read[::-1], 1.0]), (d, h, w))[0], (d, h, w)
