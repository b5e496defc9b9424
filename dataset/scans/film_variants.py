"""Other films of the same chest: what differs between them, a network must not take for anatomy."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

TURN_DEG, SHIFT, ZOOM = 2.0, 0.0125, 0.03  # largest; a shift in sides of the film. About what registration leaves


@dataclass(frozen=True)
class FilmVariants:
    """So many films of each X-ray. The first is the X-ray itself, the others are drawn by patient and number.

    They stood a little otherwise than the camera says, and have a film's faults. None is mirrored or inverted.
    """

    count: int = 1

    def number(self, key: int) -> int:
        """The variant that a draw of this `dataset.sampler.sample_key` shows."""
        return key % self.count

    def make(self, xray: np.ndarray, patient_id: str, number: int, view: str = "") -> np.ndarray:
        """Variant `number` of a patient's X-ray (size, size) in [0, 1], or of a further view."""
        if number == 0:
            return xray
        rng = np.random.default_rng((number, *f"{patient_id}{view and '/'}{view}".encode()))
        return degrade(displaced(xray, rng), rng)


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The faults of a film, on (size, size) in [0, 1]: contrast curve, focal blur, noise, collimator, marker."""
    size = image.shape[0]
    film = np.clip(image, 0, 1) ** rng.uniform(0.7, 1.4)
    film = gaussian_filter(film, rng.uniform(0.2, 1.6) * size / 512)
    grain = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(0.3, 1.0))
    film = film + rng.uniform(0.003, 0.02) * grain / grain.std()
    if rng.random() < 0.5:
        low, high = rng.uniform(0, 0.07, 2), 1 - rng.uniform(0, 0.07, 2)
        rows, columns = (np.round(np.array([low[i], high[i]]) * size).astype(int) for i in (0, 1))
        open_field = np.zeros(image.shape, bool)
        open_field[rows[0] : rows[1], columns[0] : columns[1]] = True
        film = np.where(open_field, film, 0.02)
    if rng.random() < 0.5:
        _add_marker(film, rng)
    return np.clip(film, 0, 1).astype(np.float32)


def _add_marker(film: np.ndarray, rng: np.random.Generator) -> None:
    """A lead letter L at the top, on the patient's left."""
    size = film.shape[0]
    height, stroke = max(4, size // 18), max(1, size // 110)
    row = int(size * rng.uniform(0.04, 0.12))
    column = int(size * rng.uniform(0.86, 0.94))
    film[row : row + height, column : column + stroke] = 1
    film[row + height - stroke : row + height, column : column + height // 2] = 1


def displaced(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A film (size, size) that stood a little otherwise than its camera says; beyond its edges it goes on."""
    angle = np.radians(rng.uniform(-TURN_DEG, TURN_DEG))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * rng.uniform(1 - ZOOM, 1 + ZOOM)
    middle = (np.array(image.shape) - 1) / 2
    shift = rng.uniform(-SHIFT, SHIFT, 2) * image.shape
    return affine_transform(image, turn, middle + shift - turn @ middle, order=1, mode="nearest")
