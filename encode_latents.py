"""Cache whole-volume latents and X-ray features, so that stage 2 does not run the frozen networks.

Under torchrun the volumes are spread over the processes; run it again to continue.
"""

import logging
import shutil
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from common.errors import UserError
from common.geometry import STEP, Triple, latent_shape, triple
from common.launcher import rank_and_world
from dataset.scans.xray_io import encoder_view
from dataset.store.latents import LatentWriter, is_finished
from dataset.store.store import Store, StoredCase
from dataset.store.xray_features import XrayFeatures
from dataset.xray_ctpa_patch_dataset import read_unit
from pipeline.checkpoints.from_settings import FrozenNetworks
from pipeline.cli import script
from pipeline.devices import fast_float32, pick_device
from pipeline.training.data import NotPrepared, open_store, settled_sizes, variants_of
from pipeline.training.run import check_run

log = logging.getLogger(__name__)


@script("encode_latents")
def main(cfg: DictConfig) -> None:
    check_run(cfg)
    if cfg.dataset.store is None:
        raise UserError("a latent cache belongs to a prepared store, got dataset.store=null; set dataset.store=FOLDER")
    frozen = FrozenNetworks.load(cfg)
    try:
        store = open_store(cfg.dataset, cfg.check)
    except NotPrepared as reason:
        log.info("settings and checkpoints are in order; %s", reason)
        return
    store.cases_of("train")  # by their latents all are scaled
    patch, _ = settled_sizes(cfg.model, store)
    folder, kept = Path(cfg.dataset.latents_dir), (variants_of(cfg.dataset), cfg.dataset.latent_dtype, cfg.model.views)
    writer = LatentWriter(folder, frozen.source, store.xray_ranges, cfg.overwrite, *kept)
    rank, world = rank_and_world()
    shapes = [latent_shape(case.shape, patch) for case in store.cases]
    every = list(zip(store.cases, shapes, strict=True))
    todo = [(case, shape) for case, shape in every[rank::world] if not writer.is_written(case, shape)]
    _check_room(folder, writer.bytes_missing(every, len(frozen.codec.floor_latent)))
    if cfg.check:
        log.info("settings, files and checkpoints are in order")
        return
    device = pick_device(cfg.device)
    fast_float32()  # as the training computes
    frozen.codec.to(device)
    frozen.encoder.to(device)
    for case, shape in tqdm(todo, desc="encoding", unit="volume", disable=not sys.stderr.isatty()):
        _encode(writer, frozen, store, case, shape, cfg, device)
        log.info("encoded %s", case.name)
    if all(writer.is_written(case, shape) for case, shape in every):  # whoever is last
        writer.finish(store.cases)
    log.info("the latent cache %s is %s", folder, "complete" if is_finished(folder) else "not yet complete")


def _check_room(folder: Path, needed: int) -> None:
    """Say what the latents will take, before hours go into them. UserError if there is no room."""
    disk = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(disk).free
    size = f"latents will take {needed / 1e9:.3g} GB in {folder}, where {free / 1e9:.3g} GB are free"
    if needed > free:
        raise UserError(
            f"{size}; dataset.latent_dtype=int8 takes half, dataset.latents_dir=FOLDER another disk,"
            " dataset.latents=never trains without"
        )
    log.info("%s", size)


def _encode(
    writer: LatentWriter,
    frozen: FrozenNetworks,
    store: Store,
    case: StoredCase,
    shape: Triple,
    cfg: DictConfig,
    device: torch.device,
) -> None:
    """Write what is missing of a case: often the X-ray alone, when new patients have changed how all are scaled."""

    def read(start: Triple, size: Triple) -> torch.Tensor:
        return torch.from_numpy(read_unit(store, case, start, size, frozen.hu_window))[None]

    for number, view in writer.xrays_of(case):
        if not writer.has_xray(case, number, view):
            shown = store.read_xray(case, view=view)
            eye, image = frozen.encoder_input, writer.variants.make(shown, case.name, number, view)
            seen = frozen.encoder(encoder_view(image, eye.size, eye.mean, eye.std)[None].to(device))
            features = XrayFeatures(seen.tokens[0], seen.pooled[0], image if number else None)
            writer.write_xray(case, features, number, view)
    if not writer.has_latents(case, shape):
        tiles = frozen.codec.encode_tiles(read, triple([n * STEP for n in shape]), cfg.tile, cfg.bf16)
        writer.write(case, shape, tiles)


if __name__ == "__main__":
    main()
