"""Train the VQ-GAN (stage 1). Launched by launch_vqgan_patches_4gpu.sh."""

import logging

from omegaconf import DictConfig

from dataset.datamodule import PatchDataModule
from pipeline.checkpoints.from_settings import describe_vqgan
from pipeline.cli import script
from pipeline.settings import instantiated, sizes_of
from pipeline.training import run as training_run
from pipeline.training.data import make_dataset, open_store
from vq_gan_3d.module import VQGANModule

log = logging.getLogger(__name__)


def build(cfg: DictConfig) -> tuple[VQGANModule, PatchDataModule]:
    """The module and the data that the settings describe; the module's `meta` describes both."""
    store, sizes = open_store(cfg.dataset, cfg.check), sizes_of(cfg.model)
    data = PatchDataModule(
        make_dataset(cfg, store, "train", *sizes, encoder_input=None),
        make_dataset(cfg, store, "val", *sizes, encoder_input=None),
        cfg.model.batch_size,
        cfg.model.num_workers,
    )
    log.info("%d training and %d validation patches an epoch", len(data.train), len(data.val))
    return instantiated(cfg.module, meta=describe_vqgan(cfg).to_plain()), data


@script("train_vqgan")
def main(cfg: DictConfig) -> None:
    training_run.run(cfg, build)


if __name__ == "__main__":
    main()
