"""A folder of DICOM files -> one CT array with its affine. Geometry and voxels are kept, no patient tags."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import BadFileError, refusing_damage
from dataset.scans.dicom_file import quiet_pydicom, read_dicom
from dataset.scans.dicom_slices import EXPORT, Slice, find_slices
from dataset.scans.hu import MAX_VOXELS, to_hu

_MIN_SLICES = 10  # fewer make no chest volume: scouts, bolus tracking
_SAME_POSITION_MM = 0.01
_STEP_TOLERANCE = 0.1  # of the step between slices


def read_dicom_folder(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The CT in `folder` and below: HU int16 (x, y, z), x along a slice's rows, and its affine to RAS mm.

    Raises:
        BadFileError: no CT or several, damaged, missing or duplicate slices, a tilted gantry.
        OSError, MemoryError: it cannot be read now.
    """
    slices, step = _stack(folder)
    return _read_voxels(slices), _affine(slices[0], step)


def dicom_geometry(folder: Path) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of what `read_dicom_folder` gives, without reading a voxel; raises as it does."""
    slices, step = _stack(folder)
    rows, columns = slices[0].series[2:4]
    return (columns, rows, len(slices)), _affine(slices[0], step)


def _stack(folder: Path) -> tuple[list[Slice], np.ndarray]:
    """The slices of the CT along their normal, and the step (3,) in LPS mm from one to the next."""
    chosen = _the_volume(find_slices(folder), folder)
    normal = chosen[0].normal
    chosen = sorted(chosen, key=lambda piece: float(piece.position @ normal))
    return chosen, _check_positions(chosen, folder)


def _the_volume(slices: list[Slice], folder: Path) -> list[Slice]:
    """The slices of the only series that can be a volume; all of one series have the same grid."""
    by_uid: dict[str, list[Slice]] = defaultdict(list)
    by_series: dict[tuple[Any, ...], list[Slice]] = defaultdict(list)
    for piece in slices:
        by_uid[piece.series[0]].append(piece)
        by_series[piece.series].append(piece)
    volumes = [pieces for pieces in by_uid.values() if len(pieces) >= _MIN_SLICES]
    if len(volumes) == 1 and len({piece.series for piece in volumes[0]}) == 1:
        rows, columns = volumes[0][0].series[2:4]
        if len(volumes[0]) * rows * columns > MAX_VOXELS:
            found = f"{len(volumes[0])} slices of {rows} x {columns}"
            raise BadFileError(folder, f"a CT has at most {MAX_VOXELS / 1e9:.1f}e9 voxels", found, EXPORT)
        return volumes[0]
    listed = "; ".join(
        f"series {series[1]}: {len(pieces)} slices of {series[2]} x {series[3]}, {series[5][0]:g} mm pixels,"
        f" in {pieces[0].path.relative_to(folder).parent}"
        for series, pieces in by_series.items()
    )
    rule = f"a DICOM folder holds one CT series of at least {_MIN_SLICES} slices, all on one grid"
    raise BadFileError(folder, rule, listed or "no CT slice", "Keep the wanted series alone in the folder.")


def _check_positions(slices: list[Slice], folder: Path) -> np.ndarray:
    """The step (3,) in LPS mm from slice to slice, if they are evenly stacked along their normal."""
    normal = slices[0].normal
    places = np.array([piece.position for piece in slices])
    depths = places @ normal
    steps = np.diff(depths)
    same = [f"{depths[i]:g} mm" for i in np.flatnonzero(steps < _SAME_POSITION_MM)]
    if same:
        found = f"{len(same)} duplicate position(s): {', '.join(same[:5])}"
        raise BadFileError(folder, "every slice of a series has a position of its own", found, EXPORT)
    usual = float(np.median(steps))
    gaps = np.flatnonzero(np.abs(steps - usual) > _STEP_TOLERANCE * usual)
    if len(gaps):
        found = ", ".join(f"{steps[i]:g} mm between {depths[i]:g} and {depths[i + 1]:g} mm" for i in gaps[:5])
        rule = f"slices are evenly spaced ({usual:g} mm here): none is missing"
        raise BadFileError(folder, rule, f"steps of {found}", EXPORT)
    step = (places[-1] - places[0]) / (len(slices) - 1)
    drift = np.linalg.norm(step - normal * (step @ normal)) * (len(slices) - 1)
    if drift > max(slices[0].pixel_mm):
        angle = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
        raise BadFileError(
            folder,
            "slices are stacked at right angles (no tilted gantry)",
            f"a tilt of {angle:.1f} degrees, {drift:.1f} mm from first to last slice",
            "Convert the series with a tool that corrects the gantry tilt, and give the NIfTI file.",
        )
    return normal * float(step @ normal)


def _affine(first: Slice, step: np.ndarray) -> np.ndarray:
    rows_mm, columns_mm = first.pixel_mm
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * columns_mm
    affine[:3, 1] = first.orientation[3:] * rows_mm
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS -> RAS


def _read_voxels(slices: list[Slice]) -> np.ndarray:
    """HU int16 (x, y, z)."""
    rows, columns = slices[0].series[2:4]
    path = slices[0].path
    frames = _stored_values(path, rows, columns)  # first, so that a header of untrue size takes no memory
    out = np.empty((len(slices), rows, columns), dtype=np.int16)
    for index, piece in enumerate(slices):
        if path != piece.path:
            path, frames = piece.path, _stored_values(piece.path, rows, columns)
        out[index] = to_hu(frames[piece.frame, ..., None], path, piece.slope, piece.intercept)[..., 0]
    return out.T


def _stored_values(path: Path, rows: int, columns: int) -> np.ndarray:
    """Stored numbers (frames, rows, columns), decompressed."""
    rule = "the voxels of a DICOM file are whole and in a compression that an installed decoder reads"
    remedy = f"{EXPORT} If it is compressed, install python-gdcm or export it uncompressed."
    with refusing_damage(path, rule, remedy, quote=False), quiet_pydicom():
        values = read_dicom(path).pixel_array
        if values.shape[-2:] != (rows, columns):  # colours, for instance
            raise ValueError
        return values.reshape(-1, rows, columns)
