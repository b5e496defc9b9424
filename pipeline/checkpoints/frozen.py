"""The networks that stage 2 does not train, and what follows from them for its data."""

from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from pipeline.checkpoints import checkpoint
from dataset.store.latents import LatentSource
from dataset.xray_ctpa_patch_dataset import EncoderInput
from medclip_cond.encoders import XrayEncoder
from common.tensor_hash import tensor_hash
from vq_gan_3d.codec import FrozenCodec
from common.errors import UserError


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
            raise UserError(
                f"model.diffusion_num_channels={channels}, but the VQ-GAN {cfg.model.vqgan_ckpt} has latents of"
                f" {codec.channels} channels (its embedding_dim); set model.diffusion_num_channels={codec.channels}"
            )
        if meta["hu_window"] != window:
            raise UserError(
                f"dataset.hu_window={window}, but the VQ-GAN {cfg.model.vqgan_ckpt} was trained on"
                f" {meta['hu_window']}; use the same window or train a VQ-GAN for this one"
            )
        return cls(codec, str(Path(cfg.model.vqgan_ckpt).resolve()), instantiate(cfg.xray_encoder, _convert_="all"))


def latent_source(codec: FrozenCodec, encoder: XrayEncoder, dataset: DictConfig) -> LatentSource:
    return LatentSource(tensor_hash(codec.vqgan), tensor_hash(encoder), tuple(dataset.hu_window))


def encoder_input(encoder: XrayEncoder) -> EncoderInput:
    return EncoderInput(encoder.size, encoder.mean, encoder.std)
