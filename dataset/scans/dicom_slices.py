"""The CT slices in the files of a DICOM folder: where each lies, how its numbers become HU. Reads no voxel."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from common.errors import BadFileError, refusing_damage
from dataset.scans.dicom_file import quiet_pydicom, read_dicom
from dataset.scans.hu import MAX_VOXELS

EXPORT = "Export the series again, complete and alone, into a folder of its own."
_OTHER_FILES = {
    ".txt", ".json", ".xml", ".csv", ".md", ".html", ".htm", ".pdf", ".jpg", ".jpeg", ".png",
    ".db", ".ini", ".inf", ".exe", ".dll",
}  # fmt: skip
_SKIPPED_NAMES = {"DICOMDIR", "LICENSE", "README"}
_CT_CLASSES = {CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
_PLACE_TAGS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")
_HEADER_TAGS = [
    "SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesNumber", "Rows", "Columns", *_PLACE_TAGS,
    "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_MAX_SIDE = 8192  # pixels of a slice; CTs have 512 to 2048


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


def find_slices(folder: Path) -> list[Slice]:
    """Every CT slice in `folder` and below, in the order of the files' names.

    Raises:
        BadFileError: a damaged file. OSError, MemoryError: one that cannot be read now.
    """
    return [piece for path in _image_files(folder) for piece in _read_headers(path)]


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
    rule = "a file in a DICOM folder is whole; a CT slice has position, orientation, pixel spacing, rescale"
    with refusing_damage(path, rule, EXPORT, quote=False), quiet_pydicom():
        header = read_dicom(path, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
        if _is_page(header) or header.Modality != "CT" or "LOCALIZER" in (header.get("ImageType") or []):
            return
        yield from _slices_of(header, path)


def _is_page(header: pydicom.Dataset) -> bool:
    """Whether it is no slice: of another class than CT and without a place, such as a dose sheet; a directory."""
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    if kind is None or kind in _CT_CLASSES or "PerFrameFunctionalGroupsSequence" in header:
        return False
    return kind == MediaStorageDirectoryStorage or any(header.get(name) is None for name in _PLACE_TAGS)


def _slices_of(header: pydicom.Dataset, path: Path) -> Iterator[Slice]:
    """Classic files hold one slice with its tags at the top, enhanced ones many in functional groups."""
    frames = int(header.get("NumberOfFrames") or 1)
    if max(header.Rows, header.Columns) > _MAX_SIDE or frames * header.Rows * header.Columns > MAX_VOXELS:
        rule = f"a CT slice has at most {_MAX_SIDE} x {_MAX_SIDE} pixels, a CT at most {MAX_VOXELS / 1e9:.1f}e9 voxels"
        found = f"a header of {frames} x {header.Rows} x {header.Columns}"
        raise BadFileError(path, rule, found, EXPORT)
    if frames != len(header.get("PerFrameFunctionalGroupsSequence") or [header]):
        rule = "a DICOM file tells the place of each of its frames"
        raise BadFileError(path, rule, f"{frames} frames, not as many places", EXPORT)
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
