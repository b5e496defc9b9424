"""The X-ray of a CT that has none: projected from it, marked as synthetic."""

import numpy as np

from dataset.prepare.conversion import FILM, Conversion
from dataset.scans.drr import frontal_drr, project, to_intensity
from dataset.scans.film_stance import random_camera
from dataset.scans.film_variants import degrade
from dataset.scans.volume_io import Volume
from dataset.scans.xray_io import Xray
from dataset.store.case import Problem

KIND = "drr"  # its line integrals share a scale that no detector's pixels have
FILM_KIND = "uint8"  # as films are kept
SIZE = 512  # rows and columns of a film


def make_film(patient_id: str, volume: Volume) -> Xray:
    """The projection as a film would show it, with its true camera; a patient's is the same every time.

    From a point source, turned, shifted, magnified (`film_stance`), with a film's contrast, blur, grain, collimation
    and marker. The body ends where the CT does, and breathes as in the CT.
    """
    rng = np.random.default_rng(list(patient_id.encode()))
    d, _, w = np.multiply(volume.hu.shape, volume.spacing)
    camera = random_camera(SIZE, max(d, w) / SIZE, rng)
    shown = to_intensity(project(volume.hu, volume.spacing, camera, (SIZE, SIZE)))
    return Xray(degrade(shown, rng), FILM_KIND, camera, synthetic=True)


def make_xray(patient_id: str, path: str, volume: Volume, conversion: Conversion) -> tuple[Xray | None, list[Problem]]:
    """A frontal projection as large as the volume, with its geometry; a problem if it cannot be made."""
    if conversion.make_xray == FILM:
        return make_film(patient_id, volume), []
    try:
        integrals, camera = frontal_drr(volume.hu, volume.spacing, source_mm=conversion.xray_source_mm)
    except ValueError as error:
        rule, remedy = "an X-ray can be projected from the CT", "Check the CT, and dataset.make_xray_source_mm."
        return None, [Problem(patient_id, path, rule, str(error), remedy)]
    return Xray(to_intensity(integrals), KIND, camera, synthetic=True), []
