"""Where the lungs lie on a frontal film, by rules: two dark fields beside one another, each with body all around."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from dataset.scans.camera import Matrix
from dataset.scans.film_view import open_field, shrunk

_SIZE = 128  # pixels of the longer side that is looked at
_RIM = 3  # of them: within so many of air or collimator, dark is skin
_LEAST, _MOST = 0.015, 0.30  # of the film, that one lung takes
_AT_THE_RIM = 0.15  # most of a lung's outline that lies there: more is air, or a lung that the film cuts
_BESIDE = 0.4  # least height that two lungs share, of the lower one
_ENDS = 0.3  # of the longest row or column of both: shorter ones are tips beside the diaphragm
_LEVELS = np.linspace(1.0, 0.4, 13)  # of Otsu's threshold above the darkest, tried in turn


def lungs_centre(film: np.ndarray) -> tuple[float, float] | None:
    """Centre (column, row) of the box around both lungs; None where they are not found.

    On films of 20 phantoms and of 12 real chests, whose breath is not the CT's (`benchmarks.film_pairs`), it finds the
    lungs of 23, the middle ones 3 mm beside the centre of the CT's lungs and 5 to 10 mm above or below it.

    Args:
        film: (h, w) in [0, 1], bright = dense, head up.
    """
    small = shrunk(film / max(float(np.percentile(film, 99.9)), 1e-6), _SIZE)
    scale = np.divide(film.shape, small.shape)
    inside = ndimage.binary_erosion(open_field(small), iterations=_RIM)
    if inside.mean() < 2 * _LEAST:
        return None
    smooth = ndimage.gaussian_filter(small, 1.5, mode="nearest")
    level, floor = float(threshold_otsu(smooth[inside])), float(np.percentile(smooth[inside], 1))
    for share in _LEVELS:
        lungs = _pair(smooth < floor + share * (level - floor), inside)
        if lungs is not None:
            column, row = (_middle(lungs.sum(axis)) for axis in (0, 1))
            return (column + 0.5) * scale[1] - 0.5, (row + 0.5) * scale[0] - 0.5
    return None


def lungs_on_film(film: np.ndarray, camera: Matrix) -> NDArray[np.float64] | None:
    """The place (x, y, z) in the patient's middle plane y = 0 that the centre of the lungs hides; None as above."""
    centre = lungs_centre(film)
    if centre is None:
        return None
    across = camera[:2] - np.outer(centre, camera[2])  # of points on the ray, 0
    x, z = np.linalg.solve(across[:, [0, 2]], -across[:, 3])
    return np.array([x, 0.0, z])


def _pair(dark: NDArray[np.bool_], inside: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The mask of the two largest dark fields that can be lungs of one patient."""
    pieces, count = ndimage.label(ndimage.binary_opening(dark & inside, iterations=3))
    rim = ndimage.binary_dilation(~inside)
    fields = []
    for number in range(1, count + 1):
        field = pieces == number
        outline = field & ~ndimage.binary_erosion(field, border_value=1)
        if _LEAST < field.mean() < _MOST and (field & rim).sum() < _AT_THE_RIM * max(outline.sum(), 1):
            fields.append(field)
    fields.sort(key=lambda field: -int(field.sum()))
    for i, one in enumerate(fields):
        for other in fields[:i]:
            if _beside(one, other):
                return ndimage.binary_fill_holes(one | other)
    return None


def _beside(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    rows, columns = ([np.flatnonzero(field.any(axis)) for field in (one, other)] for axis in (1, 0))
    shared = min(r[-1] for r in rows) - max(r[0] for r in rows)
    centres = [float(np.average(np.arange(one.shape[1]), weights=field.sum(0))) for field in (one, other)]
    widths = [len(c) for c in columns]
    return shared >= _BESIDE * min(len(r) for r in rows) and abs(centres[0] - centres[1]) > 0.4 * sum(widths)


def _middle(profile: Sequence[int]) -> float:
    found = np.flatnonzero(np.asarray(profile) > _ENDS * max(profile))
    return float(found[0] + found[-1]) / 2
