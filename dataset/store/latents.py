"""The latent cache: whole-volume latents and X-ray features, computed once because their networks are frozen."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.atomic import remove_abandoned, replacing, write_text
from common.errors import BadFileError, UserError
from common.geometry import Triple
from common.json_file import read_json
from dataset.scans.film_variants import FilmVariants
from dataset.store import xray_features
from dataset.store.latent_file import read_latent, when_made, write_latent
from dataset.store.latent_source import (
    REMEDY,
    LatentSource,
    Ranges,
    features_identity,
    stored_source,
    volume_identity,
    xray_identity,
)
from dataset.store.store import StoredCase
from dataset.store.xray_features import XrayFeatures


class LatentCache:
    """Reads crops of cached latents.

    Files per volume: `<id>.npy` (D, H, W, C), unscaled latents (channels last: a crop is 4.5 times as fast to read) in
    float16, or in int8 with a step per channel in `latents.json`; and `<id>.npz` with float16 X-ray tokens and pooled
    features; `films/<n>/<id>.npz` with those of a training X-ray's variant n, and its image; in folders `views/<view>`
    those of further X-rays. `latents.json`, written last, holds the source and the training set's mean and std per
    channel.

    Raises:
        FileNotFoundError: the folder holds no finished cache.
        ValueError: it was made by other networks, in another window, from other volumes or X-rays, or for smaller
            patches.

    Args:
        shapes: of every case's latent (d, h, w), padded to hold a patch.
        xray_ranges: by which the store scales the X-rays now; new training patients move them.
        variants, views: of the training X-rays, and further ones, that will be read.
    """

    def __init__(
        self,
        folder: str | Path,
        source: LatentSource,
        cases: Sequence[StoredCase],
        shapes: Sequence[Triple],
        xray_ranges: Ranges,
        variants: FilmVariants = FilmVariants(),  # noqa: B008 (frozen)
        views: Sequence[str] = (),
    ) -> None:
        self.folder, self._source, self._ranges = Path(folder), source, xray_ranges
        # asked before the file that speaks of them is read, which a writer takes away first
        self._made = {case.name: when_made(self.folder / f"{case.name}.npy") for case in cases}
        if not is_finished(self.folder):
            raise FileNotFoundError(f"no finished latent cache in {self.folder}; encode_latents.py makes it")
        info = read_json(self.folder / "latents.json", f"{REMEDY}.")
        source.check(self.folder, stored_source(info))
        for case, shape in zip(cases, shapes, strict=True):
            found = info["volumes"].get(case.name)
            wanted = volume_identity(case) | xray_identity(case, xray_ranges)
            if found != wanted:
                raise UserError(
                    f"the latent cache {self.folder} does not fit volume {case.name}: {found} there, {wanted}"
                    " in the store; encode_latents.py makes anew what has changed, dataset.latents=never encodes on"
                    " the fly"
                )
            if not _holds(info["shapes"][case.name], shape):
                raise UserError(
                    f"the latent cache {self.folder} was made for smaller patches: the latent of {case.name}"
                    f" measures {info['shapes'][case.name]}, need {list(shape)}; run encode_latents.py again"
                    " with the same model settings, which keeps what fits"
                )
        films = info.get("films", 1)
        if films < variants.count:
            raise UserError(
                f"the latent cache {self.folder} holds {films} film of each training X-ray, but"
                f" dataset.film_augment=true with dataset.xray_variants={variants.count} needs as many; given the same"
                " settings, encode_latents.py adds them"
            )
        self._steps = {name: np.float32(step) for name, step in info.get("int8_steps", {}).items()}
        for view in views:
            held = info.get("views", {}).get(view, {})
            if any(held.get(c.name) != xray_identity(c, xray_ranges, view) for c in cases if view in c.views):
                raise UserError(
                    f"the latent cache {self.folder} does not hold the X-rays {view!r} as they are now, which"
                    " model.views asks for; given the same settings, encode_latents.py adds them"
                )
        self.mean, self.std = torch.tensor(info["mean"]), torch.tensor(info["std"])

    @property
    def channels(self) -> int:
        return len(self.mean)

    def read(self, case: StoredCase, start: Triple, size: Triple) -> Tensor:
        """Unscaled latents float16 (C, d, h, w), a view with channels last, of the box at latent voxel `start`.

        UserError if the file is no longer that of the beginning.
        """
        crop = read_latent(self.folder / f"{case.name}.npy", start, size, self._made[case.name])
        if crop.dtype == np.int8:
            crop = (crop * self._steps[case.name]).astype(np.float16)
        return torch.from_numpy(crop).permute(3, 0, 1, 2)

    def read_xray(self, case: StoredCase, variant: int = 0, view: str = "") -> XrayFeatures:
        """Of an X-ray, or of a variant of it. UserError if they are no longer those of the beginning."""
        identity = features_identity(self._source, case, self._ranges, variant, view)
        return xray_features.read(self.folder, case.name, variant, view, identity)


class LatentWriter:
    """Writes a cache volume by volume; any process may write any volume, one or several call `finish`."""

    def __init__(
        self,
        folder: str | Path,
        source: LatentSource,
        xray_ranges: Ranges,
        overwrite: bool = False,
        variants: FilmVariants = FilmVariants(),  # noqa: B008 (frozen)
        dtype: str = "float16",
        views: Sequence[str] = (),
    ) -> None:
        self.folder, self.source, self.xray_ranges, self.variants = Path(folder), source, xray_ranges, variants
        self._overwrite, self.dtype, self._views = overwrite, dtype, tuple(views)

    def is_written(self, case: StoredCase, shape: Triple) -> bool:
        """Whether all of this case is there. ValueError as `has_latents`."""
        return self.has_latents(case, shape) and all(self.has_xray(case, *which) for which in self.xrays_of(case))

    def xrays_of(self, case: StoredCase) -> list[tuple[int, str]]:
        """Variant and view of each X-ray to be kept; all but those of the training are kept as they are."""
        variants = range(self.variants.count if case.split == "train" else 1)
        return list(product(variants, ("", *(view for view in self._views if view in case.views))))

    def has_latents(self, case: StoredCase, shape: Triple) -> bool:
        """Whether this volume is there, from the same source and in this dtype, and its latent is as large as `shape`.

        Raises:
            ValueError: it was made by other networks and may not be overwritten.
        """
        try:
            info = self._info(case)
        except (FileNotFoundError, BadFileError):
            return False
        try:
            self.source.check(self.folder, stored_source(info))
        except ValueError:
            if not self._overwrite:
                raise
            return False
        as_wanted = info["identity"] == volume_identity(case) and ("int8_step" in info) == (self.dtype == "int8")
        return bool(as_wanted) and _holds(info["shape"], shape)

    def bytes_missing(self, cases: Iterable[tuple[StoredCase, Triple]], channels: int) -> int:
        """What the latents that are not there will take on the disk."""
        voxels = sum(math.prod(shape) for case, shape in cases if not self.has_latents(case, shape))
        return voxels * channels * np.dtype(self.dtype).itemsize

    def has_xray(self, case: StoredCase, variant: int = 0, view: str = "") -> bool:
        """Whether this X-ray's features are there, from the same encoder and scaled as the store does now."""
        identity = features_identity(self.source, case, self.xray_ranges, variant, view)
        return xray_features.are_stored(self.folder, case.name, variant, view, identity)

    def write(self, case: StoredCase, shape: Triple, tiles: Iterable[tuple[Triple, Tensor]]) -> None:
        """Store a volume's latents from tiles (start, (C, d, h, w)) that do not overlap and cover `shape`.

        Raises:
            OSError: no space left. ValueError: no tiles.
        """
        (self.folder / "latents.json").unlink(missing_ok=True)  # no longer complete
        self._info_path(case).unlink(missing_ok=True)  # it speaks of the latents that are replaced now
        with replacing(self.folder / f"{case.name}.npy") as temporary:
            written = write_latent(temporary, shape, tiles, self.dtype)
        info = asdict(self.source) | {
            "identity": volume_identity(case),
            "shape": list(shape),
            "count": int(np.prod(shape)),
            "sum": written.total.tolist(),
            "square": written.square.tolist(),
        }
        if written.step is not None:
            info["int8_step"] = written.step.tolist()
        write_text(self._info_path(case), json.dumps(info))

    def write_xray(self, case: StoredCase, features: XrayFeatures, variant: int = 0, view: str = "") -> None:
        """Store the features of an X-ray, or of a variant with its image. OSError if there is no space left."""
        (self.folder / "latents.json").unlink(missing_ok=True)  # no longer complete
        identity = features_identity(self.source, case, self.xray_ranges, variant, view)
        xray_features.write(self.folder, case.name, variant, view, features, identity)

    def finish(self, cases: Sequence[StoredCase]) -> None:
        """Write the statistics of the training cases, all of which are written; only then is the cache complete."""
        infos = {case.name: self._info(case) for case in cases}
        train = [infos[c.name] for c in cases if c.split == "train"]
        count = sum(info["count"] for info in train)
        mean = sum(np.asarray(info["sum"]) for info in train) / count
        variance = sum(np.asarray(info["square"]) for info in train) / count - mean**2
        std = np.sqrt(np.maximum(variance, 1e-12))
        content = (
            asdict(self.source)
            | {"mean": mean.tolist(), "std": std.tolist(), "films": self.variants.count}
            | {"volumes": {c.name: volume_identity(c) | xray_identity(c, self.xray_ranges) for c in cases}}
            | {"shapes": {name: info["shape"] for name, info in infos.items()}}
            | {"int8_steps": {name: info["int8_step"] for name, info in infos.items() if "int8_step" in info}}
            | {"views": {view: self._of_view(view, cases) for view in self._views}}
        )
        write_text(self.folder / "latents.json", json.dumps(content))
        remove_abandoned(self.folder)

    def _of_view(self, view: str, cases: Sequence[StoredCase]) -> dict[str, dict]:
        return {case.name: xray_identity(case, self.xray_ranges, view) for case in cases if view in case.views}

    def _info(self, case: StoredCase) -> Any:
        return read_json(self._info_path(case), "Run encode_latents.py again.")

    def _info_path(self, case: StoredCase) -> Path:
        return self.folder / f"{case.name}.json"


def is_finished(folder: str | Path) -> bool:
    return (Path(folder) / "latents.json").is_file()


def _holds(stored: Sequence[int], wanted: Sequence[int]) -> bool:
    return all(a >= b for a, b in zip(stored, wanted, strict=True))
