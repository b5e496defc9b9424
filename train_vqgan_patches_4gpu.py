"""Train the VQ-GAN (stage 1). Launched by launch_vqgan_patches_4gpu.sh."""

import logging

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

import assembly
from cli import script
from dataset.datamodule import PatchDataModule
from devices import fast_float32
from vq_gan_3d.module import VQGANModule

log = logging.getLogger(__name__)


def build(cfg: DictConfig) -> tuple[VQGANModule, PatchDataModule]:
    """The module and the data that the settings describe; the module's `meta` describes both."""
    store = assembly.open_store(cfg.dataset)
    data = PatchDataModule(
        assembly.make_dataset(cfg, store, "train", encoder_input=None),
        assembly.make_dataset(cfg, store, "val", encoder_input=None),
        cfg.model.batch_size,
        cfg.model.num_workers,
    )
    meta = assembly.common_meta(cfg, "vqgan", {"vqgan": assembly.plain(cfg.module.vqgan)})
    log.info("%d training and %d validation patches an epoch", len(data.train), len(data.val))
    return instantiate(cfg.module, meta=meta, _convert_="all"), data


@script("train_vqgan")
def main(cfg: DictConfig) -> None:
    assembly.check_run(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    fast_float32()
    module, data = build(cfg)
    resume_from = assembly.start_from(cfg, module, module.meta)
    if not cfg.check:
        assembly.fit(cfg, module, data, resume_from)


if __name__ == "__main__":
    main()
