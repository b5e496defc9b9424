"""The demo's trained model and its held-out patients, for benchmarks that need a model that has learned something."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import run_demo
from benchmarks import measure
from dataset.store.store import StoredCase, VolumeStore
from ddpm.plan import Grid, XrayInput
from pipeline.cli import composed
from pipeline.sampling.ct_sampler import CTSampler


@dataclass(frozen=True)
class HeldOut:
    """A patient that the model has not seen."""

    xray: XrayInput
    grid: Grid
    hu: np.ndarray  # int16 (D, H, W), the real CT


def stages(settings: Sequence[str]) -> dict[str, run_demo.Stage]:
    """The demo's commands, each by the name of its script."""
    return {stage.script: stage for stage in run_demo.stages(composed("demo", settings))}


class Demo:
    """The demo's model and data, trained now if they are not there.

    Args:
        settings: of run_demo.py; an existing checkpoint where they lead is taken as it is.
        device: as of `CTSampler`.
    """

    def __init__(self, settings: Sequence[str], device: str) -> None:
        made = stages(settings)
        ckpt = made["train_ddpm_patches_4gpu.py"].product
        if not ckpt.is_file():
            measure.run(run_demo.__file__, settings)
        self.sampler = CTSampler(ckpt, made["train_vqgan_patches_4gpu.py"].product, device=device)
        self.store = VolumeStore(made["prepare_data.py"].product.parent)

    def held_out(self, most: int) -> list[HeldOut]:
        return [self._load(case) for case in self.store.split("val")[:most]]

    def _load(self, case: StoredCase) -> HeldOut:
        xray = self.sampler.stored_xray(self.store, case)
        return HeldOut(xray, Grid(case.shape, case.spacing), self.store.read_hu(case, (0, 0, 0), case.shape))
