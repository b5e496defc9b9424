"""A NIfTI file -> one CT array with its affine. Nothing of a header is believed that the file does not bear out."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.affines import voxel_sizes
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.orientations import aff2axcodes

from common.errors import BadFileError, refusing_damage
from dataset.scans.hu import MAX_VOXELS, to_hu
from dataset.scans.orientation import check_affine
from dataset.scans.reading import PLAIN, Note, Reading
from dataset.scans.upright import HALF

MAX_BYTES = 2**33  # of the voxels as the file stores them
_MAX_OFFSET = 2**24  # bytes before the voxels: the header and what tools add to it
_MAX_GZIP_RATIO = 1040  # deflate packs at most 1032 bytes into one
_NIFTI2_HEADER = 540
DAMAGED = "Copy or export the file again."
_UNITS = {1: ("metres", 1000.0), 3: ("microns", 0.001)}  # all others are taken for mm
UNIT_RULE = "a CT's lengths are in mm"
_SPACING_MM = (0.05, 50.0)
_FORMS = "the two affines of a NIfTI file (sform and qform)"


def read_nifti(
    path: Path | tuple[Path, Path], reading: Reading = PLAIN
) -> tuple[np.ndarray, np.ndarray, tuple[Note, ...]]:
    """HU int16 (x, y, z) in file order, the affine to RAS mm, and what there is to tell.

    Args:
        path: the file, or the two of a pair, header and voxels.

    Raises:
        BadFileError: damaged, no CT volume, no usable affine. OSError, MemoryError: it cannot be read now.
    """
    header, data = path if isinstance(path, tuple) else (path, path)
    path = header
    with ExitStack() as files, LoggingOutputSuppressor():  # what nibabel would print is said by the error
        stream, compressed = _opened(data, files)
        about = stream if data == header else _opened(header, files)[0]
        with refusing_damage(path, "a NIfTI file is whole", DAMAGED):
            image = _open_nifti(about, stream, path)
            affine, notes = _check_header(image, path, _held(data, compressed), reading)
            proxy: Any = image.dataobj
            raw = np.asarray(proxy.get_unscaled())
            _check_end(stream, proxy, data, compressed)
    raw = raw.reshape(raw.shape[:3], order="F")
    return to_hu(raw, path, proxy.slope, proxy.inter + (reading.hu_offset or 0)), affine, notes


def nifti_geometry(path: Path | tuple[Path, Path]) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape (x, y, z) and affine to RAS mm, without reading a voxel. What a damaged file raises is an open list."""
    header, data = path if isinstance(path, tuple) else (path, path)
    with ExitStack() as files:
        stream, _ = _opened(data, files)
        image = _open_nifti(stream if data == header else _opened(header, files)[0], stream, header)
    return image.shape[:3], _in_mm(image)[0]


def _check_end(stream: Any, proxy: Any, path: Path, compressed: bool) -> None:
    """The file ends with the last voxel; reading up to there also checks a compressed file's checksum."""
    if compressed:
        more = bool(stream.read(1))  # of the rest nothing is unpacked
    else:
        more = path.stat().st_size > proxy.offset + int(np.prod(proxy.shape)) * proxy.dtype.itemsize
    if more:
        rule = "the header tells the size of all that the file holds"
        raise BadFileError(path, rule, f"{proxy.shape} and more bytes behind it", DAMAGED)


def _opened(path: Path, files: ExitStack) -> tuple[Any, bool]:
    """The unpacked stream of a file, and whether it is packed."""
    file = files.enter_context(path.open("rb"))
    compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return (igzip.IGzipFile(fileobj=file) if compressed else file), compressed


def _held(data: Path, compressed: bool) -> int:
    """Bytes that a file may unpack to."""
    return data.stat().st_size * (_MAX_GZIP_RATIO if compressed else 1)


def _open_nifti(header: Any, stream: Any, path: Path) -> nib.Nifti1Image:
    start = header.read(_NIFTI2_HEADER)
    header.seek(0)
    second = _NIFTI2_HEADER in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    layout = nib.nifti2.header_dtype if second else nib.nifti1.header_dtype
    if len(start) >= layout.itemsize:
        either = [np.frombuffer(start, order, 1)[0] for order in (layout, layout.newbyteorder())]
        offset = next((h["vox_offset"] for h in either if h["sizeof_hdr"] == layout.itemsize), None)
        if offset is None:  # nibabel would guess
            rule = "a NIfTI file begins with the size of its header, 348 or 540"
            raise BadFileError(path, rule, f"the bytes {start[:4].hex(' ')}", DAMAGED)
        if not offset <= _MAX_OFFSET:  # what lies before the voxels is read as a whole
            rule = f"the voxels of a NIfTI file begin within its first {_MAX_OFFSET >> 20} MB"
            raise BadFileError(path, rule, f"a header that says byte {offset:.3g}", DAMAGED)
    kind: Any
    if header is stream:
        kind, files = (nib.Nifti2Image if second else nib.Nifti1Image), {"image": stream}
    else:
        kind, files = (nib.Nifti2Pair if second else nib.Nifti1Pair), {"header": header, "image": stream}
    return kind.from_file_map(kind.make_file_map(files), mmap=False)  # a map's I/O error kills the process


