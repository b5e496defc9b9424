"""The demo's trained model and its held-out patients, for benchmarks that need a model that has learned something."""

import itertools
from collections.abc import Mapping, Sequence
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
    """The demo's commands, as `run_demo.stages` gives them."""
    return run_demo.stages(composed("demo", settings))


def before(stage: str, made: Mapping[str, run_demo.Stage]) -> list[run_demo.Stage]:
    """Those of the demo's commands that come before a stage."""
    return list(itertools.takewhile(lambda found: found is not made[stage], made.values()))


class Demo:
    """The demo's model and data, trained now if they are not there.

    Args:
        settings: of run_demo.py; an existing checkpoint where they lead is taken as it is.
        device: as of `CTSampler`.
    """

    def __init__(self, settings: Sequence[str], device: str) -> None:
        made = stages(settings)
        ckpt = made["ddpm"].product
        if not ckpt.is_file():
            measure.run(run_demo.__file__, settings)
        self.sampler = CTSampler(ckpt, made["decoder"].product, device=device)
        self.store = VolumeStore(made["prepare"].product.parent)

    def held_out(self, most: int) -> list[HeldOut]:
        return [self._load(case) for case in self.store.split("val")[:most]]

    def _load(self, case: StoredCase) -> HeldOut:
        xray = self.sampler.stored_xray(self.store, case)
        return HeldOut(xray, Grid(case.shape, case.spacing), self.store.read_hu(case, (0, 0, 0), case.shape))
