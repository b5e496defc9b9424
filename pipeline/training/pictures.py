"""What stage 2 draws as it trains, in TensorBoard: the same validation patients again and again."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.loggers import TensorBoardLogger

from common.collectives import gathered
from common.errors import UserError
from common.geometry import STEP, Triple, latent_shape, slices, triple
from common.planes import planes_at
from dataset.intensity import unit_to_hu
from dataset.store.store import StoredCase
from dataset.xray_ctpa_patch_dataset import XrayCTPAPatchDataset, read_unit
from ddpm.ema import WeightAverage
from ddpm.module import PatchDDPM
from ddpm.plan import Grid
from ddpm.while_training import draw_while_training
from evaluation.pictures import page_of_planes
from pipeline.training.agreement import Later, tell
from vq_gan_3d.codec import FrozenCodec

log = logging.getLogger(__name__)
SHARE = 0.01  # of the time, at most, that goes into pictures
REAL, CODEC, RIGHT, NULL = "real", "codec", "drawn", "no X-ray"  # rows of a picture
Planes = dict[str, NDArray[np.int16]]


class Pictures(pl.Callback):
    """Draws CTs of validation patients, by the averaged weights from the same noise, and shows three planes of each.

    Beside them stand the real CT, that CT through the codec, and what is drawn for no X-ray, if training drops any.
    Training does not change by it. The ranks draw at the same step, each its share, when the first one's clock says so.
    After a picture for which the memory does not suffice there are no more.

    Args:
        every_minutes: from one time to the next, longer where drawing would take more than `SHARE` of the time; None:
            never.
        patients: how many, the first of the validation split.
        steps: of the sampler.
    """

    def __init__(self, every_minutes: float | None, patients: int = 2, steps: int = 10) -> None:
        self.every_s = float("inf") if every_minutes is None else 60 * every_minutes
        self.patients, self.steps = patients, steps
        self._due_at = self._step = 0.0
        self._told: Later | None = None
        self._fixed: dict[tuple[int, str], Planes] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step, self._due_at = trainer.global_step, time.monotonic() + self.every_s

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == self._step or step % trainer.log_every_n_steps or self.every_s == float("inf"):  # type: ignore[attr-defined]
            return
        self._step = step
        if self._hear(trainer):
            self._show(trainer, pl_module)  # type: ignore[arg-type]

    def _hear(self, trainer: pl.Trainer) -> bool:
        """Whether it is time, by what the first rank said some steps ago, so that nobody waits to hear it."""
        due = time.monotonic() >= self._due_at and trainer.is_global_zero
        if trainer.world_size == 1:
            return due
        before, self._told = self._told, tell(trainer, torch.tensor([float(due)]))
        return before is not None and bool(before.read()[0])

    def _show(self, trainer: pl.Trainer, module: PatchDDPM) -> None:
        began = time.monotonic()
        dataset: XrayCTPAPatchDataset = trainer.datamodule.val  # type: ignore[attr-defined]
        cases = dataset.cases[: self.patients]
        rows = (REAL, CODEC, RIGHT, NULL) if module.condition_dropout else (REAL, CODEC, RIGHT)
        todo = [(i, row) for row in rows for i in range(len(cases)) if (i, row) not in self._fixed]
        artist = _Artist(module, cast(FrozenCodec, module.codec), dataset, _averaged(trainer), self.steps)
        own = {(i, row): artist.planes(cases[i], row) for i, row in todo[trainer.global_rank :: trainer.world_size]}
        drawn = {job: planes for part in gathered(own) for job, planes in part.items()}
        found = self._fixed | {job: planes for job, planes in drawn.items() if planes is not None}
        if None in drawn.values():
            self.every_s = float("inf")
            return
        self._fixed = {job: planes for job, planes in found.items() if job[1] in (REAL, CODEC)}
        if trainer.is_global_zero:
            for i, case in enumerate(cases):
                xray = dataset.patients.read(case, 0)["xray"][0].numpy()
                page = page_of_planes(xray, {row: found[i, row] for row in rows}, case.spacing, case.name)
                for logger in trainer.loggers:
                    if isinstance(logger, TensorBoardLogger):
                        logger.experiment.add_image(
                            f"drawn/{i + 1}", np.asarray(page), trainer.global_step, dataformats="HWC"
                        )
        took = time.monotonic() - began
        self._due_at, self._told = time.monotonic() + max(self.every_s, took / SHARE), None


def _averaged(trainer: pl.Trainer) -> Mapping[str, torch.Tensor]:
    found = [callback for callback in trainer.callbacks if isinstance(callback, WeightAverage)]  # type: ignore[attr-defined]
    return found[0].average if found else {}


@dataclass(frozen=True)
class _Artist:
    """Makes the rows of pictures."""

    module: PatchDDPM
    codec: FrozenCodec
    dataset: XrayCTPAPatchDataset
    weights: Mapping[str, torch.Tensor]
    steps: int

    def planes(self, case: StoredCase, row: str) -> Planes | None:
        """Middle planes in HU; None, and a warning, where that cannot be."""
        try:
            return {name: np.ascontiguousarray(hu) for name, hu in self._planes(case, row).items()}
        except (torch.OutOfMemoryError, UserError) as problem:
            log.warning("no more pictures of drawn CTs in TensorBoard: %s", problem)
            return None

    def _planes(self, case: StoredCase, row: str) -> Planes:
        if row == REAL:
            return planes_at(partial(self.dataset.store.read_hu, case), case.shape)
        if row == CODEC:
            return self._decoded(case, partial(self._encoded, case))
        grid, patient = Grid(case.shape, case.spacing), self.dataset.patients.read(case, 0)
        drawn = draw_while_training(self.module, self.weights, patient, grid, self.steps, row == NULL)
        return self._decoded(case, lambda first, size: drawn[(slice(None), *slices(first, size))])

    def _encoded(self, case: StoredCase, first: Triple, size: Triple) -> torch.Tensor:
        """The part of the real CT's latent that `FrozenCodec.decode_box` asks for."""
        shape, window = self._padded(case), self.dataset.hu_window

        def read(start: Triple, extent: Triple) -> torch.Tensor:
            return torch.from_numpy(read_unit(self.dataset.store, case, start, extent, window))[None]

        return self.codec.encode_box(read, shape, first, size)

    def _decoded(self, case: StoredCase, latent: Any) -> Planes:
        """Only what lies around the planes is decoded."""

        def read(first: Triple, size: Triple) -> NDArray[np.int16]:
            block = self.codec.decode_box(latent, self._padded(case), first, size)[0]
            return unit_to_hu(block, self.dataset.hu_window).round().to(torch.int16).numpy()

        return planes_at(read, case.shape)

    def _padded(self, case: StoredCase) -> Triple:
        """Shape (D, H, W) in voxels that the latent stands for."""
        return triple([STEP * n for n in latent_shape(case.shape, triple(self.module.meta["patch_size"]))])
