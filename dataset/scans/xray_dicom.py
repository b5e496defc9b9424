"""A frontal X-ray in DICOM -> grey image with its geometry. No patient tag is kept."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from common.errors import BadFileError, refusing_damage
from dataset.scans.camera import Film, Matrix
from dataset.scans.dicom_file import quiet_pydicom, read_dicom

_LATERAL_VIEWS = {"LL", "RL", "LLD", "RLD", "LAT", "LATERAL"}
_FRONTAL = "the X-ray is the frontal view"
_EXPORT = "Export the frontal X-ray again."
_SAME = 1e-3  # relative; the tags are rounded differently


def read_xray_dicom(
    path: Path, check_size: Callable[[tuple[int, int]], None], film: Film
) -> tuple[np.ndarray, Matrix | None, str]:
    """Image float32 (h, w) in [0, 1] after the VOI LUT, bright bone, patient's left on the right; its camera; its view.

    The camera follows from view, distances and pixel size, and looks at the volume's centre in the image's middle; None
    where no pixel size is told.

    Args:
        check_size: is given (columns, rows) before the pixels are read.
        film: view and distances where tags do not tell them.

    Raises:
        BadFileError: damaged, a lateral view, or several frames. OSError, MemoryError: it cannot be read now.
    """
    rule, remedy = "an X-ray is a whole DICOM image", f"{_EXPORT} If compressed, install python-gdcm."
    with refusing_damage(path, rule, remedy, quote=False), quiet_pydicom():
        dataset = read_dicom(path)
        check_size((int(dataset.Columns), int(dataset.Rows)))
        _check_view(dataset, path)
        image = _image(dataset)
        return image, _camera(dataset, image.shape, film), _view(dataset)


def _view(dataset: pydicom.Dataset) -> str:
    """ "PA" or "AP"; empty where the tags do not tell."""
    view = str(dataset.get("ViewPosition", "") or "").upper()
    return view if view in ("PA", "AP") else ""


def _check_view(dataset: pydicom.Dataset, path: Path) -> None:
    view = str(dataset.get("ViewPosition", "") or "").upper()
    across = _orientation(dataset)[0]
    if view in _LATERAL_VIEWS or across[:1] in ("A", "P"):
        found = f"view {view!r}, image rows running to {across!r}: a lateral"
        raise BadFileError(path, _FRONTAL, found, "Give the PA or AP view.")
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        raise BadFileError(path, "an X-ray has one frame", f"{dataset.NumberOfFrames} frames", _EXPORT)


def _orientation(dataset: pydicom.Dataset) -> tuple[str, str]:
    """Where rows and columns run to in the patient; ("L", "F") is how radiologists see it."""
    directions = [str(text).upper() for text in dataset.get("PatientOrientation") or []]
    return (directions[0] or "L", directions[1] or "F") if len(directions) == 2 else ("L", "F")


def _image(dataset: pydicom.Dataset) -> np.ndarray:
    """float32 (h, w) in [0, 1]."""
    pixels = dataset.pixel_array
    if pixels.ndim == 3:
        pixels = pixels.astype(np.float32).mean(axis=-1)
    else:
        pixels = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset)
    low, high = _display_range(dataset)
    image = np.clip((pixels.astype(np.float32) - low) / (high - low), 0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        image = 1 - image
    across, down = _orientation(dataset)
    if across.startswith("R"):
        image = image[:, ::-1]
    if down.startswith("H"):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _display_range(dataset: pydicom.Dataset) -> tuple[float, float]:
    """Lowest and highest value that the modality and VOI transforms can give (as pydicom applies them)."""
    if dataset.get("VOILUTSequence"):
        return 0.0, float(2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    if dataset.get("ModalityLUTSequence"):
        return 0.0, float(2 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    bits = int(dataset.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    return low * slope + intercept, high * slope + intercept


def _camera(dataset: pydicom.Dataset, shape: tuple[int, ...], film: Film) -> Matrix | None:
    """By pixels calibrated in the patient, or the detector's; a PixelSpacing that repeats those is not calibrated
    (DICOM PS3.3, 10.7).
    """
    taken = _taken(dataset, film)
    patient, detector = dataset.get("PixelSpacing"), dataset.get("ImagerPixelSpacing")
    magnification = float(dataset.get("EstimatedRadiographicMagnificationFactor") or taken.magnification)
    if patient and not (detector and np.allclose(patient, detector, rtol=_SAME, atol=0)):
        down, across = (float(size) for size in patient)
    elif detector:
        down, across = (float(size) / magnification for size in detector)
    else:
        return None
    on_detector = (down * taken.magnification, across * taken.magnification)
    return taken.camera(shape, on_detector) if down > 0 and across > 0 else None


def _taken(dataset: pydicom.Dataset, film: Film) -> Film:
    """How the film was taken; distances that cannot be (the patient behind the detector) are not told."""
    to_detector, to_patient = (float(dataset.get(f"DistanceSourceTo{x}") or 0) for x in ("Detector", "Patient"))
    source, before = film.source_mm, film.patient_mm
    if to_detector > to_patient > 0:
        source, before = to_detector, to_detector - to_patient
    elif to_detector > before and not to_patient:
        source = to_detector
    return Film(_view(dataset).lower() or film.view, source, before)
