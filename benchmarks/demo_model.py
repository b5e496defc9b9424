"""The demo's trained model and its held-out patients, for benchmarks that need a model that has learned something."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import run_demo
from benchmarks.options import composed
from dataset.store.store import StoredCase, VolumeStore
from ddpm.generator import Grid, XrayInput
from pipeline.sampling.ct_sampler import CTSampler


@dataclass(frozen=True)
class HeldOut:
    """A patient that the model has not seen."""

    xray: XrayInput
    grid: Grid
    hu: np.ndarray  # int16 (D, H, W), the real CT


class Demo:
    """The demo's model and data, trained now if they are not there.

    Args:
        settings: of run_demo.py; an existing checkpoint where they lead is taken as it is.
        device: as of `CTSampler`.
    """

    def __init__(self, settings: Sequence[str], device: str) -> None:
        stages = {stage.script: stage.settings for stage in run_demo.stages(composed("demo", settings))}
        ckpt = Path(stages["evaluate_ddpm_patches.py"]["ckpt"])
        if not ckpt.is_file():
            done = subprocess.run([sys.executable, run_demo.__file__, *settings], stdout=sys.stderr, check=False)
            if done.returncode:
                sys.exit(done.returncode)
        vqgan = Path(stages["train_vqgan_patches_4gpu.py"]["checkpoint_dir"]) / "last.ckpt"
        self.sampler = CTSampler(ckpt, vqgan, device=device)
        self.store = VolumeStore(Path(stages["prepare_data.py"]["dataset"]["root"]) / "store")
        self.window, self.stride = self.sampler.generator.window, self.sampler.generator.stride

    def held_out(self, most: int) -> list[HeldOut]:
        return [self._load(case) for case in self.store.split("val")[:most]]

    def _load(self, case: StoredCase) -> HeldOut:
        xray = self.sampler.prepare_xray(self.store.read_xray(case), case.xray_affine)
        return HeldOut(xray, Grid(case.shape, case.spacing), self.store.read_hu(case, (0, 0, 0), case.shape))


def as_unit(hu: np.ndarray, window: tuple[float, float]) -> torch.Tensor:
    """HU clipped to the window as float32 in [0, 1]."""
    low, high = window
    return (torch.from_numpy(hu.astype(np.float32)).clamp(low, high) - low) / (high - low)
