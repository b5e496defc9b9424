"""What a training reads: the prepared data set, its latent cache, the patches of a split."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from common.errors import UserError
from common.geometry import latent_shape, padded_shape, triple
from common.locks import exclusive
from dataset.prepare.conversion_file import check_conversion
from dataset.prepare.file_store import FileStore
from dataset.prepare.run import prepare
from dataset.store.latents import LatentCache, LatentSource, is_finished
from dataset.store.store import MANIFEST, Store, VolumeStore
from dataset.xray_ctpa_patch_dataset import XrayCTPAPatchDataset
from pipeline.settings import check_sizes, plain, prepare_arguments, source_arguments

log = logging.getLogger(__name__)


def open_store(dataset: DictConfig) -> Store:
    """The prepared data set; prepared now if that has not been done. Without a store, the files themselves."""
    if dataset.store is None:
        return FileStore(**source_arguments(dataset))
    folder = Path(dataset.store)
    if not (folder / MANIFEST).is_file():
        if not Path(dataset.root).is_dir():
            raise FileNotFoundError(
                f"no prepared data in {folder}, and no folder of pairs at dataset.root={dataset.root} that"
                " prepare_data.py could prepare"
            )
        with exclusive(folder / ".lock"):  # the ranks of torchrun all come here
            if not (folder / MANIFEST).is_file():
                log.info("no prepared data in %s: preparing it now, once, as prepare_data.py does", folder)
                report = prepare(**prepare_arguments(dataset))
                log.info("%d cases prepared, %d problems", len(report.cases), len(report.problems))
    check_conversion(folder, prepare_arguments(dataset)["conversion"])
    return VolumeStore(folder)


def settle_patch_size(model: DictConfig, store: Store) -> None:
    """With `use_patches: false` a patch is a whole volume: as large as the largest one, padded to multiples of 4."""
    if not model.use_patches:
        largest = [max(case.shape[axis] for case in store.cases) for axis in range(3)]
        model.patch_size = list(padded_shape(triple(largest)))
        check_sizes(model)


def open_latents(
    dataset: DictConfig, source: LatentSource, store: Store, patch_size: Sequence[int]
) -> LatentCache | None:
    """The latent cache, as dataset.latents wants it."""
    if dataset.store is None:
        if dataset.latents == "always":
            raise UserError("dataset.latents=always needs a store that was encoded, got dataset.store=null")
        return None
    if dataset.latents == "never" or (dataset.latents == "auto" and not is_finished(dataset.latents_dir)):
        return None
    shapes = [latent_shape(case.shape, triple(patch_size)) for case in store.cases]
    return LatentCache(dataset.latents_dir, source, store.cases, shapes, store.xray_ranges)


def make_dataset(cfg: DictConfig, store: Store, split: str, **extra: Any) -> XrayCTPAPatchDataset:
    """The patches of one split, drawn as cfg.model says."""
    model, dataset = cfg.model, cfg.dataset
    per_volume = model.patches_per_volume if split == "train" else model.val_patches_per_volume
    return XrayCTPAPatchDataset.from_store(
        store,
        split,
        patch_size=plain(model.patch_size),
        patches_per_volume=per_volume,
        hu_window=tuple(dataset.hu_window),
        xray_fov_mm=dataset.xray_fov_mm,
        seed=cfg.seed,
        stride=_stride_of_draws(model),
        foreground_share=model.foreground_share if split == "train" else 0.0,
        overhang=model.get("overhang", 0) if split == "train" else 0,
        **extra,
    )


def _stride_of_draws(model: DictConfig) -> list[int] | None:
    """Of the grid that patches are drawn from; None: anywhere."""
    return plain(model.stride) if model.get("patch_draw") == "grid" else None
