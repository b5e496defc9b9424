"""Where a film lies on a CT's projection: all shifts at once, by FFT, for a grid of turns and magnifications.

Compared are gradients of images of even contrast, by masked normalised correlation (Padfield 2012, IEEE Transactions on
Image Processing 21(5)): edges of masks do not count, and of overlaps that are large enough none is preferred.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    return search_all([view], slabs, magnifications, turns_deg)[0]


def search_all(
    views: Sequence[FilmView], slabs: Slabs, magnifications: Sequence[float], turns_deg: Sequence[float]
) -> list[Found | None]:
    """`search` of several films that have one size and one declared camera."""
    first = views[0]
    projected, mask = first.projected(slabs, np.zeros(7))
    films = [Gradients.of(view.even, view.open) for view in views]
    reach = int(np.ceil(FARTHEST_MM * float(np.linalg.norm(first.camera[:2, [0, 1]])) * first.size))
    moving, centre = Gradients.of(projected, mask), first.camera[:2, 3] * first.size
    found: list[Found | None] = []
    for place in placed(films, moving, centre, reach, magnifications, turns_deg):
        if place is not None:
            place.pose[:2] /= first.size
        found.append(place)
    return found


def placed(
    films: Sequence["Gradients"],
    moving: "Gradients",
    centre: NDArray[np.float64],
    reach: int,
    magnifications: Sequence[float],
    turns_deg: Sequence[float],
) -> list[Found | None]:
    """The best of all places of `moving` on each of several films of one size, shifts in pixels; None where one shows
    no body.

    Args:
        centre: pixel (across, down) about which `moving` is turned and magnified. reach: farthest shift, pixels.
    """
    shape, least = moving.mask.shape, 0.05 * moving.mask.size
    best: list[Found | None] = [None] * len(films)
    shown = [i for i, film in enumerate(films) if min(film.mask.sum(), moving.mask.sum()) >= least]
    if not shown:
        return best
    padded = [scipy.fft.next_fast_len(n + reach, real=True) for n in shape]
    fixed = _Spectra.of([films[i] for i in shown], padded)
    for zoom in np.log(magnifications):
        for turn in np.radians(turns_deg):
            pose = np.array([0, 0, turn, zoom, 0, 0, 0])
            for i, scores in zip(shown, fixed.correlated(moving.warped(pose, centre), reach), strict=True):
                best[i] = _better(best[i], scores, pose)
    return best


def _better(known: Found | None, scores: NDArray[np.float32], pose: Pose) -> Found:
    """What was found so far, or the best of `scores`, whose middle is no shift."""
    inverted = max(0.0 if known is None else known.inverted, -float(scores.min()))
    if known is not None and known.score >= scores.max():
        return replace(known, inverted=inverted)
    down, right = np.unravel_index(scores.argmax(), scores.shape)
    here = pose.copy()
    here[:2] = right - scores.shape[1] // 2, down - scores.shape[0] // 2
    return Found(float(scores.max()), here, inverted)


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
    """Fourier transforms (n, h, w') of n films' gradients across and down, of their energy and of their mask."""

    parts: list[Complex]
    padded: list[int]

    @classmethod
    def of(cls, films: Sequence[Gradients], padded: list[int]) -> "_Spectra":
        fields = np.stack([film.field for film in films])
        parts = fields.real, fields.imag, np.abs(fields) ** 2, np.stack([film.mask for film in films])
        return cls([scipy.fft.rfft2(part.astype(np.float32), padded) for part in parts], padded)

    def correlated(self, moving: Gradients, reach: int) -> NDArray[np.float32]:
        """Normalised correlation over what masks share, by shift (n, down, right) of up to `reach`; 0 where that is
        little.
        """
        field = moving.field * moving.mask
        weighed = field.real, field.imag, moving.mask * np.abs(moving.field) ** 2, moving.mask
        right, down, energy, mask = np.conj(scipy.fft.rfft2(np.stack(weighed).astype(np.float32), self.padded))
        fixed_right, fixed_down, fixed_energy, fixed_mask = self.parts
        products = fixed_right * right + fixed_down * down, fixed_mask * energy, fixed_energy * mask, fixed_mask * mask
        every = scipy.fft.irfft2(np.stack(products), self.padded)
        rows, columns = (np.arange(-reach, reach + 1) % n for n in self.padded)
        common, theirs, ours, area = every[:, :, rows[:, None], columns]
        return np.where(
            area > LEAST_OVERLAP * moving.mask.sum(), common / np.sqrt(np.maximum(theirs * ours, 1e-6)), 0.0
        )
