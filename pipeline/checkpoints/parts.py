"""The parts that a checkpoint may name. Nothing read from a file builds any other class."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from torch.nn.modules.module import register_module_parameter_registration_hook

from common.errors import UserError

# name → module, imported when needed: the encoders' library alone takes seconds to load
PARTS = {
    "BiomedCLIPEncoder": "medclip_cond.biomedclip",
    "BiomedCLIPNetwork": "medclip_cond.biomedclip",
    "CosineDDPM": "ddpm.diffusion",
    "FiniteScalarQuantizer": "vq_gan_3d.quantizers",
    "GroupNormVQGAN": "vq_gan_3d.group_norm_vqgan",
    "KLBottleneck": "vq_gan_3d.quantizers",
    "MedCLIPEncoder": "medclip_cond.medclip",
    "MedCLIPNetwork": "medclip_cond.medclip",
    "PatchDenoiser": "ddpm.denoiser",
    "RadDinoEncoder": "medclip_cond.rad_dino",
    "RadDinoNetwork": "medclip_cond.rad_dino",
    "RectifiedFlow": "ddpm.diffusion",
    "Regression": "ddpm.diffusion",
    "TinyRandomEncoder": "medclip_cond.tiny_random",
    "UNet3D": "ddpm.unet3d",
    "VQGAN": "vq_gan_3d.vqgan",
    "VectorQuantizer": "vq_gan_3d.quantizers",
    "XrayLifter": "medclip_cond.lifting",
    "exported_encoder": "pipeline.checkpoints.networks",
}
# arguments that parts, and fields that descriptions no longer have, with the values of those that did without them
TAKEN_OUT: Mapping[str, Mapping[str, Any]] = {
    "CosineDDPM": {"loss": None},
    "RectifiedFlow": {"loss": None},
    "GeneratorDescription": {"latent_floor": None},
    "PatchDenoiser": {"global_context": False, "position_origin": "volume", "volume_extent": False},
}


def describe(config: Any) -> Any:
    """A config of parts (`_target_` and arguments) as plain data: `part` and arguments."""
    if isinstance(config, Mapping):
        plain = {key: describe(value) for key, value in config.items() if key not in ("_target_", "_partial_")}
        if "_target_" not in config:
            return plain
        module, _, name = str(config["_target_"]).rpartition(".")
        if PARTS.get(name) != module:
            raise UserError(
                f"{config['_target_']} is not a part that checkpoints can name; parts.py lists {sorted(PARTS)}"
            )
        return {"part": name, **plain} | ({"partial": True} if config.get("_partial_") else {})
    if isinstance(config, list | tuple):
        return [describe(value) for value in config]
    return config


def complete(description: Any) -> Any:
    """The same with every argument that has a default: versions differ in which ones their config wrote down."""
    if isinstance(description, Mapping):
        given = {key: complete(value) for key, value in description.items()}
        if given.get("part") not in PARTS:
            return given
        parameters = signature(_part(given["part"])).parameters.values()
        return {p.name: complete(p.default) for p in parameters if p.default is not p.empty} | given
    if isinstance(description, list | tuple):
        return [complete(value) for value in description]
    return description


def current(description: Mapping[str, Any], source: str | Path, made_by: str = "") -> dict[str, Any]:
    """A network, or itself, as `source` describes it, without arguments that were taken out since.

    Args:
        made_by: the commit that wrote it, as far as that is known.

    Raises:
        UserError: the network was trained to use them.
    """
    gone = TAKEN_OUT.get(str(description.get("part")), {})
    used = [f"{name}={description[name]}" for name, unused in gone.items() if description.get(name, unused) != unused]
    if used:
        raise UserError(
            f"{source} was trained with {', '.join(used)}, which was taken out since it lost (docs/benchmarks.md); draw"
            f" with the version that trained it{made_by and f', commit {made_by}'}, or train anew without it"
        )
    return {name: value for name, value in description.items() if name not in gone}


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
            raise UserError(f"unknown part {description['part']!r}; this version knows {sorted(PARTS)}")
        part = _part(description["part"])
        if description.get("partial"):
            return lambda **more: part(**arguments, **more)
        return part(**arguments)
    if isinstance(description, list):
        return [build(value) for value in description]
    return description


@contextmanager
def at_most(tensors: int) -> Iterator[None]:
    """Within it a description that asks for many more parameters than `tensors` raises ValueError, before it is built.

    Some are registered more than once while a network is built, hence the margin.
    """
    built, most = 0, 100 + 4 * tensors

    def count(*_: Any) -> None:
        nonlocal built
        built += 1
        if built > most:
            raise ValueError(f"its description asks for more than the {tensors} tensors that the file holds")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def default_weights(name: str) -> Any:
    """Where an encoder finds its published weights; None for parts that have none."""
    weights = signature(_part(name)).parameters.get("weights")
    return None if weights is None or weights.default is weights.empty else weights.default


def _part(name: str) -> Any:
    return getattr(import_module(PARTS[name]), name)


def differences(stored: Any, new: Any, path: str = "") -> list[str]:
    """Where two descriptions differ: "path: stored → new"."""
    if isinstance(stored, Mapping) and isinstance(new, Mapping):
        keys = sorted(set(stored) | set(new))
        return [d for k in keys for d in differences(stored.get(k), new.get(k), f"{path}.{k}" if path else k)]
    return [] if stored == new else [f"{path}: {stored} in the checkpoint, {new} now"]
