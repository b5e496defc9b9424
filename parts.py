"""The parts that a checkpoint may name. Nothing read from a file builds any other class."""

from collections.abc import Mapping
from typing import Any

from ddpm.denoiser import PatchDenoiser
from ddpm.diffusion import CosineDDPM, RectifiedFlow
from ddpm.unet3d import UNet3D
from medclip_cond.biomedclip import BiomedCLIPEncoder
from medclip_cond.lifting import XrayLifter
from medclip_cond.medclip import MedCLIPEncoder
from medclip_cond.rad_dino import RadDinoEncoder
from medclip_cond.tiny_random import TinyRandomEncoder
from vq_gan_3d.quantizers import FiniteScalarQuantizer, KLBottleneck, VectorQuantizer
from vq_gan_3d.vqgan import VQGAN

PARTS: dict[str, type] = {
    part.__name__: part
    for part in (
        BiomedCLIPEncoder,
        CosineDDPM,
        FiniteScalarQuantizer,
        KLBottleneck,
        MedCLIPEncoder,
        PatchDenoiser,
        RadDinoEncoder,
        RectifiedFlow,
        TinyRandomEncoder,
        UNet3D,
        VectorQuantizer,
        VQGAN,
        XrayLifter,
    )
}


def describe(config: Any) -> Any:
    """A config of parts (`_target_` and arguments) as plain data: `part` and arguments."""
    if isinstance(config, Mapping):
        plain = {
            key: describe(value) for key, value in config.items() if key not in ("_target_", "_partial_")
        }
        if "_target_" not in config:
            return plain
        name = str(config["_target_"]).rsplit(".", 1)[-1]
        if name not in PARTS or f"{PARTS[name].__module__}.{name}" != config["_target_"]:
            raise ValueError(
                f"{config['_target_']} is not a part that checkpoints can name; parts.py lists {sorted(PARTS)}"
            )
        return {"part": name, **plain} | ({"partial": True} if config.get("_partial_") else {})
    if isinstance(config, list | tuple):
        return [describe(value) for value in config]
    return config


def build(description: Any) -> Any:
    """The parts that `describe` described.

    Raises:
        ValueError: a name that is not in `PARTS`.
    """
    if isinstance(description, Mapping):
        arguments = {k: build(v) for k, v in description.items() if k not in ("part", "partial")}
        if "part" not in description:
            return arguments
        if description["part"] not in PARTS:
            raise ValueError(f"unknown part {description['part']!r}; this version knows {sorted(PARTS)}")
        part = PARTS[description["part"]]
        if description.get("partial"):
            return lambda **more: part(**arguments, **more)
        return part(**arguments)
    if isinstance(description, list):
        return [build(value) for value in description]
    return description


def differences(stored: Any, new: Any, path: str = "") -> list[str]:
    """Where two descriptions differ: "path: stored → new"."""
    if isinstance(stored, Mapping) and isinstance(new, Mapping):
        keys = sorted(set(stored) | set(new))
        return [d for k in keys for d in differences(stored.get(k), new.get(k), f"{path}.{k}" if path else k)]
    return [] if stored == new else [f"{path}: {stored} in the checkpoint, {new} now"]
