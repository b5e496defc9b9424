"""CT volumes on disk <-> int16 HU arrays in the canonical frame (dataset/scans/orientation.py)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.orientations import aff2axcodes

from common.errors import BadFileError, refusing_damage
from common.geometry import triple
from common.voxel_file import box_of
from dataset.scans.dicom_io import read_dicom_folder
from dataset.scans.hu import MAX_VOXELS, to_hu
from dataset.scans.nifti_stream import stream_ct
from dataset.scans.orientation import CANONICAL_AXES, check_affine, spacing_of, to_canonical

MAX_BYTES = 2**33  # of the voxels as the file stores them
_MAX_OFFSET = 2**24  # bytes before the voxels: the header and what tools add to it
_MAX_GZIP_RATIO = 1040  # deflate packs at most 1032 bytes into one
_NIFTI2_HEADER = 540
_DAMAGED = "Copy or export the file again."


@dataclass(frozen=True)
class Volume:
    """A CT in the canonical frame.

    hu: int16 (D, H, W), foot->head, front->back, patient right->left.
    affine: (4, 4), voxel (w, h, d) -> RAS mm.
    source_axes: where the axes of the file ran, such as "LAS"; source_affine: the file's own affine.
    """

    hu: np.ndarray
    affine: np.ndarray
    source_axes: str
    source_affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size (d, h, w) in mm."""
        return spacing_of(self.affine)


def read_ct(path: Path | str) -> Volume:
    """Read a .nii or .nii.gz file, or a folder of DICOM slices.

    Raises:
        OSError, MemoryError: no such path, or the machine cannot read it now.
        BadFileError: (a ValueError) damaged, no CT volume, no usable affine, or NaN; names file and remedy.
    """
    path = Path(path)
    if path.is_dir():
        array, affine = read_dicom_folder(path)
    elif path.name.endswith((".nii", ".nii.gz")) and (path.is_file() or not path.exists()):
        array, affine = _read_nifti(path)
    else:
        rule = "a CT is a .nii or .nii.gz file or a folder of DICOM slices"
        raise BadFileError(path, rule, "another kind of file", "Convert it.")
    check_affine(affine, path)
    hu, canonical, axes = to_canonical(array, affine)
    return Volume(np.ascontiguousarray(hu), canonical, axes, affine)


def write_ct(
    path: Path | str, hu: np.ndarray, affine: np.ndarray, axes: str = CANONICAL_AXES, description: str = ""
) -> None:
    """Write HU (D, H, W) of the canonical frame, in memory, as `stream_ct` does. Numbers are rounded.

    The same voxel keeps its world position whatever `axes` says. Raises ValueError besides if a value is no int16.
    """
    if hu.ndim != 3:
        raise ValueError(f"a CT to write must have axes (D, H, W), got shape {hu.shape} for {path}")
    stream_ct(Path(path), box_of(to_hu(hu, Path(path))), triple(hu.shape), affine, axes, description)


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """HU int16 (x, y, z) in file order and the affine."""
    with path.open("rb") as file, LoggingOutputSuppressor():  # what nibabel would print is said by the error
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = igzip.IGzipFile(fileobj=file) if compressed else file
        with refusing_damage(path, "a NIfTI file is whole", _DAMAGED):
            image = _open_nifti(stream, path)
            _check_header(image, path, compressed)
            proxy: Any = image.dataobj
            raw = np.asarray(proxy.get_unscaled())
            _check_end(stream, proxy, path, compressed)
    raw = raw.reshape(raw.shape[:3], order="F")
    return to_hu(raw, path, proxy.slope, proxy.inter), image.affine


def _check_end(stream: Any, proxy: Any, path: Path, compressed: bool) -> None:
    """The file ends with the last voxel; reading up to there also checks a compressed file's checksum."""
    if compressed:
        more = bool(stream.read(1))  # of the rest nothing is unpacked
    else:
        more = path.stat().st_size > proxy.offset + int(np.prod(proxy.shape)) * proxy.dtype.itemsize
    if more:
        rule = "the header tells the size of all that the file holds"
        raise BadFileError(path, rule, f"{proxy.shape} and more bytes behind it", _DAMAGED)


def _open_nifti(stream: Any, path: Path) -> nib.Nifti1Image:
    start = stream.read(_NIFTI2_HEADER)
    stream.seek(0)
    newer = _NIFTI2_HEADER in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    kind, layout = (nib.Nifti2Image, nib.nifti2.header_dtype) if newer else (nib.Nifti1Image, nib.nifti1.header_dtype)
    if len(start) >= layout.itemsize:
        either = [np.frombuffer(start, order, 1)[0] for order in (layout, layout.newbyteorder())]
        offset = next((h["vox_offset"] for h in either if h["sizeof_hdr"] == layout.itemsize), None)
        if offset is None:  # nibabel would guess
            rule = "a NIfTI file begins with the size of its header, 348 or 540"
            raise BadFileError(path, rule, f"the bytes {start[:4].hex(' ')}", _DAMAGED)
        if not offset <= _MAX_OFFSET:  # what lies before the voxels is read as a whole
            rule = f"the voxels of a NIfTI file begin within its first {_MAX_OFFSET >> 20} MB"
            raise BadFileError(path, rule, f"a header that says byte {offset:.3g}", _DAMAGED)
    return kind.from_file_map(kind.make_file_map({"image": stream}), mmap=False)  # a map's I/O error kills the process


def _check_header(image: nib.Nifti1Image, path: Path, compressed: bool) -> None:
    """Refuse, before any voxel is read, what cannot be a CT or cannot be in this file."""
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) < 3 or min(shape[:3]) < 2 or any(n != 1 for n in shape[3:]):
        rule = "a CT is 3D, or 4D with a last axis of 1"
        raise BadFileError(path, rule, f"shape {shape}", "Export one volume per file.")
    if dtype.kind not in "iuf":
        raise BadFileError(path, "the voxels of a CT are plain numbers", str(dtype), "Export HU as int16.")
    voxels = int(np.prod(shape, dtype=object))
    needed, held = voxels * dtype.itemsize, path.stat().st_size * (_MAX_GZIP_RATIO if compressed else 1)
    if voxels > MAX_VOXELS or needed > min(held, MAX_BYTES):
        rule = f"a CT has at most {MAX_VOXELS / 1e9:.1f}e9 voxels and {MAX_BYTES / 1e9:.1f} GB, all in the file"
        found = f"a header of {shape} ({needed / 1e9:.3g} GB), a file of {path.stat().st_size / 1e6:.3g} MB"
        raise BadFileError(path, rule, found, _DAMAGED)
    codes = (int(image.header["sform_code"]), int(image.header["qform_code"]))
    if max(codes) <= 0:
        rule, found = "a usable affine tells left from right", "none: the sform and qform codes are 0"
        remedy = "Convert the scan again with a tool that keeps its position and orientation."
        raise BadFileError(path, rule, found, remedy)
    check_affine(image.affine, path)
    affines = (image.get_sform(), image.get_qform()) if min(codes) > 0 else (image.affine,)
    axes = ["".join(axis or "?" for axis in aff2axcodes(affine)) for affine in affines]
    if axes[0] != axes[-1]:
        rule = "the two affines of a NIfTI file (sform and qform) say alike where the axes run"
        remedy = "Find out which is right, or left and right may be exchanged; write it as both."
        raise BadFileError(path, rule, " and ".join(axes), remedy)
