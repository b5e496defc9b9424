"""What the entry scripts have in common: store, datasets, checkpoints' descriptions, resuming."""

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

import checkpoint
from dataset.conversion_file import check_conversion
from dataset.file_store import FileStore
from dataset.latents import LatentCache, LatentSource, is_finished
from dataset.patches import Triple, padded_shape, triple
from dataset.prepare import prepare
from dataset.split import SPLITS
from dataset.store import MANIFEST, StoredCase, VolumeStore
from dataset.xray_ctpa_patch_dataset import EncoderInput, XrayCTPAPatchDataset, check_patch_size
from medclip_cond.encoders import XrayEncoder
from parts import describe, differences
from settings import plain, prepare_arguments, source_arguments, three_quarters
from tensor_hash import tensor_hash
from vq_gan_3d.codec import FrozenCodec

log = logging.getLogger(__name__)
STEP = 4  # voxels per latent voxel and axis


def check_sizes(model: DictConfig) -> None:
    """The sizes that follow from one another; ValueError names those that disagree and the right ones."""
    patch = check_patch_size(model.patch_size)
    if model.get("stride", ()) is None:
        model.stride = three_quarters(patch)
    if "stride" in model and any(s < STEP or s > p or s % STEP for s, p in zip(model.stride, patch, strict=True)):
        raise ValueError(
            f"model.stride must be multiples of {STEP} from {STEP} to the patch size {list(patch)},"
            f" got {list(model.stride)}; null takes three quarters of the patch"
        )
    for key, side in (("diffusion_img_size", patch[2]), ("diffusion_depth_size", patch[0])):
        if key in model and model[key] != side // STEP:
            raise ValueError(
                f"model.{key}={model[key]} disagrees with model.patch_size={list(patch)}:"
                f" it must be {side // STEP} (a quarter of {side}); leave it out and it follows"
            )


def open_store(dataset: DictConfig) -> VolumeStore:
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
        with _one_at_a_time(folder):  # the ranks of torchrun all come here
            if not (folder / MANIFEST).is_file():
                log.info("no prepared data in %s: preparing it now, once, as prepare_data.py does", folder)
                report = prepare(**prepare_arguments(dataset))
                log.info("%d cases prepared, %d problems", len(report.cases), len(report.problems))
    check_conversion(folder, prepare_arguments(dataset)["conversion"])
    return VolumeStore(folder)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def encoder_input(encoder: XrayEncoder) -> EncoderInput:
    return EncoderInput(encoder.size, encoder.mean, encoder.std)


def latent_source(codec: FrozenCodec, encoder: XrayEncoder, dataset: DictConfig) -> LatentSource:
    return LatentSource(tensor_hash(codec.vqgan), tensor_hash(encoder), tuple(dataset.hu_window))


def settle_patch_size(model: DictConfig, store: VolumeStore) -> None:
    """With `use_patches: false` a patch is a whole volume: as large as the largest one, padded to multiples of 4."""
    if not model.use_patches:
        largest = [max(case.shape[axis] for case in store.cases) for axis in range(3)]
        model.patch_size = list(padded_shape(triple(largest), triple([STEP] * 3), STEP))
        check_sizes(model)


