"""Frontal digitally reconstructed radiographs (DRR) of a CT: parallel and cone beam.

Geometry is in millimetres from the volume's centre: x right -> left, y front -> back, z foot -> head. The
picture has the head up and the patient's left on its right side.
"""

from collections.abc import Sequence

import numpy as np

from common.errors import UserError
from common.geometry import Spacing, axis_weights, centres
from dataset.scans.xray_io import fov_affine

WATER_PER_MM = 0.0195  # attenuation of water at about 70 keV
FULL_SCALE = 10.0  # line integral that becomes white: 0.51 m of water


def attenuation(hu: np.ndarray) -> np.ndarray:
    """HU of any shape -> linear attenuation, float32 per mm, 0 for air."""
    return (np.clip(hu, -1000, 3000).astype(np.float32) + 1000) * np.float32(WATER_PER_MM / 1000)


def frontal_drr(
    hu: np.ndarray,
    spacing: Sequence[float],
    size: int = 512,
    fov_mm: float | None = None,
    source_mm: float | None = None,
    view: str = "pa",
) -> tuple[np.ndarray, np.ndarray]:
    """Line integrals of a CT from front to back.

    Args:
        hu: (D, H, W), axes foot -> head, front -> back, patient right -> left.
        spacing: (d, h, w) in mm.
        size: rows and columns of the picture.
        fov_mm: side of the square it shows, at the volume's central coronal plane; default: the larger of the
            volume's height and width. A cone beam leaves out the edges of what lies nearer to its source.
        source_mm: distance of a point source from the central plane (a clinical film: about 1700); None gives
            parallel rays.
        view: "pa" (source behind the patient) or "ap" (in front, as at the bedside); without effect on parallel rays.

    Returns:
        (size, size) float32 line integrals (no unit), 0 where rays miss the volume, and the (2, 3) affine
        (x mm, z mm, 1) -> (column, row), which for a cone beam holds at the central plane.

    Raises:
        ValueError: bad arguments, or nothing but air in the picture.
    """
    sd, sh, sw = (float(s) for s in spacing)
    _check_input(hu, (sd, sh, sw), size, view, source_mm)
    depth, _, width = hu.shape
    pixel = (fov_mm or max(depth * sd, width * sw)) / size
    x = centres(size, pixel)
    z = -x
    if source_mm is None:
        total = np.stack([attenuation(plane).sum(0) for plane in hu]) * np.float32(sh)  # (D, W), one plane in memory
        integrals = axis_weights(depth, sd, z) @ total @ axis_weights(width, sw, x).T
    else:
        integrals = _cone_beam(hu, (sd, sh, sw), x, z, source_mm if view == "pa" else -source_mm)
    _check_picture(integrals, hu.shape, size * pixel)
    return integrals, fov_affine(size, size * pixel)


def _check_input(hu: np.ndarray, spacing: Spacing, size: int, view: str, source_mm: float | None) -> None:
    if hu.ndim != 3 or min(hu.shape) < 1:
        raise ValueError(f"a CT is (D, H, W), got an array of shape {hu.shape}")
    if not np.isfinite(spacing).all() or min(spacing) <= 0:
        raise UserError(f"spacing must be three positive lengths in mm, got {spacing}")
    if size < 2:
        raise ValueError(f"size must be at least 2 pixels, got {size}")
    if view not in ("pa", "ap"):
        raise UserError(f"view must be 'pa' or 'ap', got {view!r}")
    reach = hu.shape[1] * spacing[1] / 2
    if source_mm is not None and source_mm <= reach:
        raise UserError(f"the source must lie outside the volume: source_mm > {reach:g}, got {source_mm:g}")


def _check_picture(integrals: np.ndarray, shape: tuple[int, ...], fov_mm: float) -> None:
    if not integrals.any():
        raise UserError(
            f"the projection of the CT {shape} is empty: no voxel above -1000 HU in the field of view"
            f" of {fov_mm:g} mm; is this a CT in HU?"
        )


def _cone_beam(hu: np.ndarray, spacing: Spacing, x: np.ndarray, z: np.ndarray, source_y: float) -> np.ndarray:
    """Rays from (0, source_y, 0) through the points (x, 0, z): each coronal plane is a scaled picture."""
    (depth, height, width), (sd, sh, sw) = hu.shape, spacing
    total = np.zeros((len(z), len(x)), np.float32)
    for row in range(height):
        plane = attenuation(hu[:, row])
        if not plane.any():
            continue
        y = (row - (height - 1) / 2) * sh
        shrink = (source_y - y) / source_y  # rays lie closer together near the source
        total += axis_weights(depth, sd, z * shrink) @ plane @ axis_weights(width, sw, x * shrink).T
    slant = np.sqrt(1 + (x[None] ** 2 + z[:, None] ** 2) / source_y**2)  # path per mm of depth
    return (total * slant * sh).astype(np.float32)


def to_intensity(integrals: np.ndarray) -> np.ndarray:
    """Line integrals -> [0, 1] float32 on one linear scale for all cases; bright = dense, white from FULL_SCALE."""
    return np.clip(integrals / FULL_SCALE, 0, 1).astype(np.float32)