def _check_header(
    image: nib.Nifti1Image, path: Path, held: int, reading: Reading
) -> tuple[np.ndarray, tuple[Note, ...]]:
    """The affine in mm. Refuses, before any voxel is read, what cannot be a CT or cannot be in this file."""
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) < 3 or min(shape[:3]) < 2 or any(n != 1 for n in shape[3:]):
        rule = "a CT is 3D, or 4D with a last axis of 1"
        raise BadFileError(path, rule, f"shape {shape}", "Export one volume per file.")
    if dtype.kind not in "iuf":
        raise BadFileError(path, "the voxels of a CT are plain numbers", str(dtype), "Export HU as int16.")
    voxels = int(np.prod(shape, dtype=object))
    needed = voxels * dtype.itemsize
    if voxels > MAX_VOXELS or needed > min(held, MAX_BYTES):
        rule = f"a CT has at most {MAX_VOXELS / 1e9:.1f}e9 voxels and {MAX_BYTES / 1e9:.1f} GB, all in the file"
        found = f"a header of {shape} ({needed / 1e9:.3g} GB), a file of at most {held / 1e6:.3g} MB"
        raise BadFileError(path, rule, found, DAMAGED)
    if max(int(image.header["sform_code"]), int(image.header["qform_code"])) <= 0:
        rule, found = "a usable affine tells left from right", "none: the sform and qform codes are 0"
        remedy = "Convert the scan again with a tool that keeps its position and orientation."
        raise BadFileError(path, rule, found, remedy)
    affine, factor = _in_mm(image)
    check_affine(affine, shape, path, reading.tilt)
    unit = _UNITS.get(int(image.header["xyzt_units"]) & 7, ("mm", 1.0))[0]
    return affine, (*unit_notes(unit, factor, affine, path), *_form_notes(image, path))


def _in_mm(image: Any) -> tuple[np.ndarray, float]:
    """The affine in mm, and how many mm its unit has."""
    factor = _UNITS.get(int(image.header["xyzt_units"]) & 7, ("", 1.0))[1]
    return np.diag([factor, factor, factor, 1.0]) @ image.affine, factor


def unit_notes(unit: str, factor: float, affine: np.ndarray, path: Path) -> list[Note]:
    """What a unit of `factor` mm is to tell, or BadFileError; `affine` in mm."""
    if factor == 1:
        return []
    sizes = voxel_sizes(affine)
    found = f"{unit}, by which voxels measure {' x '.join(f'{size:.3g}' for size in sizes)} mm"
    remedy = "Write the header with its true unit (xyzt_units, space units, DistanceUnits)."
    if sizes.min() < _SPACING_MM[0] or sizes.max() > _SPACING_MM[1]:
        raise BadFileError(path, UNIT_RULE, found, remedy)
    return [Note(UNIT_RULE, found, remedy, doubtful=True)]


def _form_notes(image: Any, path: Path) -> list[Note]:
    """What sform, qform and pixdim say of each other. The sform is the one that is used."""
    header = image.header
    if int(header["sform_code"]) <= 0:
        return []
    extent = np.array(image.shape[:3]) - 1
    sform, stored = image.get_sform(), np.abs(header["pixdim"][1:4].astype(float))
    sizes = voxel_sizes(sform)
    slack = HALF * sizes.min()
    if not (np.abs(sizes - stored) * extent <= slack).all():
        found = " and ".join(" x ".join(f"{size:.4g}" for size in three) for three in (sizes, stored))
        remedy = "Find out which is right, and write it as both."
        raise BadFileError(path, f"{_FORMS} and pixdim tell one size of voxels", found, remedy)
    if int(header["qform_code"]) <= 0:
        return []
    qform = image.get_qform()
    axes = ["".join(axis or "?" for axis in aff2axcodes(affine)) for affine in (sform, qform)]
    if axes[0] != axes[1]:
        remedy = "Find out which is right, or left and right may be exchanged; write it as both."
        raise BadFileError(path, f"{_FORMS} say alike where the axes run", " and ".join(axes), remedy)
    off = np.linalg.norm(sform[:3, :3] - qform[:3, :3], axis=0) * extent
    if not off.max() > slack:
        return []
    found = f"directions that part by up to {off.max():.1f} mm over the volume; the sform is used"
    rule = f"{_FORMS} say alike where the axes run"
    return [Note(rule, found, "Write the right one as both.", doubtful=True)]
