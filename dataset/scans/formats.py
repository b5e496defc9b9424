"""In which format a CT's file is, by its content, and which other files belong to it."""

from pathlib import Path

from common.errors import BadFileError
from dataset.scans.dicom_file import files_below, is_dicom
from dataset.scans.itk_io import META, NRRD, stored

DICOM, NIFTI, PAIR = "DICOM", "NIfTI", "NIfTI pair"
SUFFIXES = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd", ".nhdr", ".hdr")  # of files that say what a CT is
_HEADER_BYTES = 352
_NIFTI_2 = {540}
_NIFTI_SIZES = {348} | _NIFTI_2
_RULE = "a CT is a NIfTI, MetaImage, NRRD or enhanced DICOM file, or a folder of DICOM slices"
_PACKED = ("", ".gz")
_PAIR_RULE = "a NIfTI pair is NAME.hdr beside NAME.img"
_PAIR_REMEDY = "Put both into one folder."


def format_of(path: Path) -> str:
    """DICOM, also of a folder, NIFTI, PAIR, META or NRRD. A damaged file is of the format that its name says.

    Raises:
        BadFileError: none of them. OSError: it cannot be opened.
    """
    if path.is_dir():
        return DICOM
    if path.exists() and not path.is_file():
        raise BadFileError(path, _RULE, "no file", "Put the file itself there.")
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    name = path.name.lower()
    if is_dicom(path):
        return DICOM
    if start.startswith(b"NRRD0"):
        return NRRD
    if b"NDims" in start and b"=" in start:
        return META
    if name.endswith((".img", ".img.gz")) or (_magic(start) or b"").startswith(b"ni"):
        return PAIR
    if _magic(start) or start.startswith(b"\x1f\x8b"):
        return PAIR if name.endswith(".hdr.gz") else NIFTI
    by_name: tuple[tuple[tuple[str, ...], str], ...] = (
        ((".nii", ".nii.gz"), NIFTI), ((".hdr",), PAIR), ((".mhd", ".mha"), META), ((".nrrd", ".nhdr"), NRRD),
        ((".dcm", ".dicom", ".ima"), DICOM),
    )  # fmt: skip
    for suffixes, kind in by_name:
        if name.endswith(suffixes):
            return kind
    of_raw = name.endswith((".raw", ".zraw", ".raw.gz"))
    remedy = "Give its header, the .mhd or .nhdr file." if of_raw else "Convert it."
    raise BadFileError(path, _RULE, "another kind of file", remedy)


def files_of(path: Path) -> list[Path]:
    """The files that a CT is read from, as far as they are there, ordered."""
    if path.is_dir():
        return files_below(path)
    try:
        kind = format_of(path)
        others = list(pair_of(path)) if kind == PAIR else [stored(path, kind).data] if kind in (META, NRRD) else []
    except BadFileError:  # reading it will say what is wrong
        others = []
    return [path, *(file for file in others if file != path and file.is_file())]


def pair_of(path: Path) -> tuple[Path, Path]:
    """Header and voxels of a NIfTI in two files, of which `path` is one.

    Raises:
        BadFileError: the other one is not there.
    """
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    if not name.lower().endswith((".hdr", ".img")):
        raise BadFileError(path, _PAIR_RULE, f"the name {path.name}", _PAIR_REMEDY)
    is_header, stem = name.lower().endswith(".hdr"), name[: -len(".hdr")].lower()
    wanted = {f"{stem}{'.img' if is_header else '.hdr'}{packed}" for packed in _PACKED}
    other = next((file for file in sorted(path.parent.iterdir()) if file.name.lower() in wanted), None)
    if other is None:
        raise BadFileError(path, _PAIR_RULE, f"{path.name} alone", _PAIR_REMEDY)
    return (path, other) if is_header else (other, path)


def _magic(start: bytes) -> bytes:
    """What a NIfTI header says it is: b"n+1" or b"ni1" with its version; nothing if it is none."""
    sizes = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    if not sizes & _NIFTI_SIZES:
        return b""
    magic = start[4:8] if sizes & _NIFTI_2 else start[344:348]
    return magic[:3] if magic[:2] in (b"n+", b"ni") else b""
