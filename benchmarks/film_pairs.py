"""Film-like pairs whose true camera is known: an X-ray of another breath and stance than its CT's.

The film is projected from a larger body than the CT's field of view holds, by a cone beam from a distance that the
declared camera does not know, turned and shifted in its plane, magnified, turned out of it, and degraded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from common.geometry import Spacing, centres
from dataset.phantom.anatomy import draw_anatomy
from dataset.phantom.canvas import smooth_step
from dataset.phantom.film import body_around, degrade
from dataset.phantom.thorax import render
from dataset.scans import camera as cam
from dataset.scans.camera import Film, Matrix
from dataset.scans.drr import project, to_intensity
from dataset.scans.film_stance import random_camera
from dataset.scans.resample import resample
from dataset.scans.volume_io import Volume, read_ct

SIZE = 256  # rows and columns of a film
CT_MM = 4.8  # a real chest's CT, as phantoms have it
FILM_MM = 2.5  # what films are projected from
BREATH_MM = 15.0


@dataclass(frozen=True)
class Pair:
    """film: (h, w) in [0, 1]. hu: int16 (D, H, W), of voxels `spacing`. declared, true: cameras (3, 4)."""

    name: str
    film: np.ndarray
    hu: np.ndarray
    spacing: Spacing
    declared: Matrix
    true: Matrix

    def error_mm(self, camera: Matrix) -> float:
        """Mean distance in the patient between where two cameras see the middle plane and those 80 mm off it."""
        half = np.multiply(self.hu.shape, self.spacing)[[2, 0]] / 2 * 0.75
        x, y, z = np.meshgrid(np.linspace(-1, 1, 7) * half[0], (-80, 0, 80), np.linspace(-1, 1, 7) * half[1])
        points = np.stack([x, y, z], -1).reshape(-1, 3)
        apart = cam.pixels(camera, points) - cam.pixels(self.true, points)
        aside = cam.pixels(self.true, points + [0, 0, 1]) - cam.pixels(self.true, points)  # pixels per mm, there
        return float((np.linalg.norm(apart, axis=1) / np.linalg.norm(aside, axis=1)).mean())


def phantom_pairs(numbers: Sequence[int], seed: int = 0) -> Iterator[Pair]:
    """Phantom i depends on (seed, i) alone."""
    for i in numbers:
        rng = np.random.default_rng((seed, i))
        anatomy = draw_anatomy(rng)
        shape, step = rng.integers((60, 56, 64), (73, 65, 73)), rng.uniform(4.4, 5.2, 3)
        step[2] = step[1]
        hu = render(anatomy, shape.tolist(), step.tolist()).hu
        body = body_around(anatomy.exhaled(rng.uniform(-1, 1) * BREATH_MM), shape * step, (FILM_MM,) * 3).hu
        yield film_of(f"phantom{i:04d}", body, (FILM_MM,) * 3, hu, step.tolist(), np.zeros(3), rng)


def chest_pairs(scans: Sequence[Path], numbers: Sequence[int], seed: int = 0) -> Iterator[Pair]:
    """Each scan once per number, cropped and breathed anew."""
    for place, path in enumerate(scans):
        volume = thinned(read_ct(path), 2.0)
        for i in numbers:
            rng = np.random.default_rng((seed, place, i))
            name = f"{path.parent.name if path.name == 'ct.nii.gz' else path.name.partition('.')[0]}/{i}"
            yield chest_pair(name, volume, rng)


def chest_pair(name: str, volume: Volume, rng: np.random.Generator) -> Pair:
    """A film of the whole scan at another breath, and a CT of a part of it."""
    shares = rng.uniform((0, 0, 0.02), (0.08, 0.03, 0.1), (2, 3))  # cut off at the low and the high end
    size = np.array(volume.hu.shape)
    low, high = np.round(shares[0] * size).astype(int), size - np.round(shares[1] * size).astype(int)
    part = volume.hu[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    centre = ((low + high - size) / 2 * volume.spacing)[::-1]  # of the part, x, y, z
    small = thinned(replace(volume, hu=part), CT_MM)
    body = breathed(volume.hu, volume.spacing, rng.uniform(-1, 1) * BREATH_MM, rng)
    return film_of(name, body, volume.spacing, small.hu, small.spacing, centre, rng)


def thinned(volume: Volume, step_mm: float) -> Volume:
    """At voxels of `step_mm`, or as it is where it is no finer."""
    hu, affine = resample(volume.hu, volume.affine, [max(step_mm, s) for s in volume.spacing])
    return replace(volume, hu=hu, affine=affine)


def breathed(hu: np.ndarray, spacing: Sequence[float], lift_mm: float, rng: np.random.Generator) -> np.ndarray:
    """A chest whose diaphragm stands about `lift_mm` higher, apices and spine unmoved, the lower ribs narrower.

    How deep the motion reaches, how far from the spine it begins, and by how much the sides differ is drawn.
    """
    z, y, x = np.meshgrid(*(centres(n, s) for n, s in zip(hu.shape, spacing, strict=True)), indexing="ij", sparse=True)
    top, bottom = rng.uniform(0.28, 0.42) * np.ptp(z), -rng.uniform(0.15, 0.35) * np.ptp(z)
    low = smooth_step(z, top, bottom) ** rng.uniform(0.7, 1.5)
    spine_y, spine_x = _spine(hu, spacing)
    held = rng.uniform(25, 55, 2)
    still = 1 / (1 + (((y - spine_y) / held[0]) ** 2 + ((x - spine_x) / held[1]) ** 2) ** 2)
    sided = 1 + rng.uniform(-0.25, 0.25) * np.tanh((x - spine_x) / 40)
    lift = lift_mm * low * (1 - still) * sided
    inward = 0.15 * lift_mm * low * (1 - still)
    index = np.indices(hu.shape, dtype=np.float32)
    index[0] -= lift / spacing[0]
    index[1] -= inward * np.tanh((spine_y - y) / 100) / spacing[1]
    index[2] += inward * np.tanh((x - spine_x) / 100) / spacing[2]
    return map_coordinates(hu, index, order=1, mode="nearest")


def _spine(hu: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    """(y, x) in mm of the middle of the bone in the back half, between the sides."""
    d, h, w = hu.shape
    bone = (hu[d // 3 : -d // 3, h // 2 :, w // 3 : -w // 3] > 200).sum(0) + 1e-9
    y, x = centres(h, spacing[1])[h // 2 :], centres(w, spacing[2])[w // 3 : -w // 3]
    return float(np.average(y, weights=bone.sum(1))), float(np.average(x, weights=bone.sum(0)))


def film_of(
    name: str,
    body: np.ndarray,
    body_spacing: Sequence[float],
    hu: np.ndarray,
    spacing: Sequence[float],
    centre_mm: np.ndarray,
    rng: np.random.Generator,
) -> Pair:
    """The film of a body, and a CT whose centre lies `centre_mm` (x, y, z) from the body's."""
    field = float(max(hu.shape[0] * spacing[0], hu.shape[2] * spacing[2]))
    declared_film = Film() if rng.random() < 0.5 else Film("pa", 1700.0, 0.0)
    pixel = field / SIZE * declared_film.magnification
    declared = declared_film.camera((SIZE, SIZE), (pixel, pixel))
    true = random_camera(SIZE, field / SIZE, rng)
    seen = to_intensity(project(body, body_spacing, cam.of_centre(true, -centre_mm), (SIZE, SIZE)))
    film = degrade(seen, rng)
    d, h, w = (float(s) for s in spacing)
    return Pair(name, film.astype(np.float32), hu, (d, h, w), declared, true)
