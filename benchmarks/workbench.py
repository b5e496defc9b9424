"""What a training needs, made on the spot: phantom volumes, stores, frozen networks of the right size.

Weights of the frozen networks are random and cached latents are noise: neither changes how long a step takes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from benchmarks.model_card import META, partner, without_files
from benchmarks.options import composed
from common.geometry import Triple, latent_shape, triple
from dataset.phantom.data_set import make_phantom_data
from dataset.store.latents import LatentWriter
from medclip_cond.encoders import XrayEncoder
from pipeline.checkpoints import checkpoint
from pipeline.checkpoints.frozen import Frozen, latent_source
from pipeline.checkpoints.parts import describe
from pipeline.settings import plain
from pipeline.training.data import open_store

VOLUMES = 2  # one to train on, one for validation, which no benchmark of speed runs
ROOM = 16  # voxels that a volume is larger than a patch, so that patches differ
EXTENT_MM = 350.0


class Workbench:
    """A folder with data and frozen networks that fit the settings of a training script.

    Args:
        stage: "ddpm" or "vqgan".
        overrides: of the script's config.
    """

    def __init__(self, folder: Path, stage: str, overrides: Sequence[str]) -> None:
        self.folder, self.stage = folder, stage
        self.overrides = [
            f"dataset.root={folder}/data",
            "dataset.split={train: 0.5, val: 0.5}",
            "dataset.prepare_workers=0",
            f"run_dir={folder}/run",
            *overrides,
        ]
        wanted = composed(f"train_{stage}", ["dataset.root=.", *overrides])
        shape = [n + ROOM for n in wanted.model.patch_size]
        spacing = [EXTENT_MM / n for n in shape]
        make_phantom_data(folder / "data", VOLUMES, shape_range=[shape, shape], spacing_range=[spacing, spacing])
        if stage == "ddpm":
            self.overrides.append(f"model.vqgan_ckpt={self._write_codec(wanted)}")
            self._write_latents()

    def settings(self, *more: str) -> DictConfig:
        """The script's config with these overrides besides, the X-ray encoder without its files."""
        cfg = composed(f"train_{self.stage}", [*self.overrides, *more])
        if self.stage == "ddpm":
            cfg.xray_encoder = without_files(plain(cfg.xray_encoder))
        return cfg

    def xray_encoder(self, cfg: DictConfig) -> XrayEncoder:
        """The encoder without storage, for its sizes."""
        with META:
            return instantiate(cfg.xray_encoder, _convert_="all")

    def build(self, cfg: DictConfig) -> tuple[Any, Any]:
        """Module and data of the training script; nothing has to be measured or fitted at its start."""
        torch.manual_seed(cfg.seed)  # the frozen networks' random weights must be those of the cache
        if self.stage == "vqgan":
            module, data = train_vqgan_patches_4gpu.build(cfg)
            module.vqgan.initialized.fill_(True)
            return module, data
        ddpm, data = train_ddpm_patches_4gpu.build(cfg)
        if not ddpm.latent_scale.is_known:
            ddpm.latent_scale.std.fill_(1)
        return ddpm, data

    def _write_codec(self, wanted: DictConfig) -> Path:
        width = f"model.embedding_dim={wanted.model.diffusion_num_channels}"
        stage1 = composed("train_vqgan", ["dataset.root=.", f"model={partner(wanted)}", width])
        vqgan = instantiate(stage1.module.vqgan, _convert_="all")
        meta = {
            "format": checkpoint.FORMAT,
            "stage": "vqgan",
            "parts": describe({"vqgan": plain(stage1.module.vqgan)}),
            "hu_window": plain(wanted.dataset.hu_window),
        }
        state = {f"vqgan.{name}": tensor for name, tensor in vqgan.state_dict().items()}
        path = self.folder / "vqgan.ckpt"
        torch.save({"xray2ctpa": meta, "state_dict": state}, path)
        return path

    def _write_latents(self) -> None:
        cfg = self.settings()
        torch.manual_seed(cfg.seed)
        frozen, store = Frozen.load(cfg), open_store(cfg.dataset)
        source = latent_source(frozen.codec, frozen.encoder, cfg.dataset)
        writer, eye = LatentWriter(cfg.dataset.latents_dir, source, store.xray_ranges), frozen.encoder
        tokens = torch.randn(eye.grid[0] * eye.grid[1], eye.token_dim)
        for case in store.cases:
            shape = latent_shape(case.shape, triple(cfg.model.patch_size))
            tiles: list[tuple[Triple, Tensor]] = [((0, 0, 0), torch.randn(frozen.codec.channels, *shape))]
            writer.write(case, shape, tiles)
            writer.write_xray(case, tokens, torch.randn(eye.pooled_dim))
        writer.finish(store.cases)


@contextmanager
def workbench(stage: str, overrides: Sequence[str]) -> Iterator[Workbench]:
    """A workbench in a folder that is removed afterwards."""
    with TemporaryDirectory(prefix="benchmark_") as folder:
        yield Workbench(Path(folder), stage, overrides)
