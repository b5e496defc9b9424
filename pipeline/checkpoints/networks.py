"""Networks out of checkpoints, and all that sampling needs into one file."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from common.errors import UserError
from common.geometry import STEP, triple
from common.tensor_hash import tensor_hash
from ddpm.generator import VolumeGenerator
from ddpm.latent_scale import LatentScale
from medclip_cond.encoders import XrayEncoder
from pipeline.checkpoints.checkpoint import StoredCheckpoint, read, write
from pipeline.checkpoints.description import GeneratorDescription, ModelDescription, UsedCodec
from pipeline.checkpoints.parts import PARTS, at_most, default_weights
from vq_gan_3d.codec import FrozenCodec

LARGEST_ENCODER = 1000  # tensors; those of ViT-B are some 200


def load_codec(path: str | Path) -> tuple[FrozenCodec, ModelDescription]:
    """The frozen codec of a stage-1 checkpoint or of an export, and that file's description."""
    stored = read(path, "vqgan", "model")
    return FrozenCodec(stored.network("vqgan")), stored.description


def load_generator(
    path: str | Path,
    vqgan_ckpt: str | Path | None = None,
    averaged: bool = True,
    xray_weights: str | Path | None = None,
) -> tuple[VolumeGenerator, GeneratorDescription]:
    """All that sampling needs, from a stage-2 checkpoint and the codec that it was trained with, or from an export.

    Args:
        vqgan_ckpt: the stage-1 checkpoint, if it is no longer where training found it.
        averaged: use the averaged weights rather than the last ones.
        xray_weights: file, folder or hub id of the X-ray encoder's weights, if no longer where training found them.

    Returns:
        the generator, and the description of its parts and of the volumes that it draws.

    Raises:
        FileNotFoundError, UserError: a file is missing, damaged, or another codec or encoder than in training.
    """
    stored = read(path, "ddpm", "model")
    description = cast(GeneratorDescription, stored.description)
    if description.stage == "model":
        if vqgan_ckpt or xray_weights or not averaged:
            raise UserError(
                f"{path} holds its own VQ-GAN and X-ray encoder, and the averaged weights only;"
                " leave vqgan_ckpt, xray_weights and averaged out"
            )
        codec, encoder = FrozenCodec(stored.network("vqgan")), stored.network("xray_encoder")
    else:
        codec, of_codec = load_codec(vqgan_ckpt or description.codec.path or "")
        encoder = _encoder(stored, xray_weights)
        description = replace(description, parts=description.parts | {"vqgan": of_codec.parts["vqgan"]})
        if averaged and not stored.average:
            raise UserError(f"{path} holds no averaged weights; sample with averaged=false")
    in_codec, in_encoder = _looked_at(description, vqgan_ckpt, xray_weights)
    _check_hash(codec.vqgan, description.codec.hash, "VQ-GAN", path, in_codec)
    _check_hash(encoder, description.encoder_hash, "X-ray encoder", path, in_encoder)
    denoiser = stored.network("denoiser", averaged)
    generator = VolumeGenerator(
        denoiser,
        stored.built("diffusion"),
        stored.load(LatentScale.unknown(denoiser.latent_channels), stored.weights("latent_scale")),
        codec,
        encoder,
        triple([n // STEP for n in description.patch_size]),
        triple([n // STEP for n in description.stride]),
    )
    return generator, description


def write_export(path: Path, generator: VolumeGenerator, description: GeneratorDescription, card: str) -> None:
    """Write what `load_generator` loaded into one file: no paths, no optimizer, nothing of single patients.

    Args:
        card: the model card, Markdown.
    """
    codec, encoder = cast(FrozenCodec, generator.codec), cast(XrayEncoder, generator.xray_encoder)
    networks = {"denoiser": generator.denoiser, "latent_scale": generator.latent_scale}
    parts = description.parts | {"xray_encoder": encoder.network()}
    own = UsedCodec(description.codec.hash)
    kept = replace(description, stage="model", parts=parts, codec=own, config=None, trained_on=None)
    write(path, kept, {**networks, "vqgan": codec.vqgan, "xray_encoder": encoder}, MODEL_CARD=card)


def exported_encoder(weights: str) -> XrayEncoder:
    """The X-ray encoder that an export holds.

    Args:
        weights: path of the export.
    """
    stored = read(weights, "model")
    encoder: XrayEncoder = stored.network("xray_encoder")
    _check_hash(encoder, cast(GeneratorDescription, stored.description).encoder_hash, "X-ray encoder", weights)
    return encoder


def _encoder(stored: StoredCheckpoint, weights: str | Path | None) -> Any:
    """The X-ray encoder of a stage-2 checkpoint, which does not hold its weights.

    The checkpoint alone cannot make this machine call out for anything but the published weights.
    """
    encoder = stored.description.parts.get("xray_encoder", {})
    part, named = encoder.get("part"), encoder.get("weights")
    if weights is None:
        if named is not None and part in PARTS and named != default_weights(part) and not _exists(named):
            raise UserError(
                f"{stored.path} names {named!r} as the weights of its X-ray encoder: no file here, and not the"
                " published ones. xray_weights= says where they are, a file, a folder or a hub repository that you"
                " trust"
            )
        with at_most(LARGEST_ENCODER):
            return stored.built("xray_encoder")
    if named is None:
        raise UserError(f"{stored.path} has a {part}, which reads no weights; leave xray_weights out")
    return stored.built("xray_encoder", weights=str(weights))


def _exists(name: Any) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (TypeError, ValueError, OSError, RuntimeError):
        return False


def _check_hash(network: nn.Module, stored: str, name: str, path: str | Path, looked_at: str = "") -> None:
    """UserError for other tensors than in training; `looked_at` goes on with where they are from, and the remedy."""
    found = tensor_hash(network)
    if found != stored:
        raise UserError(f"{path} was trained with another {name}: hash {stored[:12]}, found {found[:12]}{looked_at}")


def _looked_at(
    description: GeneratorDescription, vqgan_ckpt: str | Path | None, xray_weights: str | Path | None
) -> tuple[str, str]:
    """Which files VQ-GAN and X-ray encoder come from, and what to do if they are others than in training."""
    if description.stage == "model":
        return "", ""  # from the export itself
    weights = xray_weights or description.parts.get("xray_encoder", {}).get("weights")
    return (
        f" in {vqgan_ckpt or description.codec.path}. Stage 1, trained on or anew, replaces that file: vqgan_ckpt= takes a"
        " copy of the one of then, or an export with that VQ-GAN",
        f" in {weights}: xray_weights= takes the file or folder of then" if weights else "",
    )
