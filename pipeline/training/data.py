"""What a training reads: the prepared data set, its latent cache, the patches of a split."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from common.errors import UserError
from common.geometry import Triple, latent_shape, padded_shape, triple
from common.locks import exclusive
from dataset.prepare.cases import find_cases
from dataset.prepare.checks import AIRLESS_HU, format_problems
from dataset.prepare.conversion_file import check_conversion
from dataset.prepare.file_store import FileStore
from dataset.prepare.run import prepare
from dataset.scans.camera import Film
from dataset.scans.film_variants import FilmVariants
from dataset.store.folds import check_folds
from dataset.store.latents import LatentCache, LatentSource, is_finished
from dataset.store.store import MANIFEST, Store, StoredCase, VolumeStore
from dataset.xray_ctpa_patch_dataset import XrayCTPAPatchDataset
from pipeline.settings import prepare_arguments, sizes_of, source_arguments

log = logging.getLogger(__name__)


class NotPrepared(Exception):  # noqa: N818, it is no error
    """A check has come to data that are not prepared: it can see no further without writing."""


def open_store(dataset: DictConfig, check: bool = False) -> Store:
    """The prepared data set; prepared now if that has not been done. Without a store, the files themselves.

    Args:
        check: only look at the pairs where nothing is prepared, and raise `NotPrepared`.
    """
    if dataset.store is None:
        return FileStore(**source_arguments(dataset))
    folder, arguments = Path(dataset.store), prepare_arguments(dataset)
    if not (folder / MANIFEST).is_file():
        if not Path(dataset.root).is_dir():
            raise UserError(
                f"no prepared data in {folder}, and no folder of pairs at dataset.root={dataset.root} that"
                " prepare_data.py could prepare"
            )
        if check:
            raise NotPrepared(
                f"{_pairs(dataset)} pairs in {dataset.root} are not prepared yet, so nothing more can be checked;"
                " prepare_data.py does that, or the training at its start"
            )
        with exclusive(folder / ".lock"):  # the ranks of torchrun all come here
            if not (folder / MANIFEST).is_file():
                log.info("no prepared data in %s: preparing it now, once, as prepare_data.py does", folder)
                report = prepare(**arguments)
                log.info("%d cases prepared, %d problems", len(report.cases), len(report.problems))
    if arguments["folds"] is not None:
        check_folds(folder, arguments["folds"])
    check_conversion(folder, arguments["conversion"])
    return VolumeStore(folder)


def _pairs(dataset: DictConfig) -> int:
    """How many pairs there are to prepare; what is wrong with others is logged. UserError if there are none."""
    cases, problems = find_cases(
        Path(dataset.root), dataset.ct_pattern, dataset.xray_pattern, Path(dataset.store), dataset.make_xray
    )
    if not cases:
        raise UserError(f"no good case in {dataset.root}:\n{format_problems(problems)}")
    if problems:
        log.warning("%d problems in %s:\n%s", len(problems), dataset.root, format_problems(problems))
    return len(cases)


def _check_clipping(cases: Sequence[StoredCase], lowest: float) -> None:
    """CTs without air are stored only where the window of that time lay within what they hold."""
    cut = [case for case in cases if case.hu_percentiles[0] > max(lowest, AIRLESS_HU)]
    if cut:
        raise UserError(
            f"{len(cut)} CTs, such as {cut[0].name}, are clipped to {cut[0].hu_percentiles[0]:g} HU and more, but"
            f" dataset.hu_window begins at {lowest:g}: set it as when they were prepared, or leave them out"
        )


def settled_sizes(model: DictConfig, store: Store) -> tuple[Triple, Triple]:
    """Patch and stride; with `use_patches: false` the largest volume is the patch, padded to multiples of 4."""
    if model.use_patches:
        return sizes_of(model)
    largest = [max(case.shape[axis] for case in store.cases) for axis in range(3)]
    return sizes_of(model, padded_shape(triple(largest)))


def check_views(store: Store, views: Sequence[str]) -> None:
    """UserError for further X-rays that no training case has."""
    cases = store.split("train")
    absent = [view for view in views if not any(view in case.views for case in cases)]
    if absent:
        raise UserError(
            f"model.views={list(views)}, but no training case of {store.folder} has an X-ray {', '.join(absent)}: add a"
            " column of that name to pairs.csv, or a file to the patients' folders, and run prepare_data.py"
        )


def variants_of(dataset: DictConfig) -> FilmVariants:
    """Of each training X-ray."""
    return FilmVariants(dataset.xray_variants if dataset.film_augment else 1)


def open_latents(
    dataset: DictConfig, source: LatentSource, store: Store, patch: Triple, views: Sequence[str]
) -> LatentCache | None:
    """The latent cache, as dataset.latents wants it."""
    if dataset.store is None:
        if dataset.latents == "always":
            raise UserError("dataset.latents=always needs a store that was encoded, got dataset.store=null")
        return None
    if dataset.latents == "never":
        return None
    if dataset.latents == "auto" and not is_finished(dataset.latents_dir):
        folder = Path(dataset.latents_dir)
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(
                f"the latent cache {folder} is not finished: it is being written, or that was interrupted. Wait for"
                " encode_latents.py or run it again; dataset.latents=never encodes on the fly, which is slower"
            )
        return None
    shapes = [latent_shape(case.shape, patch) for case in store.cases]
    kept = variants_of(dataset), views
    return LatentCache(dataset.latents_dir, source, store.cases, shapes, store.xray_ranges, *kept)


def make_dataset(
    cfg: DictConfig, store: Store, split: str, patch: Triple, stride: Triple, **extra: Any
) -> XrayCTPAPatchDataset:
    """The patches of one split, drawn as cfg.model says. UserError for CTs clipped within the HU window."""
    model, dataset, trains = cfg.model, cfg.dataset, split == "train"
    _check_clipping(store.split(split), dataset.hu_window[0])
    return XrayCTPAPatchDataset.from_store(
        store,
        split,
        patch_size=patch,
        patches_per_volume=model.patches_per_volume if trains else model.val_patches_per_volume,
        hu_window=tuple(dataset.hu_window),
        xray_fov_mm=dataset.xray_fov_mm,
        film=Film(**dataset.film),
        variants=variants_of(dataset) if trains else FilmVariants(),
        seed=cfg.seed,
        stride=stride if model.get("patch_draw") == "grid" else None,
        foreground_share=model.foreground_share if trains else 0.0,
        overhang=model.get("overhang", 0) if trains else 0,
        **extra,
    )
