"""A film and projections of a CT made comparable: at one resolution, masked, their contrast evened out locally."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from common.geometry import axis_weights, centres
from dataset.scans import camera as cam
from dataset.scans.camera import Matrix
from dataset.scans.slabs import Image, Pixels, Slabs, pixels_of

# what moves a declared camera: to the right and down by shares of the film's longer side, turn (radians), logarithm of
# the magnification, turns of the patient about the film's axes down and across (radians), breath (mm)
RIGHT, DOWN, TURN, ZOOM, YAW, PITCH, BREATH = range(7)
Pose = NDArray[np.float64]

_BODY = 0.8  # line integral of 4 cm of water: less is no body
_RIM_MM = 6.0  # inside the CT's faces, where voxels stand for what lies beyond them
_NEIGHBOURHOOD = 3 / 32  # of the longer side: the standard deviation within which contrast is evened out
_QUIET = 0.05  # of the image's range: contrast below it is left low


def moved(camera: Matrix, pose: Pose) -> Matrix:
    """The declared camera of an image whose longer side is 1, as a pose says."""
    across, down = (camera[i, :3] - camera[i, 3] * camera[2, :3] for i in (0, 1))  # where the image's axes run
    about = pose[YAW] * down / np.linalg.norm(down) + pose[PITCH] * across / np.linalg.norm(across)
    turned = camera.copy()
    turned[:, :3] = camera[:, :3] @ Rotation.from_rotvec(about).as_matrix()
    return cam.of_pixels(in_plane(pose, camera[:2, 3]), turned)


def in_plane(pose: Pose, centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """The change (3, 3) of pixels by turn, magnification (both about `centre`) and shift."""
    c, s = np.exp(pose[ZOOM]) * np.cos(pose[TURN]), np.exp(pose[ZOOM]) * np.sin(pose[TURN])
    change = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    change[:2, 2] = centre + pose[:2] - change[:2, :2] @ centre
    return change


@dataclass(frozen=True)
class FilmView:
    """A film at a low resolution.

    even: (h, w) float32, contrast evened out, 0 where `open` (h, w) is 0: collimator, air, marker. size: pixels of its
    longer side, which is the unit of `camera`, the declared one, and of `pixels`, all of them. to_film: the change
    (3, 3) from there to the film's own pixels.
    """

    even: Image
    open: Image
    camera: Matrix
    size: int
    pixels: Pixels
    to_film: NDArray[np.float64]

    @classmethod
    def of(cls, image: np.ndarray, declared: Matrix, size: int) -> "FilmView":
        """image: (h, w) in [0, 1], bright = dense."""
        small = shrunk(image, size)
        shown = open_field(small).astype(np.float32)
        scale = np.divide(image.shape, small.shape)[::-1]
        to_film = np.diag([*(scale * size), 1.0])
        to_film[:2, 2] = (scale - 1) / 2
        camera = cam.of_pixels(np.linalg.inv(to_film), declared)
        pixels = (pixels_of(small.shape) / [[size], [size], [1]]).astype(np.float32)
        return cls(evened(small, shown), shown, camera, size, pixels, to_film)

    def camera_of(self, pose: Pose) -> Matrix:
        """The film's camera (3, 4), in its own pixels, as a pose says."""
        return cam.of_pixels(self.to_film, moved(self.camera, pose))

    def projected(self, slabs: Slabs, pose: Pose) -> tuple[Image, Image]:
        """The CT as this film would show it, contrast evened out, and its mask (h, w)."""
        camera = moved(self.camera, pose)
        integrals, inside = slabs.seen(camera, self.even.shape, self.pixels, float(pose[BREATH]), _RIM_MM)
        mask = (inside & (integrals > _BODY)).astype(np.float32)
        return evened(integrals, mask), mask


def shrunk(image: np.ndarray, size: int) -> Image:
    """An image (h, w) whose longer side has `size` pixels."""
    places = [centres(new, old / new) for old in image.shape for new in [max(2, round(old * size / max(image.shape)))]]
    down, across = (axis_weights(n, 1.0, at) for n, at in zip(image.shape, places, strict=True))
    small: Image = down @ image.astype(np.float32) @ across.T
    return small


def smoothed(image: Image, sigma: float) -> Image:
    """Gaussian, zeros beyond the edges."""
    down, across = (_gaussian(n, sigma) for n in image.shape)
    return np.asarray(down @ image @ across, dtype=np.float32)


@lru_cache(maxsize=32)
def _gaussian(n: int, sigma: float) -> Image:
    """(n, n), symmetric, that smooths n numbers: wide filters cost less as products of matrices."""
    smooth: Image = ndimage.gaussian_filter1d(np.eye(n, dtype=np.float32), sigma, mode="constant", truncate=3)
    return smooth


def evened(image: Image, mask: Image) -> Image:
    """An image (h, w) less its local mean, over its local standard deviation; 0 outside the mask."""
    if not mask.any():
        return np.zeros_like(image)
    size = max(image.shape)
    image = smoothed(image, size / 110)
    low, high = np.percentile(image[mask > 0], (10, 90))
    image = image / max(float(high - low), 1e-6)
    weight = smoothed(mask, _NEIGHBOURHOOD * size) + 1e-4
    deviation = (image - smoothed(image * mask, _NEIGHBOURHOOD * size) / weight) * mask
    variance = smoothed(deviation * deviation, _NEIGHBOURHOOD * size) / weight
    return (deviation / np.sqrt(variance + _QUIET**2)).astype(np.float32)


def open_field(film: Image) -> NDArray[np.bool_]:
    """Where a film (h, w) shows body: not the dark that begins at its edges, not lead letters."""
    blurred = ndimage.gaussian_filter(film, 1.0, mode="nearest")
    dark = np.pad(blurred < max(0.2 * float(np.percentile(blurred, 80)), 0.03), 1, constant_values=True)
    regions, _ = ndimage.label(dark)
    closed = ndimage.binary_dilation((regions == regions[0, 0])[1:-1, 1:-1], iterations=2)
    lead = blurred > 0.93
    if lead.mean() < 0.02:
        closed |= ndimage.binary_dilation(lead, iterations=2)
    return ~closed
