"""A model of any configured size with random weights, as an exported file: for measuring time and memory."""

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from benchmarks.model_card import partner, without_files
from benchmarks.options import composed
from common.atomic import replacing
from common.geometry import STEP, triple
from common.tensor_hash import tensor_hash
from ddpm.generator import VolumeGenerator
from ddpm.latent_scale import LatentScale
from pipeline.checkpoints import checkpoint
from pipeline.checkpoints.parts import build, describe
from pipeline.settings import plain
from vq_gan_3d.codec import FrozenCodec

NEEDED = ["dataset.root=."]  # no data is read
# What a small machine can draw a whole volume with; other settings may follow.
SMALL = (
    "xray_encoder=tiny_random",
    "model.diffusion_num_channels=4",
    "model.dim=8",
    "model.dim_mults=[1,2,4]",
    "model.num_res_blocks=1",
    "model.middle_blocks=1",
    "model.attention_levels=[2]",
    "model.lifted_channels=8",
)
SMALL_VQGAN = ("quantizer=multi_vq", "model.n_hiddens=8", "model.embedding_dim=4", "model.n_codes=512")


def write_random_model(path: Path, small: bool, overrides: Sequence[str]) -> None:
    """Build both stages' networks and write them as `export_model.py` would.

    Args:
        small: networks that a CPU can work with, rather than the guide's.
        overrides: of train_ddpm_patches_4gpu.py; those that begin with "vqgan." are for the VQ-GAN's training script,
            e.g. vqgan.model.n_hiddens=4.
    """
    for_vqgan = [o.removeprefix("vqgan.") for o in overrides if o.startswith("vqgan.")]
    for_ddpm = [o for o in overrides if not o.startswith("vqgan.")]
    cfg = composed("train_ddpm", [*NEEDED, *(SMALL if small else ()), *for_ddpm])
    preset = [f"model={partner(cfg)}", *(SMALL_VQGAN if small else ())]
    stage1 = composed("train_vqgan", [*NEEDED, *preset, *for_vqgan])
    torch.manual_seed(0)
    generator, parts = _build(cfg, stage1)
    meta = {
        "format": checkpoint.FORMAT,
        "parts": parts,
        "hu_window": plain(cfg.dataset.hu_window),
        "versions": checkpoint.versions(),
        "shape": [604, 512, 512],
        "spacing": [0.7, 0.7, 0.7],
        "xray_ranges": {},
        "xray_fov_mm": float(cfg.dataset.xray_fov_mm),
        "patch_size": plain(cfg.model.patch_size),
        "stride": plain(cfg.model.stride),
        "codec": {"hash": tensor_hash(generator.codec.vqgan)},  # type: ignore[attr-defined]
        "encoder_hash": tensor_hash(generator.xray_encoder),
    }
    with replacing(path) as partial:
        torch.save(checkpoint.exported(generator, meta, "Random weights, for benchmarks."), partial)


def _build(cfg: DictConfig, stage1: DictConfig) -> tuple[VolumeGenerator, dict[str, object]]:
    """The generator, and the description of its parts."""
    encoder_part = describe(without_files(plain(cfg.xray_encoder)))
    encoder = build(encoder_part)
    cfg.module.denoiser.pooled_dim, cfg.module.denoiser.token_dim = encoder.pooled_dim, encoder.token_dim
    module = plain(cfg.module)
    trained = {"denoiser": module["denoiser"], "diffusion": module["diffusion"], "vqgan": plain(stage1.module.vqgan)}
    parts = describe(trained) | {"xray_encoder": encoder_part}
    channels = cfg.model.diffusion_num_channels
    generator = VolumeGenerator(
        build(parts["denoiser"]),
        build(parts["diffusion"]),
        LatentScale(torch.zeros(channels), torch.ones(channels)),
        FrozenCodec(build(parts["vqgan"])),
        encoder,
        triple([n // STEP for n in plain(cfg.model.patch_size)]),
        triple([n // STEP for n in plain(cfg.model.stride)]),
    )
    return generator, parts
