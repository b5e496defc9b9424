"""Tiny data, tiny networks, and the scripts run as a user would run them."""

import os
import signal
import socket
import sys
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

import encode_latents
import make_phantom_data
import prepare_data
import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from dataset.datamodule import PatchDataModule
from ddpm.module import PatchDDPM
from pipeline import cli
from pipeline.training import run as training_run

CHANNELS = 4
PATCH = 16
PHANTOM = [
    "dataset.phantom.num_cases=5",
    "dataset.phantom.shape_range=[[30,22,26],[34,26,30]]",
    "dataset.phantom.spacing_range=[[9,10,10],[10,12,12]]",
    "dataset.phantom.axes=[LPS,LAS]",
    "dataset.prepare_workers=0",
]
PATCHES = [
    f"model.patch_size=[{PATCH},{PATCH},{PATCH}]",
    "model.patches_per_volume=2",
    "model.val_patches_per_volume=1",
    "model.num_workers=0",
    "model.effective_batch=null",
    "model.max_epochs=1",
]
VQGAN = [
    *PATCHES,
    "model.n_hiddens=4",
    f"model.embedding_dim={CHANNELS}",
    "model.n_codes=16",
    "model.encoder_mults=[1,1]",
    "model.encoder_blocks=[0,1]",
    "model.decoder_mults=[1,1]",
    "model.decoder_blocks=[1,0]",
    "model.disc_channels=4",
    "model.disc_layers=1",
    "model.disc_start=2",
]
FROZEN = ["xray_encoder=tiny_random", f"model.diffusion_num_channels={CHANNELS}"]
DDPM = [
    *PATCHES,
    *FROZEN,
    "model.dim=8",
    "model.dim_mults=[1,2]",
    "model.num_res_blocks=1",
    "model.middle_blocks=1",
    "model.lifted_channels=4",
    "model.warmup_steps=2",
    "model.ema_decay=0.5",
]
VQGAN_CKPT = "outputs/vqgan_patches_4gpu/checkpoints/last.ckpt"
DDPM_FOLDER = "checkpoints/ddpm_4gpu_patches"
DDPM_CKPT = f"{DDPM_FOLDER}/last.ckpt"


def composed(config_name: str, *overrides: str) -> DictConfig:
    """A script's config with overrides."""
    return cli.composed(config_name, overrides)


def run(script: ModuleType, *settings: str) -> None:
    """`python script.py settings`, in this process. SystemExit where the command would end with a status."""
    GlobalHydra.instance().clear()
    argv = [f"{script.__name__}.py", *settings]
    with mock.patch.dict(os.environ), mock.patch.object(sys, "argv", argv):
        os.environ.pop("HYDRA_FULL_ERROR", None)
        script.main()
    GlobalHydra.instance().clear()


@dataclass(frozen=True)
class Workshop:
    """A folder where everything was run once, with the guide's paths: data/, outputs/, checkpoints/."""

    folder: Any

    @property
    def root(self) -> Any:
        return self.folder / "data"

    @property
    def store(self) -> Any:
        return self.root / "store"

    @property
    def data(self) -> str:
        return f"dataset.root={self.root}"

    @property
    def vqgan_ckpt(self) -> Any:
        return self.folder / VQGAN_CKPT

    @property
    def ddpm_ckpt(self) -> Any:
        return self.folder / DDPM_CKPT

    @property
    def xray(self) -> Any:
        return self.root / "phantom0000" / "phantom0000_pa_drr.png"

    @property
    def vqgan(self) -> list[str]:
        """Settings of train_vqgan_patches_4gpu.py."""
        return [self.data, *VQGAN]

    @property
    def ddpm(self) -> list[str]:
        """Settings of train_ddpm_patches_4gpu.py; latents on the fly, unless the test sets dataset.latents_dir."""
        return [self.data, *DDPM, f"model.vqgan_ckpt={self.vqgan_ckpt}"]

    @property
    def encode(self) -> list[str]:
        """Settings of encode_latents.py, which needs dataset.latents_dir besides."""
        return [self.data, *FROZEN, PATCHES[0], f"model.vqgan_ckpt={self.vqgan_ckpt}"]


def make_data(folder: Any) -> None:
    with chdir(folder):
        run(make_phantom_data, "dataset.root=data", *PHANTOM)
        run(prepare_data, "dataset.root=data", "dataset.prepare_workers=0")


def train_both(workshop: Workshop) -> None:
    with chdir(workshop.folder):
        run(train_vqgan_patches_4gpu, *workshop.vqgan)
        run(train_ddpm_patches_4gpu, *workshop.ddpm)


def encode(workshop: Workshop, folder: Any) -> None:
    run(encode_latents, *workshop.encode, f"dataset.latents_dir={folder}")


@dataclass(frozen=True)
class Built:
    """What a training script made of its settings, at the moment when training would have begun."""

    cfg: DictConfig
    module: Any
    data: PatchDataModule
    resume_from: str | None

    @property
    def batch(self) -> dict[str, Any]:
        return self.data.on_after_batch_transfer(next(iter(self.data.train_dataloader())), 0)


def built(script: ModuleType, *settings: str) -> Built:
    """Run a training script up to the training."""
    with mock.patch.object(training_run, "fit") as fit:
        run(script, *settings)
    return Built(*fit.call_args.args)


def built_ddpm(*settings: str) -> Built:
    made = built(train_ddpm_patches_4gpu, *settings)
    assert isinstance(made.module, PatchDDPM)
    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def load(path: Any) -> dict[str, Any]:
    """A checkpoint, read as untrusted data."""
    return torch.load(path, map_location="cpu", weights_only=True)


class Stopped(Exception):  # noqa: N818, it stands for a power cut
    """Training was interrupted by a test."""


class StopAt(pl.Callback):
    """Interrupts training before the batch that would become step `step` + 1, or in the validation after step `step`.

    By an exception, or by a signal to the process of one rank; with `once`, a file then made, the first time only.
    """

    def __init__(
        self, step: int, signal: str | None = None, validating: bool = False, rank: int = 0, once: str | None = None
    ) -> None:
        self.step, self.signal, self.validating, self.rank = step, signal, validating, rank
        self.once = None if once is None else Path(once)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._stop(trainer, not self.validating)

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._stop(trainer, self.validating)

    def _stop(self, trainer: pl.Trainer, here: bool) -> None:
        if not here or trainer.global_step != self.step or trainer.global_rank != self.rank:
            return
        if self.once is not None:
            if self.once.exists():
                return
            self.once.touch()
        if self.signal is None:
            raise Stopped
        os.kill(os.getpid(), signal.Signals[self.signal])


class Record(pl.Callback):
    """Writes down (epoch, sample keys) of every training batch; read it from `Record.seen`."""

    seen: list[tuple[int, list[int]]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        Record.seen = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        Record.seen.append((trainer.current_epoch, batch["sample_key"].tolist()))
