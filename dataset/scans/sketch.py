"""A film, and what its CT would show in its place, as small as the search needs them: to compare them crosswise."""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.geometry import Spacing
from dataset.scans.camera import Matrix
from dataset.scans.film_search import FARTHEST_MM, Gradients, placed
from dataset.scans.film_view import FilmView
from dataset.scans.registration import COARSE
from dataset.scans.slabs import Image, Slabs

_FULL, _CLOSED = 30.0, -128  # int8 per standard deviation; where nothing is shown


@dataclass(frozen=True)
class Sketch:
    """film, projected: (n, n), contrast evened out, and 0 where `film_open`, `body` (n, n) are 0. where: pixels per mm,
    and the pixel (across, down) that looks at the CT's centre.
    """

    film: Image
    film_open: Image
    projected: Image
    body: Image
    where: NDArray[np.float32]

    @classmethod
    def of(cls, square: np.ndarray, hu: np.ndarray, spacing: Spacing, declared: Matrix) -> "Sketch":
        """square: a film (h, h) in [0, 1]; the others are those of `register`."""
        view = FilmView.of(square, declared, COARSE)
        projected, body = view.projected(Slabs.of(hu, spacing, declared), np.zeros(7))
        across = view.camera[0, :3] - view.camera[0, 3] * view.camera[2, :3]
        where = np.array([np.linalg.norm(across), *view.camera[:2, 3]], np.float32) * view.size
        return cls(view.even, view.open, projected, body, where)

    def text(self) -> str:
        """For a record; `read` gives it back, rounded."""
        parts = (self.film, self.film_open), (self.projected, self.body)
        images = [np.where(mask > 0, np.rint(image * _FULL).clip(-127, 127), _CLOSED) for image, mask in parts]
        return b64encode(np.stack(images).astype(np.int8).tobytes() + self.where.tobytes()).decode()

    @classmethod
    def read(cls, text: str) -> "Sketch":
        content = b64decode(text)
        images = np.frombuffer(content[:-12], np.int8).reshape(2, COARSE, COARSE)
        masks = (images != _CLOSED).astype(np.float32)
        film, projected = images / np.float32(_FULL) * masks
        return cls(film, masks[0], projected, masks[1], np.frombuffer(content[-12:], np.float32))

    def likeness(self, other: "Sketch", magnifications: Sequence[float], turns_deg: Sequence[float]) -> float:
        """Of this film and the other's CT, as `search` scores its own: -1 to 1; 0 where one shows no body.

        magnifications: beyond those that the cameras of both declare.
        """
        film, moving = Gradients.of(self.film, self.film_open), Gradients.of(other.projected, other.body)
        zooms = [zoom * self.where[0] / other.where[0] for zoom in magnifications]
        reach = int(np.ceil(FARTHEST_MM * self.where[0]))
        (found,) = placed([film], moving, other.where[1:].astype(float), reach, zooms, turns_deg)
        return 0.0 if found is None else found.score