def latent_shape(case: StoredCase, patch_size: Sequence[int]) -> Triple:
    """Of a whole volume, padded to hold a patch."""
    return triple([n // STEP for n in padded_shape(case.shape, triple(patch_size), STEP)])


def open_latents(
    dataset: DictConfig, source: LatentSource, cases: list[StoredCase], patch_size: Sequence[int]
) -> LatentCache | None:
    """The latent cache, as dataset.latents wants it."""
    choices = ("auto", "always", "never")
    if dataset.latents not in choices:
        raise ValueError(f"dataset.latents must be one of {choices}, got {dataset.latents!r}")
    if dataset.store is None:
        if dataset.latents == "always":
            raise ValueError("dataset.latents=always needs a store that was encoded, got dataset.store=null")
        return None
    if dataset.latents == "never" or (dataset.latents == "auto" and not is_finished(dataset.latents_dir)):
        return None
    return LatentCache(dataset.latents_dir, source, cases, [latent_shape(case, patch_size) for case in cases])


def make_dataset(cfg: DictConfig, store: VolumeStore, split: str, **extra: Any) -> XrayCTPAPatchDataset:
    """The patches of one split, drawn as cfg.model says."""
    model, dataset = cfg.model, cfg.dataset
    per_volume = model.patches_per_volume if split == "train" else model.val_patches_per_volume
    cases = store.split(split)
    if not cases:
        raise ValueError(f"{store.folder} has no cases in split {split!r}; dataset.split sets the shares")
    return XrayCTPAPatchDataset(
        store,
        cases,
        patch_size=plain(model.patch_size),
        patches_per_volume=per_volume,
        hu_window=tuple(dataset.hu_window),
        xray_fov_mm=dataset.xray_fov_mm,
        seed=cfg.seed,
        stride=plain(model.stride) if model.get("patch_draw") == "grid" else None,
        foreground_share=model.foreground_share if split == "train" else 0.0,
        **extra,
    )


@dataclass(frozen=True)
class Frozen:
    """The networks that stage 2 does not train."""

    codec: FrozenCodec
    codec_path: str
    encoder: XrayEncoder

    @classmethod
    def load(cls, cfg: DictConfig) -> "Frozen":
        codec, meta = checkpoint.load_codec(cfg.model.vqgan_ckpt)
        channels, window = cfg.model.diffusion_num_channels, list(cfg.dataset.hu_window)
        if codec.channels != channels:
            raise ValueError(
                f"model.diffusion_num_channels={channels}, but the VQ-GAN {cfg.model.vqgan_ckpt} has latents of"
                f" {codec.channels} channels (its embedding_dim); set model.diffusion_num_channels={codec.channels}"
            )
        if meta["hu_window"] != window:
            raise ValueError(
                f"dataset.hu_window={window}, but the VQ-GAN {cfg.model.vqgan_ckpt} was trained on"
                f" {meta['hu_window']}; use the same window or train a VQ-GAN for this one"
            )
        return cls(codec, str(Path(cfg.model.vqgan_ckpt).resolve()), instantiate(cfg.xray_encoder, _convert_="all"))


def common_meta(cfg: DictConfig, stage: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": checkpoint.FORMAT,
        "stage": stage,
        "parts": describe(parts),
        "hu_window": plain(cfg.dataset.hu_window),
        "versions": checkpoint.versions(),
        "config": {key: plain(cfg[key]) for key in ("model", "dataset", "seed")},
    }


def ddpm_meta(cfg: DictConfig, store: VolumeStore, frozen: Frozen, source: LatentSource) -> dict[str, Any]:
    """The description that stage 2's checkpoints carry."""
    module = plain(cfg.module)
    parts = {
        "denoiser": module["denoiser"],
        "diffusion": module["diffusion"],
        "xray_encoder": plain(cfg.xray_encoder),
    }
    return (
        common_meta(cfg, "ddpm", parts)
        | volume_meta(store, cfg.dataset)
        | {
            "codec": {"path": frozen.codec_path, "hash": source.codec_hash},
            "encoder_hash": source.encoder_hash,
            "patch_size": plain(cfg.model.patch_size),
            "stride": plain(cfg.model.stride),
        }
    )


def volume_meta(store: VolumeStore, dataset: DictConfig) -> dict[str, Any]:
    """What sampling needs to know of the training volumes and X-rays."""
    cases = store.split("train")
    return {
        "cases": {split: len(store.split(split)) for split in SPLITS},
        "shape": [int(median(c.shape[axis] for c in cases)) for axis in range(3)],
        "spacing": [float(median(c.spacing[axis] for c in cases)) for axis in range(3)],
        "xray_ranges": {kind: list(pair) for kind, pair in store.xray_ranges.items()},
        "xray_fov_mm": float(dataset.xray_fov_mm),
    }


def start_from(cfg: DictConfig, module: nn.Module, meta: Mapping[str, Any]) -> str | None:
    """The checkpoint to resume from, if any; loads `init_from` into the module.

    Raises:
        ValueError: the checkpoint's networks differ from the configured ones.
    """
    last = Path(cfg.checkpoint_dir) / "last.ckpt"
    if cfg.resume not in ("auto", "never"):
        raise ValueError(f"resume must be auto or never, got {cfg.resume!r}")
    if cfg.resume == "auto" and last.is_file():
        stored = checkpoint.read(last, meta["stage"])
        differ = differences(_shaping(stored["xray2ctpa"]), _shaping(meta))
        differ = differ or checkpoint.other_tensors(stored["state_dict"], module)
        if differ:
            raise ValueError(
                f"{last} was trained with other settings:\n  " + "\n  ".join(differ) + "\n"
                "To go on: the stored settings; model.name=NEW for another run; resume=never to start anew here;"
                f" or init_from={last} model.name=NEW to start from these weights"
            )
        return str(last)
    if cfg.init_from is not None:
        checkpoint.init_weights(module, cfg.init_from, meta["stage"])
    return None


def _shaping(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What of a description shapes the weights."""
    shaping = {key: meta.get(key) for key in ("parts", "hu_window", "encoder_hash")}
    return shaping | {"codec_hash": meta.get("codec", {}).get("hash")}


def check_run(cfg: DictConfig) -> None:
    """ValueError for sizes that disagree, or more processes than GPUs."""
    check_sizes(cfg.model)
    wanted = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("NGPU", "1"))
    found = torch.cuda.device_count()
    if 0 < found < wanted:
        raise ValueError(f"NGPU={wanted} processes, but this machine has {found} GPUs; set NGPU={found}")


def fit(cfg: DictConfig, module: pl.LightningModule, data: pl.LightningDataModule, resume_from: str | None) -> None:
    """Train, and say where the results are."""
    _save_config(cfg)
    trainer = instantiate(cfg.trainer, _convert_="all")
    if resume_from:
        log.info("continuing from %s", resume_from)
    log.info("TensorBoard: tensorboard --logdir %s", cfg.run_dir)
    trainer.fit(module, data, ckpt_path=resume_from)
    log.info("step %d; checkpoints are in %s", trainer.global_step, cfg.checkpoint_dir)


def _save_config(cfg: DictConfig) -> None:
    if os.environ.get("RANK", "0") == "0":
        folder = Path(cfg.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
