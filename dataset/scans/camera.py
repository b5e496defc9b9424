"""Cameras of X-rays: (3, 4) matrices from patient millimetres to homogeneous pixels (Hartley & Zisserman 2004, ch. 6).

Points are (x, y, z, 1): x patient right -> left, y front -> back, z foot -> head, from the volume's centre. Pixels are
(column, row), centres at integers. Every camera is scaled so that the volume's centre has the weight 1; parallel rays
are the camera whose weight is 1 everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import UserError

Matrix = NDArray[np.float64]

FILM_SOURCE_MM = 1800.0  # source to detector of an upright chest film
FILM_PATIENT_MM = 150.0  # the patient's middle before the detector

# view: degrees by which the source stands away from behind the patient, towards the patient's right; and whether the
# picture is shown mirrored, so that a frontal one has the patient's left on its right
FRONTAL, LATERAL, ANY = "frontal", "lateral", "any"  # what a file is expected to show
VIEWS = {"pa": (0.0, False), "ap": (180.0, True), "ll": (90.0, False), "rl": (-90.0, False)}


@dataclass(frozen=True)
class Film:
    """How an X-ray was taken.

    view: "pa" (source behind the patient), "ap", "ll" (left lateral: the left side at the detector) or "rl".
    source_mm: distance of the source from the detector; None: parallel rays.
    patient_mm: distance of the patient's middle from the detector.
    turn_deg: further turn of the source about the patient's long axis, for oblique views.

    Raises:
        UserError: an unknown view, or a patient who is not between source and detector.
    """

    view: str = "pa"
    source_mm: float | None = FILM_SOURCE_MM
    patient_mm: float = FILM_PATIENT_MM
    turn_deg: float = 0.0

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise UserError(f"view must be one of {', '.join(VIEWS)}, got {self.view!r}")
        if self.source_mm is not None and not 0 <= self.patient_mm < self.source_mm < np.inf:
            raise UserError(
                "the patient stands between source and detector (0 <= patient_mm < source_mm), got"
                f" patient_mm={self.patient_mm} and source_mm={self.source_mm}"
            )

    @property
    def magnification(self) -> float:
        """Of what lies in the patient's middle, on the detector."""
        return 1.0 if self.source_mm is None else self.source_mm / (self.source_mm - self.patient_mm)

    def camera(self, shape: Sequence[int], pixel_mm: Sequence[float]) -> Matrix:
        """Of an image (h, w) whose middle shows the volume's centre; pixels (down, across) in mm on the detector."""
        angle, mirrored = VIEWS[self.view]
        c, s = (f(np.radians(angle + self.turn_deg)) for f in (np.cos, np.sin))
        across = np.array([c, s, 0.0]) * (-1 if mirrored else 1)
        to_source = np.array([-s, c, 0.0])
        scale = np.array([self.magnification / pixel_mm[1], self.magnification / pixel_mm[0]])
        middle = (np.array([shape[1], shape[0]]) - 1) / 2
        camera = np.zeros((3, 4))
        camera[0, :3], camera[1, 2] = scale[0] * across, -scale[1]
        camera[:2, 3], camera[2, 3] = middle, 1
        if self.source_mm is not None:
            nearer = -to_source / (self.source_mm - self.patient_mm)  # the weight falls towards the source
            camera[2, :3] = nearer
            camera[:2, :3] += middle[:, None] * nearer
        return camera

    def square(self, size: int, fov_mm: float) -> Matrix:
        """Of a square image of `size` pixels that shows `fov_mm` in the patient's middle."""
        if size < 1 or not fov_mm > 0:
            raise UserError(f"need size >= 1 pixels and fov_mm > 0, got {size} and {fov_mm}")
        pixel = fov_mm / size * self.magnification
        return self.camera((size, size), (pixel, pixel))


PARALLEL = Film(source_mm=None)


def from_affine(affine: ArrayLike) -> Matrix:
    """The camera of parallel frontal rays, from (x mm, z mm, 1) -> (column, row), (2, 3)."""
    a = np.asarray(affine, dtype=float)
    camera = np.zeros((3, 4))
    camera[:2, 0], camera[:2, 2], camera[:2, 3], camera[2, 3] = a[:, 0], a[:, 1], a[:, 2], 1
    return camera


def is_camera(matrix: ArrayLike) -> bool:
    """Whether a matrix can be a camera: (3, 4), finite, the centre before the source, pixels that tell places apart."""
    m = np.asarray(matrix, dtype=float)
    return m.shape == (3, 4) and bool(np.isfinite(m).all()) and m[2, 3] > 0 and np.linalg.matrix_rank(m) == 3


def of_pixels(change: ArrayLike, camera: Matrix) -> Matrix:
    """The camera of an image whose pixels were moved by `change` (3, 3), as by resizing, cropping or turning it."""
    moved = np.asarray(change, dtype=float) @ camera
    return moved / moved[2, 3]


def of_centre(camera: Matrix, centre_mm: ArrayLike) -> Matrix:
    """The same camera for points that count from another centre, given in millimetres from the old one."""
    moved = camera.copy()
    moved[:, 3] += camera[:, :3] @ np.asarray(centre_mm, dtype=float)
    return moved / moved[2, 3]


def resized(scale: float, offset: Sequence[float]) -> Matrix:
    """The change (3, 3) of pixels of an image that is padded by `offset` (left, top) pixels, then scaled."""
    left, top = offset  # pixel centres lie half a pixel in
    return np.array([[scale, 0, (left + 0.5) * scale - 0.5], [0, scale, (top + 0.5) * scale - 0.5], [0, 0, 1]])


def pixels(camera: Matrix, points_mm: ArrayLike) -> NDArray[np.float64]:
    """(column, row) (..., 2) of points x, y, z (..., 3) in mm."""
    points = np.asarray(points_mm, dtype=float)
    seen = points @ camera[:, :3].T + camera[:, 3]
    return seen[..., :2] / seen[..., 2:]


def ray_to_source(camera: Matrix) -> tuple[NDArray[np.float64], bool]:
    """Where rays come from, (3,): the source in mm, and True; or, of parallel rays, their unit direction, and False.

    The sign of a direction is not told by a camera: y is positive, or x where y is 0.
    """
    *_, rows = np.linalg.svd(camera)
    x, y, z, weight = rows[-1]  # what the camera maps to nothing
    if abs(weight) > 1e-9 * np.linalg.norm(rows[-1, :3]):
        return np.array([x, y, z]) / weight, True
    direction = np.array([x, y, z]) / np.linalg.norm([x, y, z])
    positive = direction[1] if abs(direction[1]) > 1e-9 else direction[0]
    return direction * (1 if positive > 0 else -1), False
