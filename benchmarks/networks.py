"""Networks of the configured sizes that need no file: on paper, without storage, or with random weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from benchmarks.measure import gflop, parameters
from common.atomic import replacing
from common.geometry import STEP, triple
from common.tensor_hash import tensor_hash
from ddpm.latent_scale import LatentScale
from pipeline import cli
from pipeline.checkpoints.checkpoint import write
from pipeline.checkpoints.description import GeneratorDescription, UsedCodec
from pipeline.checkpoints.from_settings import describe_vqgan
from pipeline.checkpoints.parts import build, describe
from pipeline.cli import composed
from pipeline.settings import plain
from pipeline.versions import versions

META = torch.device("meta")
NO_DATA = "dataset.root=."  # what the configs ask for, where no data is read
XRAY_SIDE = 512  # pixels of the whole X-ray in an item
PUBLISHED: dict[str, dict[str, Any]] = {  # sizes that stand in the weights' files; BiomedCLIP's are its defaults
    "medclip_cond.medclip.MedCLIPNetwork": dict(
        patch=4, width=96, depths=[2, 2, 6, 2], heads=[3, 6, 12, 24], window=7, pooled_dim=512
    ),
    "medclip_cond.rad_dino.RadDinoNetwork": dict(
        size=518, mean=[0.5] * 3, std=[0.25] * 3, config={"image_size": 518, "patch_size": 14}
    ),
}
# What a small machine can draw a whole volume with; other settings may follow.
SMALL = (
    "xray_encoder=tiny_random model.diffusion_num_channels=4 model.dim=8 model.dim_mults=[1,2,4]"
    " model.num_res_blocks=1 model.middle_blocks=1 model.attention_levels=[2] model.lifted_channels=8"
)
SMALL_VQGAN = "quantizer=multi_vq model.n_hiddens=8 model.embedding_dim=4 model.n_codes=512"


def without_files(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an X-ray encoder's network at its published size, with random weights."""
    if "weights" not in encoder:
        return dict(encoder)
    network = encoder["_target_"].removesuffix("Encoder") + "Network"
    return {"_target_": network, **PUBLISHED.get(network, {})}


def on_paper(config: Any, **changes: Any) -> Any:
    """A network with shapes, but without storage."""
    with META:
        return instantiate(config, **changes, _convert_="all")


def partner(cfg: DictConfig, overrides: Sequence[str] = (), preset: str = "") -> DictConfig:
    """The config of a stage 1 for this stage 2: a preset by its name, else that whose checkpoint `vqgan_ckpt` names.

    The guide's, if that path names none.
    """
    presets = [path.stem for path in (cli.CONFIG_DIR / "model").glob("vqgan*.yaml")]
    named = next((part for part in Path(cfg.model.vqgan_ckpt).parts if part in presets), "vqgan_patches_4gpu")
    return composed("train_vqgan", [NO_DATA, f"model={preset or named}", *overrides])


def codec_figures(cfg: DictConfig) -> dict[str, float]:
    """Parameters of stage 1's autoencoder, and its GFLOP for one patch."""
    vqgan, patch = on_paper(cfg.module.vqgan), plain(cfg.model.patch_size)
    around = [n + 2 * STEP * vqgan.encoder_halo for n in patch]
    image, context = (torch.empty(1, 1, *size, device=META) for size in (patch, around))
    code = torch.empty(1, vqgan.embedding_dim, *(n // STEP for n in patch), device=META)
    return {
        "vqgan_autoencoder_params": parameters(vqgan),
        "encoder_gflop": gflop(lambda: vqgan.encode(image)),
        "encoder_with_context_gflop": gflop(lambda: vqgan.encode(context)),
        "decoder_gflop": gflop(lambda: vqgan.decode(code)),
    }


def denoiser_figures(cfg: DictConfig) -> dict[str, float]:
    """Parameters of stage 2's network and X-ray encoder, and GFLOP of one patch with what brings the X-ray to it."""
    encoder = on_paper(without_files(plain(cfg.xray_encoder)))
    network = on_paper(cfg.module.denoiser, pooled_dim=encoder.pooled_dim, token_dim=encoder.token_dim)
    latent, tokens = [n // STEP for n in cfg.model.patch_size], encoder.grid[0] * encoder.grid[1]

    def run() -> None:
        features = torch.empty(1, encoder.pooled_dim), torch.empty(1, tokens, encoder.token_dim), encoder.grid
        xray, camera = torch.empty(1, 1, XRAY_SIDE, XRAY_SIDE), torch.empty(1, 3, 4)
        x, positions = torch.empty(1, network.latent_channels, *latent), torch.empty(1, 3, *latent)
        condition = network.encode_condition(*features, xray, camera)
        network(x, torch.empty(1), condition, positions, torch.empty(1, 3))

    with META:
        costs = gflop(run)
    return {"unet3d_params": parameters(network), "xray_encoder_params": parameters(encoder), "unet3d_gflop": costs}


def write_random_codec(path: Path, cfg: DictConfig) -> None:
    """A stage-1 checkpoint of `partner(cfg)` with as many channels as stage 2 wants."""
    window = f"dataset.hu_window={plain(cfg.dataset.hu_window)}"
    stage1 = partner(cfg, [f"model.embedding_dim={cfg.model.diffusion_num_channels}", window])
    description = describe_vqgan(stage1)
    write(path, description, {"vqgan": build(description.parts["vqgan"])})


def write_random_model(path: Path, small: bool, overrides: Sequence[str]) -> None:
    """Build both stages' networks and write them as `export_model.py` would.

    Args:
        small: networks that a CPU can work with, rather than the guide's.
        overrides: of train_ddpm_patches_4gpu.py; those that begin with "vqgan." are for the VQ-GAN's training script,
            e.g. vqgan.model.n_hiddens=4.
    """
    for_vqgan = [o.removeprefix("vqgan.") for o in overrides if o.startswith("vqgan.")]
    for_ddpm = [o for o in overrides if not o.startswith("vqgan.")]
    cfg = composed("train_ddpm", [NO_DATA, *(SMALL.split() if small else []), *for_ddpm])
    stage1 = partner(cfg, [*(SMALL_VQGAN.split() if small else []), *for_vqgan])
    torch.manual_seed(0)
    parts = describe(
        {"xray_encoder": without_files(plain(cfg.xray_encoder)), "diffusion": plain(cfg.diffusion)}
        | {"vqgan": plain(stage1.module.vqgan), "denoiser": plain(cfg.module.denoiser)}
    )
    encoder, vqgan, channels = build(parts["xray_encoder"]), build(parts["vqgan"]), cfg.model.diffusion_num_channels
    parts["denoiser"] |= {"pooled_dim": encoder.pooled_dim, "token_dim": encoder.token_dim}
    parts["xray_encoder"] = encoder.network()
    description = GeneratorDescription(
        stage="model",
        parts=parts,
        hu_window=tuple(plain(cfg.dataset.hu_window)),
        versions=versions(),
        codec=UsedCodec(tensor_hash(vqgan)),
        encoder_hash=tensor_hash(encoder),
        patch_size=triple(cfg.model.patch_size),
        stride=triple(cfg.model.stride),
        shape=(604, 512, 512),
        spacing=(0.7, 0.7, 0.7),
        xray_ranges={},
        xray_fov_mm=float(cfg.dataset.xray_fov_mm),
    )
    scale = LatentScale(torch.zeros(channels), torch.ones(channels))
    trained = {"denoiser": build(parts["denoiser"]), "latent_scale": scale}
    with replacing(path) as partial:
        write(partial, description, {**trained, "vqgan": vqgan, "xray_encoder": encoder})
