"""The CT slices in DICOM files: where each lies, how its numbers become HU, of which series it is. Reads no voxel."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
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
from dataset.scans.dicom_file import files_below, is_cut_off, is_dicom, leave_out_empty, quiet_pydicom, read_dicom
from dataset.scans.hu import MAX_VOXELS
from dataset.scans.upright import HALF

EXPORT = "Export the series again, complete and alone, into a folder of its own."
CUT_OFF = "empty or cut off"  # files that may have been slices
_OF_DICOM = {".dcm", ".dicom", ".ima"}  # names of files that are no junk
_CT_CLASSES = {CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
_RESCALE = ("RescaleSlope", "RescaleIntercept")
_PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")
_PLACE_TAGS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", *_RESCALE)
_HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "PatientID", "SeriesInstanceUID", "FrameOfReferenceUID",
    "SeriesNumber", "SeriesDescription", "ConvolutionKernel", "AcquisitionNumber", "Rows", "Columns", *_PLACE_TAGS,
    *_PADDING, "PixelRepresentation",
    "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_RULE = "a file in a DICOM folder is whole; a CT slice has position, orientation, pixel spacing, rescale"
_TYPES = (np.uint16, np.int16)  # of stored numbers, by their PixelRepresentation
_MAX_SIDE = 8192  # pixels of a slice; CTs have 512 to 2048


@dataclass(frozen=True)
class Grid:
    """Pixels of a slice. orientation: (6,) unit direction of a row, of a column. pixel_mm: between rows, columns."""

    rows: int
    columns: int
    orientation: tuple[float, ...]
    pixel_mm: tuple[float, float]

    @cached_property
    def along_row(self) -> np.ndarray:
        """LPS mm from a pixel to the next column."""
        return np.array(self.orientation[:3]) * self.pixel_mm[1]

    @cached_property
    def along_column(self) -> np.ndarray:
        """LPS mm from a pixel to the next row."""
        return np.array(self.orientation[3:]) * self.pixel_mm[0]

    @cached_property
    def normal(self) -> np.ndarray:
        across = np.cross(self.orientation[:3], self.orientation[3:])
        return across / np.linalg.norm(across)

    def like(self, other: "Grid") -> bool:
        """Whether no pixel of a slice lies off by more than half a pixel if it is taken to have the other's grid."""
        if self is other:
            return True
        if (self.rows, self.columns) != (other.rows, other.columns):
            return False
        rows, columns = self.along_column - other.along_column, self.along_row - other.along_row
        off = np.linalg.norm(rows) * (self.rows - 1) + np.linalg.norm(columns) * (self.columns - 1)
        return bool(off <= HALF * min(self.pixel_mm))


@dataclass(frozen=True)
class Series:
    """What tells one series, and one reconstruction in it, from others. No tag of the patient: of the id this process's
    hash, by which two are told apart, 0 where there is none.
    """

    uid: str
    patient: int
    frame: str
    number: str
    description: str
    kernel: str
    acquisition: str
    image_type: str


@dataclass(frozen=True)
class Slice:
    """Where one slice lies (LPS mm) and how its stored numbers become HU.

    padding: lowest and highest stored number that fills places outside the scan, by their 16 bits; None without.
    instance: its file's UID, which copies share.
    """

    path: Path
    frame: int
    series: Series
    grid: Grid
    position: np.ndarray
    slope: float
    intercept: float
    padding: tuple[int, int] | None
    instance: str = ""


def find_slices(path: Path, rescaled: bool = True) -> tuple[list[Slice], Counter[str]]:
    """Every CT slice in `files_below` a folder, or in one file, in the order of the files' names; what was passed over.

    Args:
        rescaled: whether a slice must have its rescale tags.

    Raises:
        BadFileError: a damaged file. OSError, MemoryError: one that cannot be read now.
    """
    slices: list[Slice] = []
    passed: Counter[str] = Counter()
    lost: list[tuple[str, Path]] = []  # series of what has no place
    cut: list[str] = []
    for file in files_below(path) if path.is_dir() else [path]:
        if file.suffix.lower() not in _OF_DICOM and not is_dicom(file):
            if is_cut_off(file):
                cut.append(file.name)
            else:
                passed["no DICOM"] += 1
            continue
        with refusing_damage(file, _RULE, EXPORT, quote=False), quiet_pydicom():
            header = read_dicom(file, stop_before_pixels=True, specific_tags=_HEADER_TAGS)
            if kind := _other_kind(header, file):
                passed[kind] += 1
            elif _lost_place(header):
                lost.append((_text(header.get("SeriesInstanceUID") or ""), file))
            else:
                slices += _slices_of(header, file, rescaled)
    if cut:
        passed[f"{CUT_OFF}: {', '.join(cut[:3])}"] = len(cut)
    known = {piece.series.uid for piece in slices}
    for uid, file in lost:
        if not known or uid in known:
            raise BadFileError(file, _RULE, f"a slice without {' or '.join(_PLACE_TAGS[:2])}", EXPORT)
        passed["without a place"] += 1  # such as a scanner's protocol
    return slices, passed


