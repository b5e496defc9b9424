"""A folder of DICOM files -> one CT array with its affine. Geometry and voxels are kept, no patient tags."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import MediaStorageDirectoryStorage

from dataset.dicom_file import quiet_pydicom
from dataset.errors import BadFileError

_OTHER_FILES = {".txt", ".json", ".xml", ".csv", ".md", ".html", ".htm", ".pdf", ".jpg", ".jpeg", ".png"}
_SKIPPED_NAMES = {"DICOMDIR", "LICENSE", "README"}
_HEADER_TAGS = [
    "Modality", "ImageType", "SeriesInstanceUID", "SeriesNumber", "Rows", "Columns",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
    "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_MIN_SLICES = 10  # fewer make no chest volume: scouts, dose sheets, bolus tracking
_MAX_SIDE = 8192  # pixels of a slice; CTs have 512 to 2048
_SAME_POSITION_MM = 0.01
_STEP_TOLERANCE = 0.1  # of the step between slices
_EXPORT = "Export the series again, complete and alone, into a folder of its own."


@dataclass(frozen=True)
class Slice:
    """Where one slice lies (LPS mm) and how its stored numbers become HU."""

    path: Path
    frame: int
    series: tuple[Any, ...]  # UID, series number, rows, columns, orientation, pixel size: equal within a volume
    position: np.ndarray
    orientation: np.ndarray  # (6,) direction of a row, direction of a column
    pixel_mm: tuple[float, float]  # between rows, between columns
    slope: float
    intercept: float

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[:3], self.orientation[3:])


def read_dicom_folder(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The CT in `folder` and below: HU int16 (x, y, z), x along a slice's rows, and its affine to RAS mm.

    Raises:
        BadFileError: no CT or several, damaged, missing or duplicate slices, a tilted gantry.
    """
    slices = [piece for path in _image_files(folder) for piece in _read_headers(path)]
    chosen = _the_volume(slices, folder)
    normal = chosen[0].normal
    chosen = sorted(chosen, key=lambda piece: float(piece.position @ normal))
    step = _check_positions(chosen, folder)
    return _read_voxels(chosen), _affine(chosen[0], step)


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix.lower() not in _OTHER_FILES
        and path.name not in _SKIPPED_NAMES
        and not path.name.startswith(".")
    )


def _read_headers(path: Path) -> Iterator[Slice]:
    """The slices of one file; none if it holds another kind of object."""
    try:
        with quiet_pydicom():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
            if header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
                return
            if header.Modality != "CT" or "LOCALIZER" in (header.get("ImageType") or []):
                return
            yield from _slices_of(header, path)
    except (OSError, BadFileError):
        raise
    except Exception as error:  # what pydicom raises on damaged bytes is an open list; its text may hold tags
        raise BadFileError(
            path,
            "a file in a DICOM folder is whole; a CT slice has position, orientation, pixel spacing, rescale",
            f"a damaged or other file ({type(error).__name__})",
            _EXPORT,
        ) from None


def _slices_of(header: pydicom.Dataset, path: Path) -> Iterator[Slice]:
    """Classic files hold one slice with its tags at the top, enhanced ones many in functional groups."""
    frames = int(header.get("NumberOfFrames") or 1)
    if max(header.Rows, header.Columns) > _MAX_SIDE:
        rule = f"a CT slice has at most {_MAX_SIDE} x {_MAX_SIDE} pixels"
        raise BadFileError(path, rule, f"a header of {header.Rows} x {header.Columns}", _EXPORT)
    if frames != len(header.get("PerFrameFunctionalGroupsSequence") or [header]):
        rule = "a DICOM file tells the place of each of its frames"
        raise BadFileError(path, rule, f"{frames} frames, not as many places", _EXPORT)
    if "PerFrameFunctionalGroupsSequence" not in header:
        yield _slice(header, path, 0, header, header, header, header)
        return
    shared = header.SharedFunctionalGroupsSequence[0]
    for index, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        groups = [
            (frame if name in frame else shared)[name][0]
            for name in (
                "PlanePositionSequence",
                "PlaneOrientationSequence",
                "PixelMeasuresSequence",
                "PixelValueTransformationSequence",
            )
        ]
        yield _slice(header, path, index, *groups)


def _slice(
    header: pydicom.Dataset,
    path: Path,
    frame: int,
    position: pydicom.Dataset,
    orientation: pydicom.Dataset,
    measures: pydicom.Dataset,
    rescale: pydicom.Dataset,
) -> Slice:
    directions = np.array(orientation.ImageOrientationPatient, dtype=float)
    rows_mm, columns_mm = (float(size) for size in measures.PixelSpacing)
    series = (
        str(header.SeriesInstanceUID),
        str(header.get("SeriesNumber", "")),
        int(header.Rows),
        int(header.Columns),
        tuple(np.round(directions, 3).tolist()),
        (round(rows_mm, 4), round(columns_mm, 4)),
    )
    place = np.array(position.ImagePositionPatient, dtype=float)
    if place.shape != (3,) or directions.shape != (6,) or min(rows_mm, columns_mm) <= 0:
        raise ValueError
    slope, intercept = float(rescale.RescaleSlope), float(rescale.RescaleIntercept)
    return Slice(path, frame, series, place, directions, (rows_mm, columns_mm), slope, intercept)


