"""Train the VQ-GAN (stage 1). Launched by launch_vqgan_patches_4gpu.sh."""

import logging

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig

import assembly
from cli import script
from dataset.datamodule import PatchDataModule

log = logging.getLogger(__name__)


@script("train_vqgan")
def main(cfg: DictConfig) -> None:
    assembly.check_run(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    store = assembly.open_store(cfg.dataset)
    data = PatchDataModule(
        assembly.make_dataset(cfg, store, "train", encoder_input=None),
        assembly.make_dataset(cfg, store, "val", encoder_input=None),
        cfg.model.batch_size,
        cfg.model.num_workers,
    )
    meta = assembly.common_meta(cfg, "vqgan", {"vqgan": assembly.plain(cfg.module.vqgan)})
    module = instantiate(cfg.module, meta=meta, _convert_="all")
    resume_from = assembly.start_from(cfg, module, meta)
    log.info("%d training and %d validation patches an epoch", len(data.train), len(data.val))
    if not cfg.check:
        assembly.fit(cfg, module, data, resume_from)


if __name__ == "__main__":
    main()
