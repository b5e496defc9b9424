"""NIfTI files written and combined piece by piece, with memory that does not grow with the volume."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip, igzip_threaded
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform
from numpy.typing import NDArray

from common.atomic import replacing
from common.errors import UserError
from common.geometry import Triple, triple
from common.told import heard_later
from common.voxel_file import ReadBox
from dataset.scans.orientation import CANONICAL_AXES, check_affine, from_canonical

PIECE = 1 << 22  # voxels held at once
LEVEL = 3  # the highest: as small as zlib's level 1, in a quarter of its time
THREADS = 4  # that pack; their number does not change the bytes
_DESCRIPTION_BYTES = 79


def stream_ct(path: Path, read: ReadBox, shape: Triple, affine: NDArray, axes: str, description: str) -> None:
    """Write a CT as int16 NIfTI (.nii or .nii.gz) whose axes run to `axes`; the file appears whole or not at all.

    Args:
        read: boxes of the canonical volume (D, H, W) of `shape`.
        affine: (4, 4), voxel (w, h, d) -> RAS mm, canonical. description: at most 79 bytes.

    Raises:
        ValueError: another ending, axes that are none, an affine that is not canonical, a longer description.
        OSError: the disk is full, ...
    """
    header = _header(path, shape, affine, axes, description)
    with replacing(path) as temporary, _voxel_writer(temporary, header) as file:
        for piece in _file_order(read, shape, axes):
            file.write(piece.tobytes(order="F"))


def write_mean_and_std(samples: Sequence[Path], mean: Path, std: Path, descriptions: tuple[str, str]) -> None:
    """Mean and standard deviation, voxel by voxel, of NIfTIs of one grid that `stream_ct` wrote.

    int16 HU, rounded; the deviation is that of a sample of a distribution (n - 1).
    """
    if len(samples) < 2:
        raise ValueError(f"a standard deviation needs at least 2 samples, got {len(samples)}")
    with ExitStack() as stack:
        files = [stack.enter_context(_opened(path)) for path in samples]
        headers = [nib.Nifti1Header.from_fileobj(file) for file in files]
        for file, header in zip(files, headers, strict=True):
            file.read(int(header["vox_offset"]) - file.tell())
        shapes = {header.get_data_shape() for header in headers}
        if len(shapes) > 1:
            raise UserError(f"samples of one X-ray lie on one grid, got {sorted(shapes)} in {samples[0].parent}")
        out = []
        for path, text in zip((mean, std), descriptions, strict=True):
            header = headers[0].copy()
            header["descrip"] = text.encode()
            temporary = stack.enter_context(replacing(path))
            out.append(stack.enter_context(_voxel_writer(temporary, header)))
        for values in _pieces(files, int(np.prod(shapes.pop()))):
            out[0].write(np.rint(values.mean(0)).astype("<i2").tobytes())
            out[1].write(np.rint(values.std(0, ddof=1)).astype("<i2").tobytes())


def _pieces(files: Sequence[Any], voxels: int) -> Iterator[NDArray[np.float32]]:
    """(N, voxels of a piece) of N files."""
    step = max(1, PIECE // (4 * len(files)))
    for start in range(0, voxels, step):
        count = min(step, voxels - start)
        yield np.stack([np.frombuffer(file.read(2 * count), dtype="<i2") for file in files]).astype(np.float32)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with igzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        yield file


@contextmanager
def _voxel_writer(path: Path, header: nib.Nifti1Header) -> Iterator[Any]:
    """The file after its header, packed if its name says so."""
    packed = path.name.endswith(".gz")
    # left in the middle, threads that pack would wait for one another for good
    with heard_later(), igzip_threaded.open(path, "wb", LEVEL, threads=THREADS) if packed else path.open("wb") as file:
        header.write_to(file)
        yield file


def _header(path: Path, shape: Triple, affine: NDArray, axes: str, description: str) -> nib.Nifti1Header:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise UserError(f"a CT is written as .nii or .nii.gz, got {path}")
    if len(description.encode()) > _DESCRIPTION_BYTES:
        raise ValueError(f"a NIfTI description has at most {_DESCRIPTION_BYTES} bytes, got {description!r}")
    affine = np.asarray(affine, dtype=float)
    check_affine(affine, shape[::-1], path)
    outline = np.broadcast_to(np.int16(0), shape)  # the axes' order and lengths, without voxels
    turned, file_affine = from_canonical(outline, affine, axes)
    image = nib.Nifti1Image(turned, file_affine, dtype=np.int16)
    image.set_qform(file_affine, code="scanner")
    image.set_sform(file_affine, code="scanner")
    header = image.header
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    header["descrip"] = description.encode()
    return header


def _file_order(read: ReadBox, shape: Triple, axes: str) -> Iterator[NDArray[np.int16]]:
    """The volume in pieces (x, y, z) along the file's slowest axis, as they follow one another in the file."""
    change = ornt_transform(axcodes2ornt(CANONICAL_AXES), axcodes2ornt(axes))
    slowest = int(np.flatnonzero(change[:, 0] == 2)[0])  # of the canonical axes x, y, z
    axis, flipped = 2 - slowest, change[slowest, 1] < 0  # in (D, H, W)
    total = shape[axis]
    step = max(1, PIECE * total // int(np.prod(shape, dtype=np.int64)))
    for low in range(0, total, step):
        high = min(total, low + step)
        start, size = [0, 0, 0], list(shape)
        start[axis], size[axis] = (total - high if flipped else low), high - low
        yield apply_orientation(read(triple(start), triple(size)).transpose(2, 1, 0), change).astype("<i2", copy=False)
