"""An X-ray in DICOM -> grey image with its geometry. No patient tag is kept."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from common.errors import BadFileError, of_the_machine, refusing_damage
from dataset.scans.camera import FRONTAL, LATERAL, Film, Matrix
from dataset.scans.dicom_file import quiet_pydicom, read_dicom

_LATERAL_VIEWS = {"LL", "RL", "LAT", "LATERAL"}
_LYING = {"LLD", "RLD"}  # decubitus
_RIGHT_WAY = {"LL": "P", "RL": "A"}  # where rows run to in the patient as radiologists see laterals; of others "L"
_OPPOSITE = {"L": "R", "P": "A", "A": "P"}
_ALONG_BODY = ("F", "H")
_RESCALE = ("RescaleSlope", "RescaleIntercept")
_RADIOGRAPHS = {"CR", "DX", "RG"}  # modalities: computed, digital, of film
_RADIOGRAPH_CLASSES = {  # of files without a modality
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
}
_SHOWN = 0.1  # share of the pixels that a window which is of use tells apart, at least
_EXPORT = "Export the X-ray again."
_SAME = 1e-3  # relative; the tags are rounded differently


def read_xray_dicom(
    path: Path, check_size: Callable[[tuple[int, int]], None], film: Film, expected: str
) -> tuple[np.ndarray, Matrix | None, str, bool]:
    """Image float32 (h, w) in [0, 1] after the VOI LUT, bright bone, as radiologists see it; its camera; its view;
    whether its window was of no use, so that the image spans the full range.

    The head is up, however it lies in the file, if tags tell. Frontal ones have the patient's left on the right; of a
    left lateral the front is on the left, of a right one on the right.

    The camera follows from view, distances and pixel size, and looks at the volume's centre in the image's middle; None
    where no pixel size is told.

    Args:
        check_size: is given (columns, rows) before the pixels are read.
        film: view and distances where tags do not tell them.
        expected: which views are right, `camera.FRONTAL`, `LATERAL` or `ANY`.

    Raises:
        BadFileError: damaged, another view, or several frames. OSError, MemoryError: it cannot be read now.
    """
    rule, remedy = "an X-ray is a whole DICOM image", f"{_EXPORT} If compressed, install python-gdcm."
    with refusing_damage(path, rule, remedy, quote=False), quiet_pydicom():
        dataset = read_dicom(path)
        check_size((int(dataset.Columns), int(dataset.Rows)))
        _check_modality(dataset, path)
        _check_view(dataset, path, expected)
        image, useless = _image(dataset)
        return image, _camera(dataset, image.shape, film), _view(dataset), useless


def _view(dataset: pydicom.Dataset) -> str:
    """ "PA", "AP", "LL" (also of laterals that do not tell their side) or "RL"; empty where the tags do not tell."""
    view = _told_view(dataset)
    if _is_lateral(dataset):
        return "RL" if view == "RL" else "LL"
    return view if view in ("PA", "AP") else ""


def _told_view(dataset: pydicom.Dataset) -> str:
    return str(dataset.get("ViewPosition", "") or "").upper()


def _is_lateral(dataset: pydicom.Dataset) -> bool:
    return _told_view(dataset) in _LATERAL_VIEWS or _lie(dataset)[0][:1] in ("A", "P")


def _check_view(dataset: pydicom.Dataset, path: Path, expected: str) -> None:
    view, across, lateral = _told_view(dataset), _lie(dataset)[0], _is_lateral(dataset)
    if view in _LYING or (lateral and expected == FRONTAL):
        found = f"view {view!r}, image rows running to {across!r}: a lateral"
        raise BadFileError(path, f"the X-ray is the {expected} view", found, "Give the PA or AP view.")
    if expected == LATERAL and not lateral and (view in ("PA", "AP") or across[:1] in ("L", "R")):
        found = f"view {view!r}, image rows running to {across!r}"
        raise BadFileError(path, "the lateral is a lateral view", found, "Give the lateral view.")
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        raise BadFileError(path, "an X-ray has one frame", f"{dataset.NumberOfFrames} frames", _EXPORT)


def _check_modality(dataset: pydicom.Dataset, path: Path) -> None:
    modality, kind = str(dataset.get("Modality", "") or "").upper(), dataset.get("SOPClassUID", "")
    if modality in _RADIOGRAPHS or (not modality and (not kind or kind in _RADIOGRAPH_CLASSES)):
        return
    found = f"modality {modality}" if modality else UID(kind).name
    remedy = "Give the chest radiograph; if this is one, export it as PNG, or correct the tag."
    raise BadFileError(path, f"an X-ray's modality is one of {', '.join(sorted(_RADIOGRAPHS))}", found, remedy)


def _lie(dataset: pydicom.Dataset) -> tuple[str, str, bool]:
    """Where rows and columns of the image run to in the patient once the body lies along the columns, empty where tags
    do not tell; ("L", "F") of a frontal one as radiologists see it. And whether rows and columns of the file change
    places for that: its rows run along the body.
    """
    directions = [str(text).upper() for text in dataset.get("PatientOrientation") or []]
    across, down = directions if len(directions) == 2 else ("", "")
    if across[:1] in _ALONG_BODY and down[:1] not in _ALONG_BODY:
        return down, across, True
    return across, down, False


def _image(dataset: pydicom.Dataset) -> tuple[np.ndarray, bool]:
    """float32 (h, w) in [0, 1], and whether a useless window was left out."""
    pixels, useless = dataset.pixel_array, False
    if pixels.ndim == 3:
        pixels, ends = pixels.astype(np.float32).mean(axis=-1), _full_range(dataset)
    else:
        pixels, ends, useless = _windowed(_rescaled(pixels, dataset), dataset)
    low, high = ends
    image = np.clip((pixels.astype(np.float32) - low) / (high - low), 0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        image = 1 - image
    return np.ascontiguousarray(_upright(image, dataset)), useless


def _upright(image: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """View of an image (h, w) of the file as radiologists see it."""
    across, down, turned = _lie(dataset)
    image = image.T if turned else image
    if across.startswith(_OPPOSITE[_RIGHT_WAY.get(_view(dataset), "L")]):
        image = image[:, ::-1]
    return image[::-1] if down.startswith("H") else image


def _rescaled(pixels: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """The pixels after the modality's table, or else its slope and intercept."""
    tables = dataset.get("ModalityLUTSequence") or []
    if not tables:
        return apply_modality_lut(pixels, dataset)
    for name in _RESCALE:  # a table stands for them; pydicom's windows would reckon with both
        dataset.pop(name, None)
    return _through(tables[0], pixels, dataset)


