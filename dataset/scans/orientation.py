"""One frame for all volumes: axes (D, H, W) run foot->head, front->back, patient right->left.

That is the memory order of an "LPS" image (its axes x, y, z named by the side they run to): array (z, y, x).
Affines follow nibabel: voxel (x, y, z) = (w, h, d) -> RAS millimetres.
"""

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

CANONICAL_AXES = "LPS"
_OPPOSITES = (frozenset("LR"), frozenset("PA"), frozenset("SI"))
_MAX_AXIS_COSINE = 0.02  # about 1 degree away from a right angle


def check_affine(affine: np.ndarray, path: Path) -> None:
    """Raise BadFileError if `affine` (4, 4) of the file `path` is not finite, singular or sheared."""
    columns = np.asarray(affine, dtype=float)[:3, :3]
    sizes = np.linalg.norm(columns, axis=0)
    if not (np.isfinite(affine).all() and (sizes > 0).all() and abs(np.linalg.det(columns / sizes)) > 0.1):
        rule = "a usable affine has finite values and three independent directions"
        remedy = "Export the scan again with its position and orientation."
        raise BadFileError(path, rule, f"rows {columns.tolist()}", remedy)
    cosine = np.abs((columns / sizes).T @ (columns / sizes) - np.eye(3)).max()
    if cosine > _MAX_AXIS_COSINE:
        rule = "the axes of a CT stand at right angles (no tilted gantry)"
        found = f"a cosine of {cosine:.3f} between two axes"
        raise BadFileError(path, rule, found, "Resample the scan to an upright grid first.")


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