def _lost_place(header: pydicom.Dataset) -> bool:
    is_classic = "PerFrameFunctionalGroupsSequence" not in header
    return is_classic and any(header.get(name) is None for name in _PLACE_TAGS[:2])


def _other_kind(header: pydicom.Dataset, path: Path) -> str:
    """What the file holds if it is no CT slice."""
    if header.get("Modality") not in (None, "", "CT"):
        return f"of modality {header.Modality}"
    if _is_page(header):
        return "pages and directories"
    if header.get("Modality") != "CT" and header.get("SOPClassUID") not in _CT_CLASSES:
        raise BadFileError(path, _RULE, "one without a modality", EXPORT)
    return "scouts" if "LOCALIZER" in (header.get("ImageType") or []) else ""


def _is_page(header: pydicom.Dataset) -> bool:
    """Whether it is no slice: of another class than CT and without a place, such as a dose sheet; a directory."""
    kind = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    if kind is None or kind in _CT_CLASSES or "PerFrameFunctionalGroupsSequence" in header:
        return False
    return kind == MediaStorageDirectoryStorage or any(header.get(name) is None for name in _PLACE_TAGS)


def _slices_of(header: pydicom.Dataset, path: Path, rescaled: bool) -> Iterator[Slice]:
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
        yield _slice(header, [header], path, 0, rescaled)
        return
    shared = [*_groups(header.SharedFunctionalGroupsSequence[0]), header]
    for index, frame in enumerate(header.PerFrameFunctionalGroupsSequence):
        yield _slice(header, [*_groups(frame), *shared], path, index, rescaled)


def _groups(item: pydicom.Dataset) -> list[pydicom.Dataset]:
    groups = [group for element in item if element.VR == "SQ" for group in element.value]
    for group in groups:
        leave_out_empty(group)
    return groups


def _slice(header: pydicom.Dataset, groups: list[pydicom.Dataset], path: Path, frame: int, rescaled: bool) -> Slice:
    """groups: where its tags stand, the nearest first."""

    def tag(name: str, other: Any = None) -> Any:
        value = next((group.get(name) for group in groups if group.get(name) is not None), other)
        if value is None:
            is_hu = " Where the values are HU already, say so: dataset.hu_offset=0." * (name in _RESCALE)
            raise BadFileError(path, _RULE, f"a slice without {name}", EXPORT + is_hu, EXPORT)
        return value

    directions = np.array(tag("ImageOrientationPatient"), dtype=float)
    rows_mm, columns_mm = (float(size) for size in tag("PixelSpacing"))
    place = np.array(tag("ImagePositionPatient"), dtype=float)
    if place.shape != (3,) or directions.shape != (6,) or min(rows_mm, columns_mm) <= 0:
        raise ValueError
    lengths = np.linalg.norm(directions.reshape(2, 3), axis=1)
    if not (np.abs(lengths - 1) < 0.1).all():
        raise BadFileError(path, _RULE, f"directions of length {lengths[0]:.3g} and {lengths[1]:.3g}", EXPORT)
    orientation = directions / lengths.repeat(3)
    grid = Grid(int(header.Rows), int(header.Columns), tuple(orientation.tolist()), (rows_mm, columns_mm))
    series = Series(
        _text(header.get("SeriesInstanceUID") or ""),
        hash(_text(header.get("PatientID") or "")),
        _text(header.get("FrameOfReferenceUID") or ""),
        _text(header.get("SeriesNumber") or ""),
        _text(header.get("SeriesDescription") or ""),
        _text(tag("ConvolutionKernel", "")),
        _text(tag("AcquisitionNumber", "")),
        _text(header.get("ImageType") or ""),
    )
    slope, intercept = (float(tag(name, None if rescaled else n)) for name, n in zip(_RESCALE, (1, 0), strict=True))
    instance = _text(header.get("SOPInstanceUID") or "")
    return Slice(path, frame, series, grid, place, slope, intercept, _padding(header), instance)


def _padding(header: pydicom.Dataset) -> tuple[int, int] | None:
    ends = []
    for value in (header.get(name) for name in _PADDING):
        if isinstance(value, bytes):  # without a VR in the file
            value = int.from_bytes(value[:2], "little")
        if value is not None:
            ends.append(np.array(int(value) & 0xFFFF, np.uint16).astype(_TYPES[int(header.PixelRepresentation)]))
    return (int(min(ends)), int(max(ends))) if ends and header.get(_PADDING[0]) is not None else None


def _text(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | pydicom.multival.MultiValue) else str(value)
