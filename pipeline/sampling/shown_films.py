"""Does a drawn CT, projected, show its own X-ray, and no other patient's as well?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from common.geometry import Spacing
from dataset.scans.camera import of_pixels, resized
from dataset.scans.drr import project
from dataset.scans.film_view import FilmView, shrunk
from dataset.scans.measure import thin_strides
from dataset.scans.registration import FINE, likeness
from dataset.scans.slabs import Slabs
from ddpm.plan import XrayInput

_AS_IT_STOOD = np.zeros(7)  # the pose that leaves a film's camera where it is


class HasXray(Protocol):
    """A case or a film. xray_synthetic: its X-ray is a projection of a CT."""

    @property
    def name(self) -> str: ...
    @property
    def xray_synthetic(self) -> bool: ...


@dataclass(frozen=True)
class ShownFilms:
    """X-rays made comparable with projections, each once. `look` gives a case's X-ray with its camera."""

    look: Callable[[Any], XrayInput]
    _known: dict[str, tuple[FilmView, np.ndarray]] = field(default_factory=dict)

    def compare(self, hu: np.ndarray, spacing: Spacing, own: HasXray, others: Sequence[HasXray]) -> dict[str, float]:
        """A CT projected by the camera of each X-ray, beside that X-ray.

        Args:
            hu: int16 (D, H, W), drawn from the X-ray of `own`. spacing: (d, h, w) in mm.

        Returns:
            projection: correlation of the gradients of the own X-ray and the projection, local contrast evened out, -1
            to 1. rank: 1 where no other X-ray is more alike to its projection, 2 where one is, ... projection_mae: mean
            absolute difference of both, after gain and offset are fitted, where the own X-ray is a projection itself;
            its grey values run from 0 to 1.
        """
        strides = thin_strides(spacing)
        d, h, w = (n * size for n, size in zip(strides, spacing, strict=True))
        about_the_middle = tuple(slice((n - 1) % s // 2, None, s) for n, s in zip(hu.shape, strides, strict=True))
        small = hu[about_the_middle]
        ours, *theirs = (self._likeness(small, (d, h, w), case) for case in (own, *others))
        found = {"projection": ours, "rank": 1 + sum(other >= ours for other in theirs)}
        return found | ({"projection_mae": self._error(small, (d, h, w), own)} if own.xray_synthetic else {})

    def _error(self, hu: np.ndarray, spacing: Spacing, case: HasXray) -> float:
        shown = self.look(case)
        image, camera = shrunk(shown.xray[0].numpy(), FINE), shown.camera.numpy().astype(np.float64)
        camera = of_pixels(resized(len(image) / shown.xray.shape[-2], (0, 0)), camera)
        h, w = image.shape
        integrals = project(hu, spacing, camera, (h, w))
        seen = integrals > 0
        if not seen.any():
            return float(np.abs(image).mean())
        known = np.stack([integrals[seen], np.ones(seen.sum())], axis=1)
        fitted = known @ np.linalg.lstsq(known, image[seen], rcond=None)[0]
        return float(np.abs(fitted - image[seen]).mean())

    def _likeness(self, hu: np.ndarray, spacing: Spacing, case: HasXray) -> float:
        if case.name not in self._known:
            shown = self.look(case)
            camera = shown.camera.numpy().astype(np.float64)
            self._known[case.name] = FilmView.of(shown.xray[0].numpy(), camera, FINE), camera
        view, camera = self._known[case.name]
        return likeness(view, Slabs.of(hu, spacing, camera), _AS_IT_STOOD)
