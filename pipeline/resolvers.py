"""The derived values of the configs."""

import os
from collections.abc import Callable
from typing import Any

from omegaconf import ListConfig, OmegaConf

from common import launcher
from common.geometry import STEP, three_quarters


def _has_gpu() -> bool:
    import torch  # here and below: --help need not wait for it

    return torch.cuda.is_available()


def _gpu_bf16() -> bool:
    import torch

    return _has_gpu() and torch.cuda.is_bf16_supported(including_emulation=False)


def _precision(wanted: str) -> str:
    if wanted != "auto":
        return str(wanted)
    if not _has_gpu():
        return "32-true"
    return "bf16-mixed" if _gpu_bf16() else "16-mixed"


def _as_deterministic(wanted: bool) -> bool | str:
    """For Lightning's Trainer. On GPUs some of our operations have no such form: torch names them and goes on."""
    return "warn" if wanted and _has_gpu() else wanted


def _accumulated(effective: int | None, batch_size: int) -> int:
    """How many batches of all processes make the step whose size is nearest to the wanted one."""
    return max(1, round((effective or 0) / (int(batch_size) * launcher.rank_and_world()[1])))


def register_resolvers() -> None:
    """Make the derived values known to OmegaConf."""
    resolvers: dict[str, Callable[..., Any]] = {
        "three_quarters": lambda sizes: ListConfig(three_quarters(sizes)),  # plain lists cannot be resolved in place
        "latent_size": lambda voxels: int(voxels) // STEP,
        "precision": _precision,
        "accumulated": _accumulated,
        "local_processes": launcher.local_processes,
        "nodes": launcher.nodes,
        "processes": lambda: min(16, os.cpu_count() or 1),
        "absolute": os.path.abspath,
        "suffix": lambda name: f"_{name}" if name else "",
        "demo_for_device": lambda: "demo_gpu" if _has_gpu() else "demo",
        "as_deterministic": _as_deterministic,
        "not": lambda value: not value,
        "floats": lambda numbers: ListConfig([float(n) for n in numbers]),
        "half": lambda n: int(n) // 2,
        "repeated": lambda value, times: ListConfig([value] * int(times)),
        "strategy": lambda: "ddp" if launcher.rank_and_world()[1] > 1 else "auto",
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
