"""Where a film lies on a CT's projection: all shifts at once, by FFT, for a grid of turns and magnifications.

Compared are gradients of images of even contrast, by masked normalised correlation (Padfield 2012, IEEE Transactions on
Image Processing 21(5)): edges of masks do not count, and of overlaps that are large enough none is preferred.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from dataset.scans.film_view import TURN, FilmView, Pose, in_plane
from dataset.scans.slabs import Image, Slabs

MAGNIFICATIONS = (0.92, 0.96, 1.0, 1.04, 1.08, 1.125, 1.17, 1.215, 1.26)  # beyond the declared one
TURNS_DEG = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
FARTHEST_MM = 70.0  # shift
LEAST_OVERLAP = 0.4  # of the projection, on the film
_SOFT = 0.3  # gradients below it, of evened images, count less than in full

Complex = NDArray[np.complexfloating]


@dataclass(frozen=True)
class Found:
    """A film's best place. score: normalised correlation of gradients, -1 to 1; inverted: the best of a negative's."""

    score: float
    pose: Pose
    inverted: float


def search(
    view: FilmView,
    slabs: Slabs,
    magnifications: Sequence[float] = MAGNIFICATIONS,
    turns_deg: Sequence[float] = TURNS_DEG,
) -> Found | None:
    """Best of all shifts for each turn and magnification; None where film or projection shows no body."""
    projected, mask = view.projected(slabs, np.zeros(7))
    film, moving = (Gradients.of(*pair) for pair in ((view.even, view.open), (projected, mask)))
    reach = int(np.ceil(FARTHEST_MM * float(np.linalg.norm(view.camera[:2, [0, 1]])) * view.size))
    found = placed(film, moving, view.camera[:2, 3] * view.size, reach, magnifications, turns_deg)
    if found is None:
        return None
    score, pose, lowest = found
    pose[:2] /= view.size
    return Found(score, pose, inverted=-lowest)


def placed(
    film: "Gradients",
    moving: "Gradients",
    centre: NDArray[np.float64],
    reach: int,
    magnifications: Sequence[float],
    turns_deg: Sequence[float],
) -> tuple[float, Pose, float] | None:
    """The best score of all places of `moving` on a film, its pose with shifts in pixels, and the lowest score; None
    where one shows no body.

    Args:
        centre: pixel (across, down) about which `moving` is turned and magnified. reach: farthest shift, pixels.
    """
    if min(film.mask.sum(), moving.mask.sum()) < 0.05 * film.mask.size:
        return None
    padded = [scipy.fft.next_fast_len(n + reach) for n in film.mask.shape]
    fixed = _Spectra.of(film, padded)
    best, lowest = None, 0.0
    for zoom in np.log(magnifications):
        for turn in np.radians(turns_deg):
            pose = np.array([0, 0, turn, zoom, 0, 0, 0])
            scores = fixed.correlated(moving.warped(pose, centre))
            scores = scores[np.ix_(*(np.arange(-reach, reach + 1) % n for n in padded))]
            lowest = min(lowest, float(scores.min()))
            if best is None or scores.max() > best[0]:
                down, right = np.unravel_index(scores.argmax(), scores.shape)
                pose[:2] = right - reach, down - reach
                best = float(scores.max()), pose
    return None if best is None else (*best, lowest)


@dataclass(frozen=True)
class Gradients:
    """Of an image (h, w): across + i down, shortened where steep, 0 where `mask` is."""

    field: Complex
    mask: Image

    @classmethod
    def of(cls, image: Image, mask: Image) -> "Gradients":
        down, across = np.gradient(image)
        inner = ndimage.binary_erosion(mask > 0).astype(np.float32)
        field = (across + 1j * down) * inner
        return cls(field / np.sqrt(np.abs(field) ** 2 + _SOFT**2), inner)

    def warped(self, pose: Pose, centre: NDArray[np.float64]) -> "Gradients":
        """Of the image turned and magnified about a pixel; `centre` in pixels."""
        back = np.linalg.inv(in_plane(pose, centre))
        rows, columns = np.indices(self.mask.shape, dtype=np.float32)
        index = [back[i, 0] * columns + back[i, 1] * rows + back[i, 2] for i in (1, 0)]
        parts = (
            ndimage.map_coordinates(np.ascontiguousarray(part), index, order=1, prefilter=False)
            for part in (self.field.real, self.field.imag, self.mask)
        )
        across, down, mask = parts
        return Gradients((across + 1j * down) * np.exp(1j * pose[TURN]), mask)


@dataclass(frozen=True)
class _Spectra:
    """Fourier transforms of a film's gradients, of their energy and of their mask."""

    field: Complex
    energy: Complex
    mask: Complex
    padded: list[int]

    @classmethod
    def of(cls, film: Gradients, padded: list[int]) -> "_Spectra":
        field = scipy.fft.fft2(film.field.astype(np.complex64), padded)
        energy = scipy.fft.rfft2(np.abs(film.field).astype(np.float32) ** 2, padded)
        return cls(field, energy, scipy.fft.rfft2(film.mask, padded), padded)

    def correlated(self, moving: Gradients) -> NDArray[np.float32]:
        """Normalised correlation over what masks share, by shift (down, right), circular; 0 where that is little."""
        field = scipy.fft.fft2((moving.field * moving.mask).astype(np.complex64), self.padded)
        energy = np.conj(scipy.fft.rfft2(moving.mask * np.abs(moving.field).astype(np.float32) ** 2, self.padded))
        mask = np.conj(scipy.fft.rfft2(moving.mask, self.padded))
        common = scipy.fft.ifft2(self.field * np.conj(field)).real
        products = (self.mask * energy, self.energy * mask, self.mask * mask)
        theirs, ours, area = (scipy.fft.irfft2(product, self.padded) for product in products)
        return np.where(
            area > LEAST_OVERLAP * moving.mask.sum(), common / np.sqrt(np.maximum(theirs * ours, 1e-6)), 0.0
        )
