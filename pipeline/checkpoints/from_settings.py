"""Stage 2's frozen networks, and what the checkpoints of a training say, from its settings and data."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import DictConfig

from common.errors import UserError
from common.geometry import Triple, triple
from common.tensor_hash import tensor_hash
from dataset.scans.camera import Film
from dataset.store.latents import LatentSource
from dataset.store.split import SPLITS
from dataset.store.store import Store, StoredCase
from dataset.xray_ctpa_patch_dataset import EncoderInput
from medclip_cond.encoders import XrayEncoder
from pipeline.checkpoints.description import GeneratorDescription, ModelDescription, UsedCodec
from pipeline.checkpoints.networks import load_codec
from pipeline.checkpoints.parts import describe
from pipeline.checkpoints.seen import marks
from pipeline.settings import instantiated, plain
from pipeline.versions import versions
from vq_gan_3d.codec import FrozenCodec


@dataclass(frozen=True)
class FrozenNetworks:
    """The networks that stage 2 does not train."""

    codec: FrozenCodec
    codec_path: str
    encoder: XrayEncoder
    hu_window: tuple[float, float]
    of_codec: ModelDescription

    @classmethod
    def load(cls, cfg: DictConfig) -> "FrozenNetworks":
        codec, description = load_codec(cfg.model.vqgan_ckpt)
        channels, (low, high) = cfg.model.diffusion_num_channels, cfg.dataset.hu_window
        if codec.channels != channels:
            raise UserError(
                f"model.diffusion_num_channels={channels}, but the VQ-GAN {cfg.model.vqgan_ckpt} has latents of"
                f" {codec.channels} channels (its embedding_dim); set model.diffusion_num_channels={codec.channels}"
            )
        if description.hu_window != (low, high):
            raise UserError(
                f"dataset.hu_window={[low, high]}, but the VQ-GAN {cfg.model.vqgan_ckpt} was trained on"
                f" {list(description.hu_window)}; use the same window or train a VQ-GAN for this one"
            )
        path = str(Path(cfg.model.vqgan_ckpt).resolve())
        return cls(codec, path, instantiated(cfg.xray_encoder), (low, high), description)

    @property
    def widths(self) -> dict[str, int]:
        """Of the encoder's features, as the denoiser wants to know them."""
        return {"pooled_dim": self.encoder.pooled_dim, "token_dim": self.encoder.token_dim}

    @cached_property
    def source(self) -> LatentSource:
        """What cached latents follow from."""
        return LatentSource(tensor_hash(self.codec.vqgan), tensor_hash(self.encoder), self.hu_window)

    @property
    def encoder_input(self) -> EncoderInput:
        return EncoderInput(self.encoder.size, self.encoder.mean, self.encoder.std)


def describe_vqgan(cfg: DictConfig, training: Sequence[StoredCase] = ()) -> ModelDescription:
    """What stage 1's checkpoints say."""
    parts = describe({"vqgan": plain(cfg.module.vqgan)})
    return ModelDescription(stage="vqgan", parts=parts, **_common(cfg, training))


def describe_ddpm(
    cfg: DictConfig, store: Store, frozen: FrozenNetworks, patch: Triple, stride: Triple
) -> GeneratorDescription:
    """What stage 2's checkpoints say."""
    module, cases = plain(cfg.module), store.split("train")
    parts = {
        "denoiser": module["denoiser"] | frozen.widths,
        "diffusion": module["diffusion"],
        "xray_encoder": _located(plain(cfg.xray_encoder)),
    }
    film = Film(**plain(cfg.dataset.film))
    d, h, w = (float(median(c.spacing[axis] for c in cases)) for axis in range(3))
    return GeneratorDescription(
        stage="ddpm",
        parts=describe(parts),
        codec=UsedCodec(frozen.source.codec_hash, frozen.codec_path),
        encoder_hash=frozen.source.encoder_hash,
        patch_size=patch,
        stride=stride,
        shape=triple([int(median(c.shape[axis] for c in cases)) for axis in range(3)]),
        spacing=(d, h, w),
        xray_ranges=store.xray_ranges,
        xray_fov_mm=float(cfg.dataset.xray_fov_mm),
        film=None if film.source_mm is None else film,
        cases={split: len(store.split(split)) for split in SPLITS},
        **_common(cfg, cases),
    )


def _common(cfg: DictConfig, training: Sequence[StoredCase]) -> dict[str, Any]:
    return {
        "hu_window": tuple(plain(cfg.dataset.hu_window)),
        "versions": versions(),
        "config": {key: plain(cfg[key]) for key in ("model", "dataset", "seed")},
        "trained_on": marks(training),
    }


def _located(encoder: dict[str, Any]) -> dict[str, Any]:
    """An X-ray encoder's config whose weights, if they are files, are found from every folder."""
    weights = Path(encoder.get("weights", "")).expanduser()
    return encoder | {"weights": str(weights.resolve())} if "weights" in encoder and weights.exists() else encoder
