"""Cache whole-volume latents and X-ray features, so that stage 2 does not run the frozen networks.

Under torchrun the volumes are spread over the processes; run it again to continue.
"""

import logging
import os
import sys

import torch
from omegaconf import DictConfig
from tqdm import tqdm

import assembly
from assembly import STEP, Frozen, latent_shape
from cli import script
from dataset.latents import LatentWriter, is_finished
from dataset.patches import Triple, triple
from dataset.store import StoredCase, VolumeStore
from dataset.xray_ctpa_patch_dataset import read_unit
from dataset.xray_io import encoder_view
from devices import pick_device

log = logging.getLogger(__name__)


@script("encode_latents")
def main(cfg: DictConfig) -> None:
    assembly.check_run(cfg)
    if cfg.dataset.store is None:
        raise ValueError("a latent cache belongs to a prepared store, got dataset.store=null; set dataset.store=FOLDER")
    frozen = Frozen.load(cfg)
    store = assembly.open_store(cfg.dataset)
    assembly.settle_patch_size(cfg.model, store)
    source = assembly.latent_source(frozen.codec, frozen.encoder, cfg.dataset)
    writer = LatentWriter(cfg.dataset.latents_dir, source, cfg.overwrite)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    shapes = [latent_shape(case, cfg.model.patch_size) for case in store.cases]
    every = list(zip(store.cases, shapes, strict=True))
    todo = [(case, shape) for case, shape in every[rank::world] if not writer.is_written(case, shape)]
    if cfg.check:
        return
    device = pick_device(cfg.device)
    frozen.codec.to(device)
    frozen.encoder.to(device)
    for case, shape in tqdm(todo, desc="encoding", unit="volume", disable=not sys.stderr.isatty()):
        _encode(writer, frozen, store, case, shape, cfg, device)
        log.info("encoded %s", case.patient_id)
    if all(writer.is_written(case, shape) for case, shape in every):  # whoever is last
        writer.finish(store.cases)
    state = "complete" if is_finished(cfg.dataset.latents_dir) else "not yet complete"
    log.info("the latent cache %s is %s", cfg.dataset.latents_dir, state)


def _encode(
    writer: LatentWriter,
    frozen: Frozen,
    store: VolumeStore,
    case: StoredCase,
    shape: Triple,
    cfg: DictConfig,
    device: torch.device,
) -> None:
    window = tuple(cfg.dataset.hu_window)

    def read(start: Triple, size: Triple) -> torch.Tensor:
        return torch.from_numpy(read_unit(store, case, start, size, window))[None]

    eye = assembly.encoder_input(frozen.encoder)
    cxr = encoder_view(store.read_xray(case), eye.size, eye.mean, eye.std)
    features = frozen.encoder(cxr[None].to(device))
    with torch.autocast(device.type, torch.bfloat16, enabled=cfg.bf16):
        tiles = frozen.codec.encode_tiles(read, triple([n * STEP for n in shape]), cfg.tile)
        writer.write(case, shape, tiles, features.tokens[0], features.pooled[0])


if __name__ == "__main__":
    main()
