"""What CT slices and X-rays in DICOM share."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.config import disable_value_validation
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from common.errors import BadFileError

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
    """Whether the file has the DICOM mark; raises OSError if it cannot be opened."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom(path: Path, **options: Any) -> pydicom.Dataset:
    """`pydicom.dcmread`, but a large file that it would inflate as a whole is a BadFileError."""
    syntax = read_file_meta_info(path).get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian and path.stat().st_size > _MAX_DEFLATED:
        rule = f"a DICOM file that is deflated as a whole has at most {_MAX_DEFLATED >> 20} MB"
        found = f"{path.stat().st_size / 1e6:.3g} MB"
        raise BadFileError(path, rule, found, "Export it uncompressed, or with its pixels alone compressed.")
    return pydicom.dcmread(path, **options)


def holds_dicom(folder: Path) -> bool:
    """Whether a file in the folder or below has the DICOM mark; raises OSError if one cannot be opened."""
    return any(path.is_file() and is_dicom(path) for path in folder.rglob("*"))
