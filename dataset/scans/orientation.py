"""One frame for all volumes: axes (D, H, W) run foot->head, front->back, patient right->left.

That is the memory order of an "LPS" image (its axes x, y, z named by the side they run to): array (z, y, x).
Affines follow nibabel: voxel (x, y, z) = (w, h, d) -> RAS millimetres.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from common.errors import BadFileError, UserError
from dataset.scans.reading import REFUSE
from dataset.scans.upright import UPRIGHT_RULE, tilt_of

CANONICAL_AXES = "LPS"
_OPPOSITES = (frozenset("LR"), frozenset("PA"), frozenset("SI"))


def check_affine(affine: np.ndarray, shape: Sequence[int], path: Path, tilt: str = REFUSE) -> None:
    """Raise BadFileError if `affine` (4, 4) of the file `path` is not finite or singular; or sheared by more than half
    a voxel over the whole of `shape` (x, y, z), unless `tilt` lets that be set upright.
    """
    columns = np.asarray(affine, dtype=float)[:3, :3]
    sizes = np.linalg.norm(columns, axis=0)
    if not (np.isfinite(affine).all() and (sizes > 0).all() and abs(np.linalg.det(columns / sizes)) > 0.1):
        rule = "a usable affine has finite values and three independent directions"
        remedy = "Export the scan again with its position and orientation."
        raise BadFileError(path, rule, f"rows {columns.tolist()}", remedy)
    degrees, off_mm = tilt_of(affine, shape)
    if off_mm and tilt == REFUSE:
        found = f"a tilt of {degrees:.1f} degrees, voxels up to {off_mm:.1f} mm off"
        remedy = "Set the scan upright with dataset.tilt=resample, or with a tool that corrects the gantry tilt."
        raise BadFileError(path, UPRIGHT_RULE, found, remedy, "Set it upright with a tool that corrects that.")


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel sizes (d, h, w) in mm of a canonical affine."""
    x, y, z = (float(size) for size in voxel_sizes(affine))
    return z, y, x


def to_canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Array (x, y, z) in any axes -> view (D, H, W), its affine, the axes it came in ("LAS").

    An oblique array is permuted and flipped to the closest axes, never resampled: its affine stays rotated.
    """
    axes = "".join(aff2axcodes(affine))
    change = ornt_transform(io_orientation(affine), axcodes2ornt(CANONICAL_AXES))
    turned = apply_orientation(array, change)
    return turned.transpose(2, 1, 0), affine @ inv_ornt_aff(change, array.shape), axes


def from_canonical(volume: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """View (D, H, W) -> array (x, y, z) whose axes run to `axes`, and its affine; undoes `to_canonical`."""
    if len(axes) != 3 or any(len(pair & frozenset(axes)) != 1 for pair in _OPPOSITES):
        raise UserError(f"axes must hold one letter each of L/R, P/A and S/I, such as 'LPS', got {axes!r}")
    found = "".join(aff2axcodes(affine))
    if found != CANONICAL_AXES:
        raise ValueError(f"the affine must be that of a canonical volume ({CANONICAL_AXES}), got one of {found}")
    array = volume.transpose(2, 1, 0)
    change = ornt_transform(axcodes2ornt(CANONICAL_AXES), axcodes2ornt(axes))
    turned = affine @ inv_ornt_aff(change, array.shape)
    # flipping twice leaves 1e-14 where the origin was 0
    return apply_orientation(array, change), np.round(turned, 12)
