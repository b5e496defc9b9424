"""CTs and X-rays made small, so that each can be compared with all others; those of a data set are kept beside it."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.atomic import replacing
from common.collectives import Team
from common.errors import BadFileError
from common.geometry import STEP, Spacing, padded_shape, triple
from common.npz_file import read_npz
from dataset.intensity import hu_to_unit
from dataset.store.latents import LatentCache
from dataset.store.store import Store, StoredCase, VolumeStore
from evaluation.common_grid import choose_grid
from evaluation.copies import Look, look_at
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.sampling.progress import with_progress

WAYS = ("HU", "latent")
_VOXELS = 24  # of HU, the most along an axis of the training's median CT
_NUMBERS = _VOXELS**3  # about the most of a latent: the more channels, the fewer places


def seen_in_xray(model: CTSampler, store: Store, case: StoredCase) -> np.ndarray:
    """The encoder's pooled feature of a case's X-ray, float32 (P,)."""
    image = store.read_xray(case, model.description.xray_ranges)
    seen = model.prepare_xray(image, case.xray_camera, synthetic=case.xray_synthetic).cxr[None]
    pooled: np.ndarray = model.generator.xray_encoder(seen.to(model.generator.device)).pooled[0].float().cpu().numpy()
    return pooled


@dataclass(frozen=True)
class Looks:
    """One case: its CT by `WAYS`, and what the encoder sees in its X-ray, (P,)."""

    ct: dict[str, Look]
    xray: np.ndarray


class Looking:
    """Makes looks of CTs with a model's codec, and of X-rays with its encoder.

    Args:
        latents: where the store's latents are read; None: they are made here, which takes long for large CTs.
        folder: where looks are kept, if not beside a store that can be written to.
    """

    def __init__(self, model: CTSampler, store: Store, latents: LatentCache | None, folder: Path) -> None:
        self._model, self._store, self._latents = model, store, latents
        geometries = [(case.shape, case.spacing) for case in store.cases_of("train")]
        channels = model.generator.codec.channels  # type: ignore[attr-defined]
        self._grids = {
            "HU": choose_grid(geometries, _VOXELS),
            "latent": choose_grid(geometries, max(4, round((_NUMBERS / channels) ** (1 / 3)))),
        }
        networks, ranges = (model.hashes["codec_hash"], model.hashes["encoder_hash"]), model.description.xray_ranges
        facts = [networks, model.hu_window, ranges, [[grid.shape, grid.spacing] for grid in self._grids.values()]]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        kept = store.folder if isinstance(store, VolumeStore) and os.access(store.folder, os.W_OK) else folder
        self.folder = kept / f"looks_{key}"

    def of_cases(self, cases: Sequence[StoredCase], team: Team) -> dict[str, Looks]:
        """By the cases' names; the processes of a team share the work, and what is kept is read again."""
        share = cases[team.rank :: team.size]  # of all: what is left changes while others begin
        todo = [case for case in share if self._read(case) is None]
        self.folder.mkdir(exist_ok=True)
        for case in with_progress(todo, "making CTs small", "CT", team):
            self._write(case)
        team.wait()
        found = {case.name: self._read(case) for case in cases}
        return {name: looks for name, looks in found.items() if looks is not None}

    def of_ct(self, hu: np.ndarray, spacing: Spacing, latent: torch.Tensor | None = None) -> dict[str, Look]:
        """
        Args:
            hu: (D, H, W). spacing: (d, h, w) in mm. latent: (C, d, h, w) of it, if it is known.
        """
        window, shape = self._model.hu_window, triple(hu.shape)
        extent = [n * step for n, step in zip(shape, spacing, strict=True)]
        if latent is None:
            whole = np.full(padded_shape(shape), window[0], np.float32)
            whole[tuple(slice(n) for n in shape)] = hu
            ct = torch.from_numpy(hu_to_unit(whole, window))[None]
            latent = self._model.generator.codec.encode_volume(ct.to(self._model.generator.device))  # type: ignore[attr-defined]
        wide = [STEP * s for s in spacing]
        # padding lies at the high ends
        centre = [(mm - n * step) / 2 for mm, n, step in zip(extent, latent.shape[1:], wide, strict=True)]
        return {
            "HU": look_at(np.clip(hu, *window)[None], spacing, (0, 0, 0), extent, self._grids["HU"]),
            "latent": look_at(latent.float().cpu().numpy(), wide, centre, extent, self._grids["latent"]),
        }

    def _write(self, case: StoredCase) -> None:
        latent = None
        if self._latents is not None:
            latent = self._latents.read(case, (0, 0, 0), triple([n // STEP for n in padded_shape(case.shape)]))
        looks = self.of_ct(self._store.read_hu(case, (0, 0, 0), case.shape), case.spacing, latent)
        arrays: dict[str, Any] = {name: look.values for name, look in looks.items()}
        arrays |= {f"{name} inside": look.inside for name, look in looks.items()}
        with replacing(self._path(case)) as temporary:
            np.savez(temporary, xray=seen_in_xray(self._model, self._store, case), **arrays)

    def _read(self, case: StoredCase) -> Looks | None:
        try:
            found = read_npz(self._path(case), "Remove it.")
            return Looks({way: Look(found[way], found[f"{way} inside"]) for way in WAYS}, found["xray"])
        except (FileNotFoundError, BadFileError, KeyError):
            return None

    def _path(self, case: StoredCase) -> Path:
        return self.folder / f"{case.name}_{case.source_hash[:16]}.npz"
