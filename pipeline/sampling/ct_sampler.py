"""From X-ray files and a checkpoint to CTs in HU: what `sample` and the evaluation share."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.collectives import Team
from common.errors import BadFileError, UserError
from common.geometry import STEP, Triple, lengths, sizes, triple
from common.layers import use_channels_last
from common.tensor_hash import tensor_hash
from common.tiling import tile_boxes
from dataset.prepare.checks import check_xray
from dataset.scans.camera import ANY, FRONTAL, LATERAL, PARALLEL
from dataset.scans.volume_io import read_given_ct
from dataset.scans.xray_io import encoder_view, intensity_percentiles, read_xray, scale_xray, to_square
from dataset.store.store import Store, StoredCase
from dataset.store.views import film_of, kind_of, xray_of
from ddpm.plan import Grid, SamplingPlan, XrayInput
from pipeline.checkpoints.networks import load_generator
from pipeline.devices import pick_device
from pipeline.sampling.decoding import AUTO, DecodingChoice
from pipeline.sampling.slabs import hu_tiles, in_turn, slabs_of

log = logging.getLogger(__name__)


def plan_of(settings: Mapping[str, Any]) -> SamplingPlan:
    """The plan in a script's settings, whose keys are `SamplingPlan`'s."""
    return SamplingPlan(**{field.name: settings[field.name] for field in fields(SamplingPlan)})


@dataclass(frozen=True)
class Placement:
    """The grid of a CT to draw and its place in the world.

    affine: (4, 4), voxel (w, h, d) → RAS mm. axes: those of the file to write, e.g. "LPS".
    """

    grid: Grid
    affine: np.ndarray
    axes: str = "LPS"

    @classmethod
    def centred(cls, shape: Sequence[int], spacing: Sequence[float] | float) -> Placement:
        """A volume whose centre is the world's origin.

        Args:
            shape: (d, h, w) in voxels. spacing: (d, h, w) in mm, or one number for all three.
        """
        d, h, w = sizes(shape, "shape")
        sd, sh, sw = lengths(spacing)
        affine = np.diag([-sw, -sh, sd, 1.0])  # LPS array in a RAS world
        affine[:3, 3] = [sw * (w - 1) / 2, sh * (h - 1) / 2, -sd * (d - 1) / 2]
        return cls(Grid((d, h, w), (sd, sh, sw)), affine)

    @classmethod
    def like(cls, path: str | Path) -> Placement:
        """The grid, axes and position of a CT on disk."""
        volume = read_given_ct(path)
        d, h, w = volume.spacing
        return cls(Grid(triple(volume.hu.shape), (d, h, w)), volume.affine, volume.source_axes)


class CTSampler:
    """A checkpoint, loaded once, that draws CTs.

    Args:
        ckpt: stage-2 checkpoint. vqgan_ckpt: where its VQ-GAN is, if not where training found it.
        averaged: use the averaged weights.
        device: "auto", "cpu", "cuda", ...
        xray_weights: where the X-ray encoder's weights are, if not where training found them.
    """

    def __init__(
        self,
        ckpt: str | Path,
        vqgan_ckpt: str | Path | None = None,
        averaged: bool = True,
        device: str = "auto",
        xray_weights: str | Path | None = None,
    ) -> None:
        self.generator, self.description = load_generator(ckpt, vqgan_ckpt, averaged, xray_weights)
        self.generator.to(pick_device(device))
        low, high = self.description.hu_window
        self.hu_window = (float(low), float(high))
        self.film = self.description.film or PARALLEL
        self._told: set[str] = set()  # warnings: a file may be looked at often
        self.decoding = DecodingChoice(self.generator, (self.hu_window[1] - self.hu_window[0]) / 2)
        if self.generator.device.type == "cuda":
            for network in (self.generator.denoiser, self.generator.codec):
                use_channels_last(network)  # type: ignore[arg-type]

    def placement(
        self,
        shape: Sequence[int] | None = None,
        spacing: Sequence[float] | float | None = None,
        reference: str | Path | None = None,
    ) -> Placement:
        """A centred grid, the training volumes' median where not given; or that of a reference CT.

        Raises:
            ValueError: a grid beside a reference, or sizes that cannot be.
        """
        if reference is None:
            shape = self.description.shape if shape is None else shape
            return Placement.centred(shape, self.description.spacing if spacing is None else spacing)
        if shape is not None or spacing is not None:
            raise UserError(
                f"reference={reference} gives shape and spacing itself, got shape={shape}, spacing={spacing} too;"
                " leave those out or the reference"
            )
        return Placement.like(reference)

    def load_xray(
        self, path: str | Path, fov_mm: float | None = None, views: Mapping[str, str | Path] | None = None
    ) -> XrayInput:
        """X-ray files as training would have seen them; BadFileError if one is none, blank or another view. What else
        preparing would report of one is a warning.

        views: further X-rays of the patient by their names, such as "lateral".
        """
        further = {view: self._load(Path(file), fov_mm, view) for view, file in (views or {}).items()}
        return replace(self._load(Path(path), fov_mm), views=further)

    def _load(self, path: Path, fov_mm: float | None, view: str = "") -> XrayInput:
        expected = LATERAL if view == LATERAL else ANY if view else FRONTAL
        xray = read_xray(path, film_of(view, self.film), expected)
        for problem in check_xray("", path.name, xray, expected == FRONTAL):
            if problem.fatal:
                raise BadFileError(path, problem.rule, problem.found, problem.remedy)
            self._warn(f"{path.name}: {problem.rule}; got {problem.found}. {problem.remedy}")
        image, camera = to_square(xray)
        kind = kind_of(view, xray.kind)
        ends = self.description.xray_ranges[kind] if self._knows(kind) else intensity_percentiles(xray.image)
        return self.prepare_xray(scale_xray(image, ends), camera, fov_mm, xray.synthetic, view)

    def _knows(self, kind: str) -> bool:
        """Whether training had X-rays of a kind; a warning if not."""
        known = self.description.xray_ranges
        if kind not in known:
            self._warn(
                f"the model was trained on X-rays of kind {', '.join(known)}, none of {kind}: their grey levels are"
                " scaled by their own percentiles, and may look another way than those it has seen"
            )
        return kind in known

    def _warn(self, text: str) -> None:
        if text not in self._told:
            log.warning("%s", text)
        self._told.add(text)

    def stored_xray(self, store: Store, case: StoredCase) -> XrayInput:
        """A case's X-rays as training would have seen them, with those further ones that the model takes."""

        def look(view: str = "") -> XrayInput:
            about, image = xray_of(case, view), store.read_xray(case, self.description.xray_ranges, view)
            self._knows(about.kind)
            return self.prepare_xray(image, about.camera, synthetic=about.synthetic, view=view)

        return replace(look(), views={view: look(view) for view in self.generator.denoiser.views if view in case.views})

    def prepare_xray(
        self, image: np.ndarray, camera: Any, fov_mm: float | None = None, synthetic: bool = False, view: str = ""
    ) -> XrayInput:
        """An X-ray (512, 512) in [0, 1] with its camera (3, 4), or None where the geometry is not known.

        synthetic: projected from a CT, with parallel rays where the geometry is not known. view: name of a further one.
        """
        fov = self.description.xray_fov_mm if fov_mm is None else fov_mm
        film = film_of(view, PARALLEL if synthetic else self.film)
        known = film.square(len(image), fov) if camera is None else camera
        encoder = self.generator.xray_encoder
        cxr = encoder_view(image, encoder.size, encoder.mean, encoder.std)  # type: ignore[arg-type]
        return XrayInput(torch.from_numpy(image)[None], cxr, torch.as_tensor(np.asarray(known), dtype=torch.float32))

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Which networks draw: fingerprints of their tensors."""
        return {
            "denoiser_hash": tensor_hash(self.generator.denoiser),
            "codec_hash": self.description.codec.hash,
            "encoder_hash": self.description.encoder_hash,
        }

    def draw(self, xray: XrayInput, grid: Grid, plan: SamplingPlan, seed: int) -> np.ndarray:
        """One CT: int16 HU (D, H, W) within the training's HU window."""
        return self.decode(self.generator.latent(xray, grid, plan, seed), grid.shape)

    def decode(self, latent: torch.Tensor, shape: Triple, tile: int | str = AUTO) -> np.ndarray:
        """A latent (C, d, h, w) → int16 HU, cropped to `shape`; tile by tile, so that only the result is large."""
        hu = np.empty(shape, dtype=np.int16)
        for first, slab in self.slabs(latent, shape, tile):
            hu[first : first + len(slab)] = slab
        return hu

    def slabs(
        self, latent: torch.Tensor, shape: Triple, tile: int | str = AUTO, team: Team | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """A latent (C, d, h, w) → first slice and int16 HU (d, H, W) of one slab after another, cropped to `shape`.

        Args:
            tile: largest side, in latent voxels, of the tiles that make a slab, or "auto". Memory follows it, the
                result does not.
            team: processes that all go through the slabs of the same latent, and share its tiles; only the first
                gets slabs.
        """
        team = team or Team()
        side, half = team.agree(self.decoding(tile))
        boxes = tile_boxes(triple(latent.shape[1:]), side)
        inside = sum(STEP * first < shape[0] for (first, _, _), _ in boxes)  # those that follow hold padding only
        own = slice(team.rank, inside, team.size)
        tiles = hu_tiles(self.generator.decode(latent, side, half, own), self.hu_window)
        if team.size > 1:
            tiles = in_turn(tiles, -(-inside // team.size), team)
        return slabs_of(tiles, shape)