def _the_volume(slices: list[Slice], folder: Path) -> list[Slice]:
    """The slices of the only series that can be a volume; all of one series have the same grid."""
    by_uid: dict[str, list[Slice]] = defaultdict(list)
    by_series: dict[tuple[Any, ...], list[Slice]] = defaultdict(list)
    for piece in slices:
        by_uid[piece.series[0]].append(piece)
        by_series[piece.series].append(piece)
    volumes = [pieces for pieces in by_uid.values() if len(pieces) >= _MIN_SLICES]
    if len(volumes) == 1 and len({piece.series for piece in volumes[0]}) == 1:
        return volumes[0]
    listed = "; ".join(
        f"series {series[1]}: {len(pieces)} slices of {series[2]} x {series[3]}, {series[5][0]:g} mm pixels,"
        f" in {pieces[0].path.relative_to(folder).parent}"
        for series, pieces in by_series.items()
    )
    rule = f"a DICOM folder holds one CT series of at least {_MIN_SLICES} slices, all on one grid"
    raise BadFileError(folder, rule, listed or "no CT slice", "Keep the wanted series alone in the folder.")


def _check_positions(slices: list[Slice], folder: Path) -> np.ndarray:
    """The step (3,) in LPS mm from slice to slice, if they are evenly stacked along their normal."""
    normal = slices[0].normal
    places = np.array([piece.position for piece in slices])
    depths = places @ normal
    steps = np.diff(depths)
    same = [f"{depths[i]:g} mm" for i in np.flatnonzero(steps < _SAME_POSITION_MM)]
    if same:
        found = f"{len(same)} duplicate position(s): {', '.join(same[:5])}"
        raise BadFileError(folder, "every slice of a series has a position of its own", found, _EXPORT)
    usual = float(np.median(steps))
    gaps = np.flatnonzero(np.abs(steps - usual) > _STEP_TOLERANCE * usual)
    if len(gaps):
        found = ", ".join(f"{steps[i]:g} mm between {depths[i]:g} and {depths[i + 1]:g} mm" for i in gaps[:5])
        rule = f"slices are evenly spaced ({usual:g} mm here): none is missing"
        raise BadFileError(folder, rule, f"steps of {found}", _EXPORT)
    step = (places[-1] - places[0]) / (len(slices) - 1)
    drift = np.linalg.norm(step - normal * (step @ normal)) * (len(slices) - 1)
    if drift > max(slices[0].pixel_mm):
        angle = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
        raise BadFileError(
            folder,
            "slices are stacked at right angles (no tilted gantry)",
            f"a tilt of {angle:.1f} degrees, {drift:.1f} mm from first to last slice",
            "Convert the series with a tool that corrects the gantry tilt, and give the NIfTI file.",
        )
    return normal * float(step @ normal)


def _affine(first: Slice, step: np.ndarray) -> np.ndarray:
    rows_mm, columns_mm = first.pixel_mm
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * columns_mm
    affine[:3, 1] = first.orientation[3:] * rows_mm
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS -> RAS


def _read_voxels(slices: list[Slice]) -> np.ndarray:
    """HU int16 (x, y, z)."""
    rows, columns = slices[0].series[2:4]
    path = slices[0].path
    frames = _stored_values(path, rows, columns)  # first, so that a header of untrue size takes no memory
    out = np.empty((len(slices), rows, columns), dtype=np.int16)
    limits = np.iinfo(np.int16)
    for index, piece in enumerate(slices):
        if path != piece.path:
            path, frames = piece.path, _stored_values(piece.path, rows, columns)
        values = frames[piece.frame]
        hu = np.rint(values * piece.slope + piece.intercept)
        if not (np.isfinite(hu).all() and hu.min() >= limits.min and hu.max() <= limits.max):
            rule, found = f"HU lie in [{limits.min}, {limits.max}]", f"{hu.min():g} to {hu.max():g}"
            raise BadFileError(piece.path, rule, found, "Check the rescale slope and intercept.")
        out[index] = hu
    return out.T


def _stored_values(path: Path, rows: int, columns: int) -> np.ndarray:
    """Stored numbers (frames, rows, columns), decompressed."""
    try:
        with quiet_pydicom():
            values = pydicom.dcmread(path).pixel_array
        if values.shape[-2:] != (rows, columns):  # colours, for instance
            raise ValueError
        return values.reshape(-1, rows, columns)
    except Exception as error:  # as above
        raise BadFileError(
            path,
            "the voxels of a DICOM file are whole and in a compression that an installed decoder reads",
            f"a {type(error).__name__} while decoding",
            f"{_EXPORT} If it is compressed, install python-gdcm or export it uncompressed.",
        ) from None
