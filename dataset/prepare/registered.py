"""Where the film of a pair really stood, found on its own CT, and whether X-ray and CT are a pair at all."""

from dataclasses import dataclass

import numpy as np

from common.geometry import Spacing
from dataset.prepare.conversion import OFF, REFUSE, Conversion
from dataset.scans.camera import Matrix
from dataset.scans.pair_check import AS_IS, check_pair, fits_better, projection_likeness
from dataset.scans.registration import LEAST_SCORE, Registration, register
from dataset.scans.resample import resample
from dataset.scans.sketch import Sketch
from dataset.store.case import Problem

OF_ONE_RULE = "an X-ray shows what its CT shows"
RIGHT_WAY_RULE = "an X-ray fits its CT best as it is"
_VOXEL_MM, _READ_MM = 4.5, 3.0


@dataclass(frozen=True)
class Fit:
    """registration: of a film; None where there was nothing to find. better: what the X-ray seems to be, if it is not
    as it should be (dataset/scans/pair_check.py). sketch: for comparing it with other CTs (dataset/scans/sketch.py);
    empty where pairs are not checked.
    """

    registration: Registration | None = None
    better: str | None = None
    problems: tuple[Problem, ...] = ()
    sketch: str = ""


def fit_of(
    patient_id: str,
    path: str,
    square: np.ndarray,
    hu: np.ndarray,
    spacing: Spacing,
    declared: Matrix,
    synthetic: bool,
    conversion: Conversion,
) -> Fit:
    """The camera of a film (h, w) on its CT, int16 (D, H, W), by `register`, and what speaks against the pair.

    path: the X-ray's, for the problem. synthetic: it was projected from a CT, by the declared camera.
    """
    registering, checking = conversion.register_films and not synthetic, conversion.pair_check != OFF
    if not registering and not checking:
        return Fit()
    thin, step = thinned_for_films(hu, spacing)
    found = None if synthetic else register(square, thin, step, declared)
    score = projection_likeness(square, thin, step, declared) if found is None else found.score
    alike = score >= LEAST_SCORE if found is None else found.ok
    scores = {AS_IS: score} if alike and not checking else check_pair(square, thin, step, declared)
    better = fits_better(scores)
    problem = None
    if better is not None:
        said = f"taken for {better} it fits better: {scores[better]:.2f}, as it is {scores[AS_IS]:.2f}"
        remedy = "Compare the pictures in report.html, and mend the X-ray, or the CT's affine."
        problem = Problem(patient_id, path, RIGHT_WAY_RULE, said, remedy, conversion.pair_check == REFUSE)
    elif not alike:
        said = f"a likeness of {score:.2f}, not {LEAST_SCORE} or more"
        remedy = "Check that both are one patient's." + " Its declared geometry is used." * registering
        problem = Problem(patient_id, path, OF_ONE_RULE, said, remedy, conversion.pair_check == REFUSE)
    sketch = Sketch.of(square, thin, step, declared).text() if checking else ""
    return Fit(found if registering else None, better, () if problem is None else (problem,), sketch)


def thinned_for_films(hu: np.ndarray, spacing: Spacing) -> tuple[np.ndarray, Spacing]:
    """The CT around the same middle at about 4.5 mm, smoothed from voxels of up to 3 mm of it."""
    every = [max(1, int(_READ_MM / size)) for size in spacing]
    part = hu[tuple(slice((n - 1) % k // 2, None, k) for n, k in zip(hu.shape, every, strict=True))]
    read = np.multiply(spacing, every)
    d, h, w = (float(size) for size in np.maximum(read, _VOXEL_MM))
    return resample(part, np.diag([*read[::-1], 1.0]), (d, h, w))[0], (d, h, w)
