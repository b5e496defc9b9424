"""Sizes and costs of a preset's networks: `python -m benchmarks.model_card model=ddpm_4gpu_patches`

Takes the overrides of train_ddpm_patches_4gpu.py. Stage 1 is the preset whose checkpoint `model.vqgan_ckpt` names;
`vqgan=NAME` picks another. The last line is one JSON object: parameters, GFLOP of one forward pass of one patch (10^9
operations, a multiplication with its addition counted as two), MB of a stage-2 checkpoint. Nothing is loaded or
computed: the networks have shapes without storage.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.options import composed, reports_mistakes, split
from common.geometry import STEP
from ddpm.denoiser import PatchDenoiser
from ddpm.perceptual_resnet import ResNetDistance
from medclip_cond.encoders import XrayEncoder
from pipeline import cli
from pipeline.settings import plain
from vq_gan_3d.perceptual import VGG16Distance
from vq_gan_3d.vqgan import VQGAN

META = torch.device("meta")
XRAY_SIDE = 512  # pixels of the whole X-ray in an item
STORED_COPIES = 4  # of the trained weights: themselves, Adam's two moments, their average
FLOAT_BYTES = 4
PUBLISHED = {  # sizes that stand in the weights' files; BiomedCLIP's are its network's defaults
    "medclip_cond.medclip.MedCLIPNetwork": {
        "patch": 4,
        "width": 96,
        "depths": [2, 2, 6, 2],
        "heads": [3, 6, 12, 24],
        "window": 7,
        "pooled_dim": 512,
    },
    "medclip_cond.rad_dino.RadDinoNetwork": {
        "size": 518,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "config": {"image_size": 518, "patch_size": 14},
    },
}


def without_files(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an X-ray encoder's network at its published size, with random weights."""
    if "weights" not in encoder:
        return dict(encoder)
    network = encoder["_target_"].removesuffix("Encoder") + "Network"
    return {"_target_": network, **PUBLISHED.get(network, {})}


def parameters(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def gflop(run: Callable[[], Any]) -> float:
    """10^9 operations of a call; a multiply-add counts as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 1e9


def denoiser(cfg: DictConfig, encoder: XrayEncoder) -> PatchDenoiser:
    """Stage 2's trained network, on the meta device."""
    cfg.module.denoiser.pooled_dim, cfg.module.denoiser.token_dim = encoder.pooled_dim, encoder.token_dim
    with META:
        return instantiate(cfg.module.denoiser, _convert_="all")


def denoiser_gflop(network: PatchDenoiser, encoder: XrayEncoder, latent: Sequence[int]) -> float:
    """One forward pass of one patch of `latent` (d, h, w) voxels, with what brings the X-ray to it."""
    rows, columns = encoder.grid

    def run() -> None:
        condition = network.encode_condition(
            torch.empty(1, encoder.pooled_dim, device=META),
            torch.empty(1, rows * columns, encoder.token_dim, device=META),
            encoder.grid,
            torch.empty(1, 1, XRAY_SIDE, XRAY_SIDE, device=META),
            torch.empty(1, 2, 3, device=META),
        )
        x = torch.empty(1, network.latent_channels, *latent, device=META)
        network(x, torch.empty(1, device=META), condition, x.new_empty(1, 3, *latent), x.new_empty(1, 3))

    return gflop(run)


def codec(cfg: DictConfig) -> VQGAN:
    """Stage 1's autoencoder, on the meta device."""
    with META:
        return instantiate(cfg.module.vqgan, _convert_="all")


def partner(cfg: DictConfig) -> str:
    """Name of the stage-1 preset whose checkpoint stage 2 reads; the guide's if the path names none."""
    names = [p.stem for p in (cli.CONFIG_DIR / "model").glob("vqgan*.yaml")]
    return next((part for part in Path(cfg.model.vqgan_ckpt).parts if part in names), "vqgan_patches_4gpu")


def card(cfg: DictConfig, stage1: DictConfig) -> dict[str, Any]:
    vqgan = codec(stage1)
    with META:
        encoder = instantiate(without_files(plain(cfg.xray_encoder)))
        discriminators = instantiate(stage1.module.discriminators, _convert_="all")
        resnet, vgg = ResNetDistance("random"), VGG16Distance("random")
    network, patch = denoiser(cfg, encoder), plain(cfg.model.patch_size)
    latent = [n // STEP for n in patch]
    around = [n + 2 * STEP * vqgan.encoder_halo for n in patch]
    code = torch.empty(1, vqgan.embedding_dim, *latent, device=META)
    figures = {
        "unet3d_gflop": denoiser_gflop(network, encoder, latent),
        "encoder_gflop": gflop(lambda: vqgan.encode(torch.empty(1, 1, *patch, device=META))),
        "encoder_with_context_gflop": gflop(lambda: vqgan.encode(torch.empty(1, 1, *around, device=META))),
        "decoder_gflop": gflop(lambda: vqgan.decode(code)),
        "checkpoint_mb": STORED_COPIES * FLOAT_BYTES * parameters(network) / 1e6,
    }
    return {
        "model": cfg.model.name,
        "vqgan": stage1.model.name,
        "unet3d_params": parameters(network),
        "vqgan_autoencoder_params": parameters(vqgan),
        "vqgan_discriminator_params": parameters(*discriminators),
        "xray_encoder_params": parameters(encoder),
        "perceptual_params": parameters(resnet),
        "vqgan_perceptual_params": parameters(vgg),
        **{key: round(value, 1) for key, value in figures.items()},
    }


def table(figures: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{key:28}{value if isinstance(value, str) else f'{value:,}':>20}" for key, value in figures.items()
    )


@reports_mistakes("train_ddpm")
def main() -> None:
    own, overrides = split(sys.argv[1:], {"vqgan": ""})
    needed = ["dataset.root=."]  # no data is read
    cfg = composed("train_ddpm", [*needed, *overrides])
    stage1 = composed("train_vqgan", [*needed, f"model={own['vqgan'] or partner(cfg)}"])
    figures = card(cfg, stage1)
    print(table(figures))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
