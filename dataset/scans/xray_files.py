"""Which files of a folder are X-rays, and what they are called."""

from pathlib import Path

from dataset.scans.dicom_file import is_dicom

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom"}
_DIRECTORY = "dicomdir"  # the index of a CD, DICOM as well
_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*")  # PNG, JPEG, TIFF


def is_image(path: Path) -> bool:
    """Whether a file is one by its suffix, in any case, or by its content; hidden ones are none. A link to nothing is
    one by its suffix: reading it says so.
    """
    if path.name.startswith(".") or path.name.lower() == _DIRECTORY or path.is_dir():
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4).startswith(_STARTS) or is_dicom(path)
    except OSError:
        return False


def name_of(image: Path) -> str:
    """Its name without the suffix; of "1.2.840.5" that is all of it."""
    return image.name if image.suffix[1:].isdigit() else image.stem


def sidecar_of(image: Path) -> Path:
    """Where its geometry may stand."""
    return image.with_name(f"{name_of(image)}.json")
