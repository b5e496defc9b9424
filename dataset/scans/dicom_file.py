"""What CT slices and X-rays in DICOM share."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.config import disable_value_validation


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
