"""What the settings mean: values that follow from others, and those that cannot be."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dataset.conversion import Conversion, parse_spacing

STEP = 4  # voxels per latent voxel and axis, fixed by the codec's layout


def plain(config: Any) -> Any:
    """A config node as plain, resolved containers."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def three_quarters(patch_size: Sequence[int]) -> list[int]:
    """The stride that follows from a patch size: 25 % overlap, on whole latent voxels."""
    return [max(STEP, 3 * n // 4 // STEP * STEP) for n in patch_size]


def prepare_arguments(dataset: DictConfig) -> dict[str, Any]:
    """Of `dataset.prepare.prepare`. ValueError if there is to be no store."""
    if dataset.store is None:
        raise ValueError("dataset.store=null reads the files themselves; this needs a folder, dataset.store=FOLDER")
    return source_arguments(dataset) | {"store": dataset.store, "num_workers": dataset.prepare_workers}


def source_arguments(dataset: DictConfig) -> dict[str, Any]:
    """Of `dataset.file_store.FileStore`."""
    return {key: dataset[key] for key in ("root", "ct_pattern", "xray_pattern")} | {
        "shares": plain(dataset.split),
        "conversion": Conversion(
            spacing=parse_spacing(plain(dataset.spacing)),
            crop_to_body=dataset.crop_to_body,
            make_xray=dataset.make_xray,
            xray_source_mm=dataset.make_xray_source_mm,
        ),
    }
