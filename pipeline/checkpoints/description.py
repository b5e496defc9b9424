"""What checkpoints say of themselves: parts, sizes, data, frozen networks."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import DictConfig

from pipeline.checkpoints import checkpoint
from dataset.store.latents import LatentSource
from dataset.store.split import SPLITS
from dataset.store.store import Store
from pipeline.checkpoints.frozen import Frozen
from pipeline.checkpoints.parts import describe
from pipeline.settings import plain


def common_meta(cfg: DictConfig, stage: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": checkpoint.FORMAT,
        "stage": stage,
        "parts": describe(parts),
        "hu_window": plain(cfg.dataset.hu_window),
        "versions": checkpoint.versions(),
        "config": {key: plain(cfg[key]) for key in ("model", "dataset", "seed")},
    }


def ddpm_meta(cfg: DictConfig, store: Store, frozen: Frozen, source: LatentSource) -> dict[str, Any]:
    """The description that stage 2's checkpoints carry."""
    module = plain(cfg.module)
    parts = {
        "denoiser": module["denoiser"],
        "diffusion": module["diffusion"],
        "xray_encoder": _located(plain(cfg.xray_encoder)),
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


def _located(encoder: dict[str, Any]) -> dict[str, Any]:
    """An X-ray encoder's config whose weights, if they are files, are found from every folder."""
    weights = Path(encoder.get("weights", "")).expanduser()
    return encoder | {"weights": str(weights.resolve())} if "weights" in encoder and weights.exists() else encoder


def volume_meta(store: Store, dataset: DictConfig) -> dict[str, Any]:
    """What sampling needs to know of the training volumes and X-rays."""
    cases = store.split("train")
    return {
        "cases": {split: len(store.split(split)) for split in SPLITS},
        "shape": [int(median(c.shape[axis] for c in cases)) for axis in range(3)],
        "spacing": [float(median(c.spacing[axis] for c in cases)) for axis in range(3)],
        "xray_ranges": {kind: list(pair) for kind, pair in store.xray_ranges.items()},
        "xray_fov_mm": float(dataset.xray_fov_mm),
    }


def shaping(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What of a description shapes the weights."""
    found = {key: meta.get(key) for key in ("parts", "hu_window", "encoder_hash")}
    encoder = {k: v for k, v in meta["parts"].get("xray_encoder", {}).items() if k != "weights"}  # the hash tells them
    return found | {"parts": meta["parts"] | {"xray_encoder": encoder}, "codec_hash": checkpoint.codec_hash(meta)}
