"""What a training needs, made on the spot: phantom volumes, stores, frozen networks of the right size.

Weights of the frozen networks are random and cached latents are noise: neither changes how long a step takes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import DictConfig

from benchmarks.networks import NO_DATA, without_files, write_random_codec
from common.geometry import latent_shape, triple
from dataset.phantom.data_set import make_phantom_data
from dataset.store.latents import LatentWriter
from dataset.store.xray_features import XrayFeatures
from pipeline.checkpoints.from_settings import FrozenNetworks
from pipeline.cli import composed
from pipeline.settings import plain
from pipeline.training.data import open_store
from pipeline.training.stages import build_ddpm, build_vqgan

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
        self.stage = stage
        self.overrides = [
            f"dataset.root={folder}/data",
            "dataset.split={train: 0.5, val: 0.5}",
            "dataset.prepare_workers=0",
            f"run_dir={folder}/run",
            f"checkpoint_dir={folder}/run",  # a benchmark that is ended by SIGTERM saves there, as trainings do
            *overrides,
        ]
        wanted = composed(f"train_{stage}", [NO_DATA, *overrides])
        shape = [n + ROOM for n in wanted.model.patch_size]
        spacing = [EXTENT_MM / n for n in shape]
        make_phantom_data(folder / "data", VOLUMES, shape_range=[shape, shape], spacing_range=[spacing, spacing])
        if stage == "ddpm":
            write_random_codec(folder / "vqgan.ckpt", wanted)
            self.overrides.append(f"model.vqgan_ckpt={folder}/vqgan.ckpt")
            self._write_latents()

    def settings(self, *more: str) -> DictConfig:
        """The script's config with these overrides besides, the X-ray encoder without its files."""
        cfg = composed(f"train_{self.stage}", [*self.overrides, *more])
        if self.stage == "ddpm":
            cfg.xray_encoder = without_files(plain(cfg.xray_encoder))
        return cfg

    def build(self, cfg: DictConfig) -> tuple[Any, Any]:
        """Module and data of the training script; nothing has to be measured or fitted at its start."""
        torch.manual_seed(cfg.seed)  # the frozen networks' random weights must be those of the cache
        if self.stage == "vqgan":
            module, data = build_vqgan(cfg)
            module.vqgan.initialized.fill_(True)
            return module, data
        ddpm, data = build_ddpm(cfg)
        if not ddpm.latent_scale.is_known:
            ddpm.latent_scale.std.fill_(1)
        return ddpm, data

    def _write_latents(self) -> None:
        cfg = self.settings()
        torch.manual_seed(cfg.seed)
        frozen, store = FrozenNetworks.load(cfg), open_store(cfg.dataset)
        source, encoder = frozen.source, frozen.encoder
        writer = LatentWriter(cfg.dataset.latents_dir, source, store.xray_ranges)
        tokens = torch.randn(encoder.grid[0] * encoder.grid[1], encoder.token_dim)
        for case in store.cases:
            shape = latent_shape(case.shape, triple(cfg.model.patch_size))
            writer.write(case, shape, [((0, 0, 0), torch.randn(frozen.codec.channels, *shape))])
            writer.write_xray(case, XrayFeatures(tokens, torch.randn(encoder.pooled_dim)))
        writer.finish(store.cases)


@contextmanager
def workbench(stage: str, overrides: Sequence[str]) -> Iterator[Workbench]:
    """A workbench in a folder that is removed afterwards."""
    with TemporaryDirectory(prefix="benchmark_") as folder:
        yield Workbench(Path(folder), stage, overrides)
