"""What the settings mean: values that follow from others, and those that cannot be."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError
from common.geometry import STEP, Triple, three_quarters, triple, whole_latents
from dataset.prepare.conversion import Conversion, parse_spacing
from dataset.scans.camera import Film
from dataset.scans.reading import Reading
from dataset.store.folds import Folds


def plain(config: Any) -> Any:
    """A config node as plain, resolved containers."""
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def instantiated(config: DictConfig, **arguments: Any) -> Any:
    """What a config describes, built with these arguments besides. Hydra alone would resolve the config in place."""
    return instantiate(plain(config), _convert_="all", **arguments)


def prepare_arguments(dataset: DictConfig) -> dict[str, Any]:
    """Of `dataset.prepare.run.prepare`. ValueError if there is to be no store."""
    if dataset.store is None:
        raise UserError("dataset.store=null reads the files themselves; this needs a folder, dataset.store=FOLDER")
    return source_arguments(dataset) | {"store": dataset.store, "num_workers": dataset.prepare_workers}


def source_arguments(dataset: DictConfig) -> dict[str, Any]:
    """Of `dataset.prepare.file_store.FileStore`."""
    return {key: dataset[key] for key in ("root", "ct_pattern", "xray_pattern")} | {
        "shares": plain(dataset.split),
        "folds": folds_of(dataset),
        "conversion": Conversion(
            spacing=parse_spacing(plain(dataset.spacing)),
            crop_to_body=dataset.crop_to_body,
            make_xray=dataset.make_xray,
            xray_source_mm=dataset.make_xray_source_mm,
            film=Film(**plain(dataset.film)),
            xray_fov_mm=dataset.xray_fov_mm,
            register_films=dataset.register_films,
            pair_check=dataset.pair_check,
            hu_window=(float(dataset.hu_window[0]), float(dataset.hu_window[1])),
            reading=Reading(
                series=None if dataset.series is None else str(dataset.series),
                irregular=dataset.irregular,
                tilt=dataset.tilt,
                hu_offset=dataset.hu_offset,
                axes=dataset.axes,
            ),
        ),
    }


def folds_of(dataset: DictConfig) -> Folds | None:
    """The k-fold split that is asked for, if any."""
    if dataset.folds is None and dataset.fold is None:
        return None
    if dataset.folds is None or dataset.fold is None:
        raise UserError("dataset.folds, how many there are, and dataset.fold, which of them, belong together")
    if plain(dataset.split).get("test"):
        raise UserError("folds leave no share for test: name the test set in the column 'split' of pairs.csv")
    return Folds(dataset.folds, dataset.fold)


def sizes_of(model: DictConfig, whole: Triple | None = None) -> tuple[Triple, Triple]:
    """Patch and stride of a training, in voxels; UserError names sizes that disagree and the right ones.

    Args:
        whole: takes the place of the configured patch, with the stride that follows from it.
    """
    patch = whole_latents(model.patch_size) if whole is None else whole
    follows = model.get("stride") is None or (whole is not None and OmegaConf.is_interpolation(model, "stride"))
    stride = triple(three_quarters(patch) if follows else model.stride)
    if any(s < STEP or s > p or s % STEP for s, p in zip(stride, patch, strict=True)):
        raise UserError(
            f"model.stride must be multiples of {STEP} from {STEP} to the patch size {list(patch)},"
            f" got {list(stride)}; null takes three quarters of the patch"
        )
    for key, side in (("diffusion_img_size", patch[2]), ("diffusion_depth_size", patch[0])):
        if whole is None and key in model and model[key] != side // STEP:
            raise UserError(
                f"model.{key}={model[key]} disagrees with model.patch_size={list(patch)}:"
                f" it must be {side // STEP} (a quarter of {side}); leave it out and it follows"
            )
    return patch, stride
