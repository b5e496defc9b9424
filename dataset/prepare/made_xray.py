"""The X-ray of a CT that has none: projected from it, marked as synthetic."""

from dataset.scans.drr import frontal_drr, to_intensity
from dataset.scans.volume_io import Volume
from dataset.scans.xray_io import Xray
from dataset.store.case import Problem

KIND = "drr"  # its line integrals share a scale that no detector's pixels have


def make_xray(patient_id: str, path: str, volume: Volume, source_mm: float | None) -> tuple[Xray | None, list[Problem]]:
    """A frontal projection as large as the volume, with its geometry; a problem if it cannot be made.

    Args:
        source_mm: distance of a point source behind the patient from the volume's centre; None: parallel rays.
    """
    try:
        integrals, camera = frontal_drr(volume.hu, volume.spacing, source_mm=source_mm)
    except ValueError as error:
        rule, remedy = "an X-ray can be projected from the CT", "Check the CT, and dataset.make_xray_source_mm."
        return None, [Problem(patient_id, path, rule, str(error), remedy)]
    return Xray(to_intensity(integrals), KIND, camera, synthetic=True), []