def _windowed(pixels: np.ndarray, dataset: pydicom.Dataset) -> tuple[np.ndarray, tuple[float, float], bool]:
    """The pixels as the first VOI table or, after those, window shows them that is of use; which values are black and
    white then; and whether there are some, but all of none.

    Of no use is what cannot be, or tells hardly any pixels apart, as a window for 8 bits on a film of 12.
    """
    told = ((pixels > pixels.min()) & (pixels < pixels.max())).mean()
    tables, windows = dataset.get("VOILUTSequence") or [], dataset["WindowWidth"].VM if "WindowWidth" in dataset else 0
    ways = [*tables, *range(windows)]
    for way in ways:
        try:
            if isinstance(way, int):
                shown, ends = apply_windowing(pixels, dataset, way), _range_of_windows(dataset)
            else:
                shown, ends = _through(way, pixels, dataset), (0.0, 2.0 ** int(way.LUTDescriptor[2]) - 1)
        except Exception as error:  # a width of 0, a table without values, a window without centre: an open list
            if of_the_machine(error):
                raise
            continue
        if ((shown > shown.min()) & (shown < shown.max())).mean() >= _SHOWN * told:
            return shown, ends, False
    return pixels, _full_range(dataset), bool(ways)


def _through(table: pydicom.Dataset, pixels: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """What a table makes of the pixels (DICOM PS3.3, C.11.1.1 and C.11.2.1.1). pydicom's own counts modulo 256 where 8
    bits come out.
    """
    count, first, _ = (int(number) for number in table.LUTDescriptor)
    outputs = table.LUTData
    if isinstance(outputs, bytes):
        packed = len(outputs) < 2 * (count or 2**16)  # a byte each
        order = "<>"[dataset.original_encoding[1] is False]
        outputs = np.frombuffer(outputs, np.uint8 if packed else f"{order}u2")
    places = (pixels.astype(np.int64) - first).clip(0, (count or 2**16) - 1)
    return np.asarray(outputs)[places]


def _range_of_windows(dataset: pydicom.Dataset) -> tuple[float, float]:
    """What pydicom's windows give for black and for white: the ends of the stored numbers after the modality transform,
    black the larger one where the slope is negative.
    """
    if dataset.get("ModalityLUTSequence"):
        return 0.0, float(2 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    bits = int(dataset.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)
    told = all(name in dataset for name in _RESCALE)  # one alone is not applied
    slope, intercept = (float(dataset[name].value) for name in _RESCALE) if told else (1.0, 0.0)
    return low * slope + intercept, high * slope + intercept


def _full_range(dataset: pydicom.Dataset) -> tuple[float, float]:
    """Lowest and highest value that the modality transform can give."""
    low, high = sorted(_range_of_windows(dataset))
    return low, high


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
    if _lie(dataset)[2]:
        down, across = across, down
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
