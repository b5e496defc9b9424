"""What the settings mean: values that follow from others, and those that cannot be."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

STEP = 4  # voxels per latent voxel and axis, fixed by the codec's layout


def plain(config: Any) -> Any:
    """A config node as plain, resolved containers."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def three_quarters(patch_size: Sequence[int]) -> list[int]:
    """The stride that follows from a patch size: 25 % overlap, on whole latent voxels."""
    return [max(STEP, 3 * n // 4 // STEP * STEP) for n in patch_size]


def prepare_arguments(dataset: DictConfig) -> dict[str, Any]:
    keys = ("root", "store", "ct_pattern", "xray_pattern")
    return {key: dataset[key] for key in keys} | {
        "num_workers": dataset.prepare_workers,
        "shares": plain(dataset.split),
    }
