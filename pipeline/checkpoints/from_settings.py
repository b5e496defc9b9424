"""Stage 2's frozen networks, and what the checkpoints of a training say, from its settings and data."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from common.errors import UserError
from common.geometry import triple
from common.tensor_hash import tensor_hash
from dataset.store.latents import LatentSource
from dataset.store.split import SPLITS
from dataset.store.store import Store
from dataset.xray_ctpa_patch_dataset import EncoderInput
from medclip_cond.encoders import XrayEncoder
from pipeline.checkpoints.description import GeneratorDescription, ModelDescription, UsedCodec
from pipeline.checkpoints.networks import load_codec
from pipeline.checkpoints.parts import describe
from pipeline.settings import plain
from pipeline.versions import versions
from vq_gan_3d.codec import FrozenCodec


@dataclass(frozen=True)
class Frozen:
    """The networks that stage 2 does not train."""

    codec: FrozenCodec
    codec_path: str
    encoder: XrayEncoder

    @classmethod
    def load(cls, cfg: DictConfig) -> "Frozen":
        codec, description = load_codec(cfg.model.vqgan_ckpt)
        channels, window = cfg.model.diffusion_num_channels, list(cfg.dataset.hu_window)
        if codec.channels != channels:
            raise UserError(
                f"model.diffusion_num_channels={channels}, but the VQ-GAN {cfg.model.vqgan_ckpt} has latents of"
                f" {codec.channels} channels (its embedding_dim); set model.diffusion_num_channels={codec.channels}"
            )
        if list(description.hu_window) != window:
            raise UserError(
                f"dataset.hu_window={window}, but the VQ-GAN {cfg.model.vqgan_ckpt} was trained on"
                f" {list(description.hu_window)}; use the same window or train a VQ-GAN for this one"
            )
        return cls(codec, str(Path(cfg.model.vqgan_ckpt).resolve()), instantiate(cfg.xray_encoder, _convert_="all"))


def latent_source(codec: FrozenCodec, encoder: XrayEncoder, dataset: DictConfig) -> LatentSource:
    return LatentSource(tensor_hash(codec.vqgan), tensor_hash(encoder), tuple(dataset.hu_window))


def encoder_input(encoder: XrayEncoder) -> EncoderInput:
    return EncoderInput(encoder.size, encoder.mean, encoder.std)


def describe_vqgan(cfg: DictConfig) -> ModelDescription:
    """What stage 1's checkpoints say."""
    return ModelDescription(stage="vqgan", parts=describe({"vqgan": plain(cfg.module.vqgan)}), **_common(cfg))


def describe_ddpm(cfg: DictConfig, store: Store, frozen: Frozen, source: LatentSource) -> GeneratorDescription:
    """What stage 2's checkpoints say."""
    module, cases = plain(cfg.module), store.split("train")
    parts = {
        "denoiser": module["denoiser"],
        "diffusion": module["diffusion"],
        "xray_encoder": _located(plain(cfg.xray_encoder)),
    }
    d, h, w = (float(median(c.spacing[axis] for c in cases)) for axis in range(3))
    return GeneratorDescription(
        stage="ddpm",
        parts=describe(parts),
        codec=UsedCodec(source.codec_hash, frozen.codec_path),
        encoder_hash=source.encoder_hash,
        patch_size=triple(cfg.model.patch_size),
        stride=triple(cfg.model.stride),
        shape=triple([int(median(c.shape[axis] for c in cases)) for axis in range(3)]),
        spacing=(d, h, w),
        xray_ranges=store.xray_ranges,
        xray_fov_mm=float(cfg.dataset.xray_fov_mm),
        cases={split: len(store.split(split)) for split in SPLITS},
        **_common(cfg),
    )


def _common(cfg: DictConfig) -> dict[str, Any]:
    return {
        "hu_window": tuple(plain(cfg.dataset.hu_window)),
        "versions": versions(),
        "config": {key: plain(cfg[key]) for key in ("model", "dataset", "seed")},
    }


def _located(encoder: dict[str, Any]) -> dict[str, Any]:
    """An X-ray encoder's config whose weights, if they are files, are found from every folder."""
    weights = Path(encoder.get("weights", "")).expanduser()
    return encoder | {"weights": str(weights.resolve())} if "weights" in encoder and weights.exists() else encoder
