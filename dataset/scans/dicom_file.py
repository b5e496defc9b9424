"""What CT slices and X-rays in DICOM share."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.config import disable_value_validation
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from common.errors import BadFileError

MARK = 132  # bytes: a preamble and "DICM"
_FIRST = {0x0000, 0x0001, 0x0005, 0x0008, 0x0012, 0x0014, 0x0016, 0x0018}  # elements of group 8 that may stand first
_KINDS = {b"UL", b"CS", b"DA", b"UI"}  # what they are, where the file says so
_MOST_BYTES = 256  # of their values
_MAY_LACK = (  # texts that a file may leave out, or leave empty, which says as little
    "NumberOfFrames", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "PatientOrientation", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing",
    "EstimatedRadiographicMagnificationFactor", "DistanceSourceToDetector", "DistanceSourceToPatient",
)  # fmt: skip
_MAX_DEFLATED = 2**20  # bytes of a file; deflate can make a thousand times as much of them


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Read odd values without a word: pydicom's warnings and its log quote tags, which may hold names."""
    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def is_dicom(path: Path) -> bool:
    """Whether the file has the DICOM mark, or begins with the data themselves, as older ones do; raises OSError if it
    cannot be opened.
    """
    start = _start(path)
    return start[128:] == b"DICM" or _is_bare(start)


def files_below(folder: Path) -> list[Path]:
    """Every file in a folder and below, ordered, but hidden ones and those in hidden folders: systems put and remove
    them (.DS_Store, .nfs...). Links to folders are followed, but not upwards, and each once.
    """
    above = {os.path.realpath(folder), *map(str, Path(os.path.realpath(folder)).parents)}
    found, seen = [], set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = {os.path.realpath(os.path.join(place, name)): name for name in folders if not _is_hidden(name)}
        folders[:] = [name for where, name in real.items() if where not in above | seen]
        seen |= set(real)
        found += [path for name in names if not _is_hidden(name) and (path := Path(place, name)).is_file()]
    return sorted(found)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def is_cut_off(path: Path) -> bool:
    """Whether it is empty, or zeros stand to where DICOM has its mark, and no mark."""
    return not _start(path)[:128].strip(b"\0")


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MARK)


def _is_bare(start: bytes) -> bool:
    """Whether a file begins with an element of DICOM, in little endian, and has no preamble."""
    group, element = (int.from_bytes(start[at : at + 2], "little") for at in (0, 2))
    told = start[4:6] in _KINDS
    size = int.from_bytes(start[6:8] if told else start[4:8], "little")
    return len(start) == MARK and group == 8 and element in _FIRST and 0 < size <= _MOST_BYTES


def read_dicom(path: Path, **options: Any) -> pydicom.Dataset:
    """`pydicom.dcmread`, also of files without a preamble, and without tags that are empty (`leave_out_empty`); but a
    large file that it would inflate as a whole is a BadFileError.
    """
    dataset = _read(path, **options)
    leave_out_empty(dataset)
    return dataset


def leave_out_empty(dataset: pydicom.Dataset) -> None:
    """Remove tags without a value: pydicom reckons with some that are there. Those of groups inside stay."""
    for name in _MAY_LACK:
        element = dataset.get_item(name)  # as it lies in the file: what is damaged shall fail where it is used
        if element is not None and _is_empty(element.value):
            del dataset[element.tag]


def _is_empty(text: Any) -> bool:
    return not text.strip(b" \\\0") if isinstance(text, bytes) else text in (None, "")


def _read(path: Path, **options: Any) -> pydicom.Dataset:
    if _is_bare(_start(path)):
        dataset = pydicom.dcmread(path, force=True, **options)
        syntax = ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
        return dataset
    syntax = read_file_meta_info(path).get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian and path.stat().st_size > _MAX_DEFLATED:
        rule = f"a DICOM file that is deflated as a whole has at most {_MAX_DEFLATED >> 20} MB"
        found = f"{path.stat().st_size / 1e6:.3g} MB"
        raise BadFileError(path, rule, found, "Export it uncompressed, or with its pixels alone compressed.")
    return pydicom.dcmread(path, **options)


def holds_dicom(folder: Path) -> bool:
    """Whether a file in the folder or below is DICOM; raises OSError if one cannot be opened."""
    return any(is_dicom(path) for path in files_below(folder))
