"""Checkpoints that describe themselves: what goes into them, and networks back out of them.

Files hold plain data and tensors only (`torch.load(weights_only=True)`). Under "xray2ctpa" they carry the
description of their parts (`parts.describe`), the HU window, sizes, and the hashes of the frozen networks.

Stages: "vqgan" and "ddpm" are those of training, "model" is what `export_model.py` writes: averaged weights, codec and
X-ray encoder in one file that needs no other.
"""

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from common.geometry import STEP, triple
from ddpm.ema import load_weights
from ddpm.generator import VolumeGenerator
from ddpm.latent_scale import LatentScale
from pipeline.checkpoints.parts import build, differences
from common.tensor_hash import tensor_hash
from vq_gan_3d.codec import FrozenCodec
from common.errors import UserError

FORMAT = 1


def versions() -> dict[str, str]:
    """What a checkpoint was made with."""
    packages = ("torch", "pytorch-lightning", "numpy", "transformers")
    return {name: version(name) for name in packages} | {
        "python": platform.python_version(),
        "commit": _commit(),
    }


def _commit() -> str:
    """Of this code; empty without its repository, or on a machine without git."""
    words = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(
            words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:
        return ""


def read(path: str | Path, stage: str, *others: str) -> dict[str, Any]:
    """A checkpoint of ours on the CPU.

    Args:
        stage: "vqgan" or "ddpm", what it must hold, unless it is one of the `others`.

    Raises:
        FileNotFoundError: no such file. ValueError: damaged, or not such a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        maker = "launch_vqgan_patches_4gpu.sh" if stage == "vqgan" else "launch_ddpm_patches_4gpu.sh"
        raise FileNotFoundError(f"no {stage} checkpoint at {path}; {maker} trains one, or give another path")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        raise UserError(f"{path} is not a readable checkpoint (damaged or cut off?): {error}") from error
    meta = content.get("xray2ctpa") if isinstance(content, dict) else None
    if not meta:
        raise UserError(f"{path} is not a checkpoint of this project: it holds no description of its parts")
    if meta["format"] != FORMAT or meta["stage"] not in (stage, *others):
        raise UserError(
            f"{path} holds stage {meta['stage']!r} in format {meta['format']}, need stage {stage!r} in format {FORMAT}"
        )
    return dict(content)


def submodule_state(content: Mapping[str, Any], name: str) -> dict[str, torch.Tensor]:
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}


def load_codec(path: str | Path) -> tuple[FrozenCodec, dict[str, Any]]:
    """The frozen codec of a stage-1 checkpoint, and the checkpoint's description."""
    content = read(path, "vqgan")
    meta = content["xray2ctpa"]
    vqgan = build(meta["parts"]["vqgan"])
    _load(vqgan, submodule_state(content, "vqgan"), path)
    return FrozenCodec(vqgan), meta


def load_generator(
    path: str | Path,
    vqgan_ckpt: str | Path | None = None,
    averaged: bool = True,
    xray_weights: str | Path | None = None,
) -> tuple[VolumeGenerator, dict[str, Any]]:
    """All that sampling needs, from a stage-2 checkpoint and the codec that it was trained with, or from an export.

    Args:
        vqgan_ckpt: the stage-1 checkpoint, if it is no longer where training found it.
        averaged: use the averaged weights rather than the last ones.
        xray_weights: file, folder or hub id of the X-ray encoder's weights, if no longer where training found them.

    Returns:
        the generator, and the description of its parts and of the volumes that it draws.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged, or another codec or encoder than in training.
    """
    content = read(path, "ddpm", "model")
    meta = content["xray2ctpa"]
    if meta["stage"] == "model":
        if vqgan_ckpt or xray_weights or not averaged:
            raise UserError(
                f"{path} holds its own VQ-GAN and X-ray encoder, and the averaged weights only;"
                " leave vqgan_ckpt, xray_weights and averaged out"
            )
        codec, encoder = FrozenCodec(_part(content, "vqgan", path)), _part(content, "xray_encoder", path)
    else:
        codec, codec_meta = load_codec(vqgan_ckpt or meta["codec"]["path"])
        encoder = build(_with_weights(meta["parts"]["xray_encoder"], xray_weights, path))
        meta["parts"]["vqgan"] = codec_meta["parts"]["vqgan"]
    _check_hash(codec.vqgan, meta["codec"]["hash"], "VQ-GAN", path)
    _check_hash(encoder, meta["encoder_hash"], "X-ray encoder", path)
    denoiser, scale = _part(content, "denoiser", path), submodule_state(content, "latent_scale")
    if averaged and meta["stage"] == "ddpm":
        load_weights(nn.ModuleDict({"denoiser": denoiser}), _averaged(content, path))
    window, stride = ([n // STEP for n in meta[key]] for key in ("patch_size", "stride"))
    generator = VolumeGenerator(
        denoiser,
        build(meta["parts"]["diffusion"]),
        LatentScale(scale["mean"], scale["std"]),
        codec,
        encoder,
        triple(window),
        triple(stride),
    )
    return generator, meta


def exported(generator: VolumeGenerator, meta: Mapping[str, Any], card: str) -> dict[str, Any]:
    """What `load_generator` loaded as the content of one file: no paths, no optimizer, nothing of single patients.

    Args:
        card: the model card, Markdown.
    """
    networks: dict[str, nn.Module] = {
        "denoiser": generator.denoiser,
        "latent_scale": generator.latent_scale,
        "vqgan": generator.codec.vqgan,  # type: ignore[attr-defined]
        "xray_encoder": generator.xray_encoder,
    }
    state = {f"{name}.{key}": t.cpu() for name, part in networks.items() for key, t in part.state_dict().items()}
    kept = {key: value for key, value in meta.items() if key != "config"}
    parts = meta["parts"] | {"xray_encoder": generator.xray_encoder.network()}  # type: ignore[operator]
    description = kept | {"stage": "model", "parts": parts, "codec": {"hash": meta["codec"]["hash"]}}
    return {"xray2ctpa": description, "state_dict": state, "MODEL_CARD": card}


def init_weights(module: nn.Module, path: str | Path, meta: Mapping[str, Any]) -> None:
    """Start a module of training from a checkpoint's weights; ValueError if they do not fit.

    The scale of the latents comes along only if both have them of one codec.

    Args:
        meta: the module's description.
    """
    content = read(path, meta["stage"])
    state = dict(content["state_dict"])
    if codec_hash(content["xray2ctpa"]) != codec_hash(meta):
        state |= {k: v for k, v in module.state_dict().items() if k.startswith("latent_scale.")}
    _load(module, state, path)


def codec_hash(meta: Mapping[str, Any]) -> str | None:
    """Of the codec whose latents a checkpoint's networks are for; None in stage 1."""
    return meta.get("codec", {}).get("hash")


def other_tensors(state: Mapping[str, torch.Tensor], module: nn.Module, most: int = 5) -> list[str]:
    """The first few tensors that a module has, or has in another shape, and a stored state has not, and back."""
    stored = {name: tuple(tensor.shape) for name, tensor in state.items()}
    new = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return differences(stored, new)[:most]


def _with_weights(encoder: Mapping[str, Any], weights: str | Path | None, path: str | Path) -> Mapping[str, Any]:
    """An X-ray encoder's description with its weights elsewhere."""
    if weights is None:
        return encoder
    if "weights" not in encoder:
        raise UserError(f"{path} has a {encoder['part']}, which reads no weights; leave xray_weights out")
    return {**encoder, "weights": str(weights)}


def _check_hash(network: nn.Module, stored: str, name: str, path: str | Path) -> None:
    found = tensor_hash(network)
    if found != stored:
        raise UserError(f"{path} was trained with another {name}: hash {stored[:12]}, found {found[:12]}")


def _part(content: Mapping[str, Any], name: str, path: str | Path) -> Any:
    """A network that a checkpoint describes, with its weights."""
    network = build(content["xray2ctpa"]["parts"][name])
    _load(network, submodule_state(content, name), path)
    return network


def _averaged(content: Mapping[str, Any], path: str | Path) -> dict[str, torch.Tensor]:
    for name, state in content.get("callbacks", {}).items():
        if name.startswith("WeightAverage") and state["average"]:
            return dict(state["average"])
    raise UserError(f"{path} holds no averaged weights; sample with averaged=false")


def _load(module: nn.Module, state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise UserError(f"{path} holds a network of another shape: {' '.join(lines[:4])}") from error
