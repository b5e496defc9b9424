"""A folder of DICOM files -> one CT array with its affine. Geometry and voxels are kept, no patient tags."""

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from common.errors import BadFileError, refusing_damage
from dataset.scans.dicom_file import quiet_pydicom, read_dicom
from dataset.scans.dicom_slices import EXPORT, Grid, Slice, find_slices
from dataset.scans.hu import MAX_VOXELS, to_hu
from dataset.scans.measure import fingerprint
from dataset.scans.reading import PLAIN, Note, Reading
from dataset.scans.resample import AIR_HU
from dataset.scans.series import choose
from dataset.scans.stack import Stack, stacked

_LEAST_TISSUE_HU = -900  # padding that would be more than air may occur in the body
_MOST_CT = 16384  # stored; no CT has more


def read_dicom_ct(path: Path, reading: Reading = PLAIN) -> tuple[np.ndarray, np.ndarray, tuple[Note, ...]]:
    """The CT in the folder `path` and below, or in one file of many frames: HU int16 (x, y, z), x along a slice's rows,
    its affine to RAS mm, aslant where the gantry was, and what there is to tell.

    Raises:
        BadFileError: no CT or several, damaged, missing or duplicate slices.
        OSError, MemoryError: it cannot be read now.
    """
    stack, notes = _stack(path, reading)
    return _read_voxels(stack, reading.hu_offset or 0.0), stack.affine, notes


def dicom_geometry(path: Path, reading: Reading = PLAIN) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of what `read_dicom_ct` gives, without reading a voxel; raises as it does."""
    stack, _ = _stack(path, reading)
    return stack.shape, stack.affine


def _stack(path: Path, reading: Reading) -> tuple[Stack, tuple[Note, ...]]:
    slices, passed = find_slices(path, rescaled=reading.hu_offset is None)
    slices = _without_copies(slices, passed)
    chosen, notes = choose(slices, passed, path, reading.series)
    rows, columns = chosen[0].grid.rows, chosen[0].grid.columns
    if len(chosen) * rows * columns > MAX_VOXELS:
        found = f"{len(chosen)} slices of {rows} x {columns}"
        raise BadFileError(path, f"a CT has at most {MAX_VOXELS / 1e9:.1f}e9 voxels", found, EXPORT)
    stack = stacked(chosen, path, reading.irregular)
    return stack, notes + stack.notes


def _without_copies(slices: list[Slice], passed: Counter[str]) -> list[Slice]:
    """Each slice once: what was sent twice, or copied, is counted in `passed` where it has the same voxels."""
    voxels = cache(lambda path, grid: fingerprint(_stored_values(path, grid)))
    kept: dict[tuple[object, ...], list[Slice]] = {}
    for piece in slices:
        same = (piece.series, piece.instance, piece.frame, piece.grid, piece.slope, piece.intercept, *piece.position)
        others = kept.setdefault(same if piece.instance else (piece.path, piece.frame), [])
        if any(voxels(piece.path, piece.grid) == voxels(other.path, other.grid) for other in others):
            passed["copies of others"] += 1
        else:
            others.append(piece)
    return [piece for pieces in kept.values() for piece in pieces]


def _read_voxels(stack: Stack, offset: float) -> np.ndarray:
    """HU int16 (x, y, z); `offset` is added to what the files say."""
    grid, path = stack.slices[0].grid, stack.slices[0].path
    frames = _stored_values(path, grid)  # first, so that a header of untrue size takes no memory
    out = np.empty((len(stack.slices), grid.rows, grid.columns), dtype=np.int16)
    for index, piece in enumerate(stack.slices):
        if path != piece.path:
            path, frames = piece.path, _stored_values(piece.path, grid)
        out[index] = _hu_of(piece, frames, offset)
    return (out if stack.depths is None else _between(out, stack.depths)).T


def _hu_of(piece: Slice, frames: np.ndarray, offset: float) -> np.ndarray:
    """HU int16 (rows, columns); where nothing was scanned, `AIR_HU`."""
    stored, outside = frames[piece.frame], None
    if piece.padding is not None:
        low, high = piece.padding
        outside = (stored >= low) & (stored <= high)
        if min(low * piece.slope, high * piece.slope) + piece.intercept > _LEAST_TISSUE_HU and high < _MOST_CT:
            outside = _from_the_border(outside)  # the body may hold this number, too
        stored = np.where(outside, 0, stored)
    hu = to_hu(stored[..., None], piece.path, piece.slope, piece.intercept + offset)[..., 0]
    return hu if outside is None else np.where(outside, AIR_HU, hu)


def _from_the_border(outside: np.ndarray) -> np.ndarray:
    """What of a mask (rows, columns) hangs together with the image's border."""
    border = np.ones_like(outside)
    border[1:-1, 1:-1] = False
    return ndimage.binary_propagation(border & outside, mask=outside)


def _between(hu: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """int16 (n, rows, columns): linearly interpolated slices at n fractional indices of those there are."""
    out = np.empty((len(depths), *hu.shape[1:]), dtype=np.int16)
    for index, depth in enumerate(depths):
        below = min(int(depth), len(hu) - 2)
        part = np.float32(depth - below)
        out[index] = np.rint((1 - part) * hu[below] + part * hu[below + 1])
    return out


def _stored_values(path: Path, grid: Grid) -> np.ndarray:
    """Stored numbers (frames, rows, columns), decompressed."""
    rule = "the voxels of a DICOM file are whole and in a compression that an installed decoder reads"
    remedy = f"{EXPORT} If it is compressed, install python-gdcm or export it uncompressed."
    with refusing_damage(path, rule, remedy, quote=False), quiet_pydicom():
        values = read_dicom(path).pixel_array
        if values.shape[-2:] != (grid.rows, grid.columns):  # colours, for instance
            raise ValueError
        return values.reshape(-1, grid.rows, grid.columns)
