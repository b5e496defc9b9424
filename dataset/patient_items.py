"""What all draws of a patient have in common: X-rays with their cameras, label, size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.scans.camera import PARALLEL, Film
from dataset.scans.film_variants import FilmVariants
from dataset.scans.xray_io import encoder_view
from dataset.store.latents import LatentCache
from dataset.store.store import Store, StoredCase
from dataset.store.views import film_of, xray_of


@dataclass(frozen=True)
class EncoderInput:
    """What the frozen X-ray encoder wants to see: a square of `size` pixels, normalised by `mean` and `std`."""

    size: int = 224
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class PatientItems:
    """Parts of the items of `XrayCTPAPatchDataset`, whose arguments these are."""

    store: Store
    latents: LatentCache | None
    encoder_input: EncoderInput | None
    xray_fov_mm: float
    film: Film
    variants: FilmVariants
    views: Sequence[str]

    def read(self, case: StoredCase, number: int) -> dict[str, Any]:
        """Of a patient, with variant `number` of the X-rays."""
        found = self._xray(case, number)
        item: dict[str, Any] = {
            "xray": found.pop("xray"),
            "xray_camera": found.pop("camera"),
            "target": torch.tensor([float("nan") if case.target is None else case.target]),
            "spacing": torch.tensor(case.spacing, dtype=torch.float32),
            "volume_shape": torch.tensor(case.shape),
            "patient_id": case.name,
        } | {name if name == "cxr" else f"xray_{name}": value for name, value in found.items()}
        return item | self._views(case, number, item) if self.views else item

    def _views(self, case: StoredCase, number: int, item: dict[str, Any]) -> dict[str, Tensor]:
        """Further X-rays, stacked; the frontal one, which nobody is to look at, stands for those that are missing."""
        shown = [self._xray(case, number, view if view in case.views else "") for view in self.views]
        stacked = {f"view_{name}": torch.stack([one[name] for one in shown]) for name in shown[0]}
        return stacked | {"view_present": torch.tensor([view in case.views for view in self.views])}

    def _xray(self, case: StoredCase, number: int, view: str = "") -> dict[str, Tensor]:
        """An X-ray (1, 512, 512), its camera, and what the encoder sees or is given: cxr, or tokens and pooled."""
        features, xray, about = None, self.store.read_xray(case, view=view), xray_of(case, view)
        if self.latents is not None:
            features = self.latents.read_xray(case, number, view)
            xray = xray if features.image is None else features.image
        else:
            xray = self.variants.make(xray, case.name, number, view)
        film = film_of(view, PARALLEL if about.synthetic else self.film)
        camera = film.square(len(xray), self.xray_fov_mm) if about.camera is None else about.camera
        found = {
            "xray": torch.from_numpy(xray)[None],
            "camera": torch.as_tensor(np.asarray(camera), dtype=torch.float32),
        }
        if features is not None:
            return found | {"tokens": features.tokens, "pooled": features.pooled}
        if self.encoder_input is not None:
            eye = self.encoder_input
            return found | {"cxr": encoder_view(xray, eye.size, eye.mean, eye.std)}
        return found
