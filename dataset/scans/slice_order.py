"""Slices of a CT that cannot belong where they are."""

import numpy as np

_SIDE = 64  # pixels of the thinned slices that are compared
_WINDOW = (-1000, 1000)  # HU: table, air and metal count no more than tissue
_RATIO = 1.25  # intact scans have 0.6 to 0.8, pure noise 1.0; two slices exchanged over 20 mm 1.4 to 7
_LEAST_HU = 5.0


def odd_slices(hu: np.ndarray) -> list[int]:
    """Indices of slices that differ from both neighbours far more than these differ from each other.

    Such a slice is misplaced, blank or damaged; anatomy and noise make neighbours that are two slices apart differ
    more. The first and the last slice are not judged.

    Args:
        hu: (D, H, W).
    """
    if len(hu) < 3:
        return []
    step = max(1, min(hu.shape[1:]) // _SIDE)
    thin = np.clip(hu[:, ::step, ::step], *_WINDOW).astype(np.float32).reshape(len(hu), -1)
    beside = np.abs(thin[1:] - thin[:-1]).mean(1)
    across = np.abs(thin[2:] - thin[:-2]).mean(1)
    alone = np.minimum(beside[:-1], beside[1:])
    return [int(index) + 1 for index in np.flatnonzero((alone > _RATIO * across) & (alone > _LEAST_HU))]
