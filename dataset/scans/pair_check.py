"""Does an X-ray show the patient of a CT, the right way round, bright where it is dense? By the CT's projections."""

import numpy as np

from common.geometry import Spacing
from dataset.scans import camera as cam
from dataset.scans.camera import Matrix
from dataset.scans.film_search import search, search_all
from dataset.scans.film_view import YAW, FilmView
from dataset.scans.registration import COARSE, FINE, likeness, refine
from dataset.scans.slabs import Slabs

AS_IS, NEGATIVE = "as is", "a negative"
CHANGES = {  # what an X-ray may be: whether it is mirrored to mend it, and by how many quarters it is then turned left
    AS_IS: (False, 0),
    "mirrored": (True, 0),
    "upside down": (False, 2),
    "turned left": (False, 3),
    "turned right": (False, 1),
    "mirrored and upside down": (True, 2),
    "turned right, then mirrored": (True, 1),
    "turned left, then mirrored": (True, 3),
}
MAGNIFICATIONS, TURNS_DEG = (0.94, 1.0, 1.07, 1.15, 1.23), (-4.0, 0.0, 4.0)
CLEARLY = 0.08


def check_pair(image: np.ndarray, hu: np.ndarray, spacing: Spacing, declared: Matrix) -> dict[str, float]:
    """How well an X-ray fits a CT as it is, and were it what CHANGES call it, or a negative; see `register`.

    Returns:
        Scores of the search, -1 to 1; 0 where X-ray or CT show no body. `fits_better` reads them.
    """
    h, w = image.shape
    top, left = ((max(h, w) - n) // 2 for n in (h, w))
    square = np.pad(image, ((top, max(h, w) - h - top), (left, max(h, w) - w - left)))  # one camera, however it lies
    camera = cam.of_pixels(cam.resized(1.0, (left, top)), declared)
    views = [FilmView.of(mended(square, name), camera, COARSE) for name in CHANGES]
    every = search_all(views, Slabs.of(hu, spacing, declared), MAGNIFICATIONS, TURNS_DEG)
    scores = {name: found.score if found else 0.0 for name, found in zip(CHANGES, every, strict=True)}
    return scores | {NEGATIVE: every[0].inverted if every[0] else 0.0}


def fits_better(scores: dict[str, float]) -> str | None:
    """What an X-ray seems to be, by `check_pair`, if that fits clearly better than the X-ray as it is."""
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] > scores[AS_IS] + CLEARLY else None


def mended(image: np.ndarray, change: str) -> np.ndarray:
    """An image (h, w) in [0, 1] that is what CHANGES call it, or a negative, as it should be."""
    if change == NEGATIVE:
        return 1 - image
    mirrored, quarters = CHANGES[change]
    return np.rot90(image[:, ::-1] if mirrored else image, quarters)


def projection_likeness(image: np.ndarray, hu: np.ndarray, spacing: Spacing, declared: Matrix) -> float:
    """As `Registration.score`, of an image that was projected from its CT: it differs in the plane alone, if at all."""
    slabs, view = Slabs.of(hu, spacing, declared), FilmView.of(image, declared, COARSE)
    found = search(view, slabs, MAGNIFICATIONS, TURNS_DEG)
    if found is None:
        return 0.0
    pose = refine(view, slabs, found.pose, 4, range(YAW))
    return likeness(FilmView.of(image, declared, FINE), slabs, pose)
