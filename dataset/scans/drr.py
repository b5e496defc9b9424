"""Digitally reconstructed radiographs (DRR) of a CT: parallel and cone beam, from any side.

Geometry is in millimetres from the volume's centre: x right -> left, y front -> back, z foot -> head. The
picture has the head up and the patient's left on its right side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from common.errors import UserError
from common.geometry import Spacing, axis_weights, centres, lengths
from dataset.scans.camera import Film, Matrix, ray_to_source

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
        (size, size) float32 line integrals (no unit), 0 where rays miss the volume, and the camera (3, 4).

    Raises:
        ValueError: bad arrays. UserError: a view that is none, a source in the volume, nothing but air in the picture.
    """
    steps = _check_volume(hu, spacing)
    if size < 2:
        raise ValueError(f"size must be at least 2 pixels, got {size}")
    fov = fov_mm or max(hu.shape[0] * steps[0], hu.shape[2] * steps[2])
    camera = Film(view, source_mm, patient_mm=0.0).square(size, fov)
    integrals = project(hu, steps, camera, (size, size))
    _check_picture(integrals, hu.shape, fov)
    return integrals, camera


def _check_picture(integrals: np.ndarray, shape: tuple[int, ...], fov_mm: float) -> None:
    if not integrals.any():
        raise UserError(
            f"the projection of the CT {shape} is empty: no voxel above -1000 HU in the field of view"
            f" of {fov_mm:g} mm; is this a CT in HU?"
        )


def project(hu: np.ndarray, spacing: Sequence[float], camera: Matrix, shape: tuple[int, int]) -> np.ndarray:
    """Line integrals (h, w), float32, of a CT along the rays of any camera; 0 where rays miss the volume.

    Rays are followed from plane to plane of voxels across the axis that they run along most. Where they are not
    turned, planes are resampled without skipping voxels; else linearly, so give a CT that is no finer than the pixels.

    Args:
        hu: (D, H, W), axes foot -> head, front -> back, patient right -> left. spacing: (d, h, w) in mm.
        camera: of `dataset.scans.camera`. shape: (h, w) of the picture.

    Raises:
        ValueError: bad arrays. UserError: a source inside the volume.
    """
    steps = _check_volume(hu, spacing)
    rays = _Rays.of(camera, shape, steps, hu.shape)
    along = 2 - rays.axis  # of the array
    planes = np.moveaxis(hu, along, 0)
    places = centres(len(planes), steps[along])
    rows, columns = (steps[i] for i in range(3) if i != along)
    if not rays.spread.any():  # all planes are seen alike
        total = np.zeros(planes.shape[1:], np.float32)
        for plane in planes:
            total += attenuation(plane)
        integrals = rays.seen(total, 0.0, rows, columns)
    else:
        integrals = np.zeros(shape, np.float32)
        for plane, place in zip(planes, places, strict=True):
            dense = attenuation(plane)
            if dense.any():
                integrals += rays.seen(dense, float(place), rows, columns)
    return (integrals * rays.slant * np.float32(steps[along])).astype(np.float32)


@dataclass(frozen=True)
class _Rays:
    """The rays of a picture, by where they cross the planes at right angles to an axis.

    axis: 0, 1 or 2 for x, y or z. middle: (2, h, w), mm along the other two axes, x before y before z, where rays cross
    the plane through the volume's centre; spread: (2, h, w), by how much that moves per mm along the axis.
    """

    axis: int
    middle: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, camera: Matrix, shape: tuple[int, int], steps: Spacing, size: tuple[int, ...]) -> "_Rays":
        source, is_point = ray_to_source(camera)
        axis = int(np.argmax(np.abs(source)))
        reach = size[2 - axis] * steps[2 - axis] / 2
        if is_point and abs(source[axis]) <= reach:
            raise UserError(f"the source must lie outside the volume: beyond {reach:g} mm, got {abs(source[axis]):g}")
        across = [i for i in range(3) if i != axis]
        rows, columns = np.mgrid[: shape[0], : shape[1]].reshape(2, -1)
        to_plane = np.linalg.inv(camera[:, [*across, 3]])  # pixels -> the plane through the centre
        crossed = to_plane @ np.stack([columns, rows, np.ones(len(rows))])
        middle = (crossed[:2] / crossed[2]).reshape(2, *shape)
        origin = source[across, None, None]
        spread = (origin - middle) / source[axis] if is_point else np.broadcast_to(origin / source[axis], middle.shape)
        return cls(axis, middle, np.where(np.abs(spread) > 1e-12, spread, 0))

    @property
    def slant(self) -> np.ndarray:
        """Millimetres of ray per mm along the axis, (h, w)."""
        return np.sqrt(1 + (self.spread**2).sum(0))

    def seen(self, plane: np.ndarray, place: float, row_mm: float, column_mm: float) -> np.ndarray:
        """A plane (rows, columns) of voxels at `place` mm along the axis, as the picture's rays cross it."""
        at_columns, at_rows = self.middle + self.spread * place
        if np.ptp(at_columns, axis=0).max() < 1e-6 and np.ptp(at_rows, axis=1).max() < 1e-6:
            down = axis_weights(plane.shape[0], row_mm, at_rows[:, 0])
            return down @ plane @ axis_weights(plane.shape[1], column_mm, at_columns[0]).T
        sizes = zip((at_rows, at_columns), (row_mm, column_mm), plane.shape, strict=True)
        index = np.stack([at / step + (n - 1) / 2 for at, step, n in sizes])
        ends = np.array(plane.shape)[:, None, None] - 0.5
        inside = ((index >= -0.5) & (index <= ends)).all(0)  # to half a voxel beyond the outer centres
        return ndimage.map_coordinates(plane, index, order=1, mode="nearest") * inside


def _check_volume(hu: np.ndarray, spacing: Sequence[float]) -> Spacing:
    if hu.ndim != 3 or min(hu.shape) < 1:
        raise ValueError(f"a CT is (D, H, W), got an array of shape {hu.shape}")
    return lengths(spacing)


def to_intensity(integrals: np.ndarray) -> np.ndarray:
    """Line integrals -> [0, 1] float32 on one linear scale for all cases; bright = dense, white from FULL_SCALE."""
    return np.clip(integrals / FULL_SCALE, 0, 1).astype(np.float32)
