"""What the two trainings are made of: the LightningModule and its data, from the settings."""

import logging

from omegaconf import DictConfig

from dataset.datamodule import PatchDataModule
from ddpm.latent_scale import LatentScale
from ddpm.module import PatchDDPM
from pipeline.checkpoints.from_settings import FrozenNetworks, describe_ddpm, describe_vqgan
from pipeline.checkpoints.seen import seen_in_training
from pipeline.settings import instantiated, sizes_of
from pipeline.training.data import check_views, make_dataset, open_latents, open_store, settled_sizes
from vq_gan_3d.module import VQGANModule

log = logging.getLogger(__name__)


def build_vqgan(cfg: DictConfig) -> tuple[VQGANModule, PatchDataModule]:
    """The module and the data that the settings describe; the module's `meta` describes both."""
    store, sizes = open_store(cfg.dataset, cfg.check), sizes_of(cfg.model)
    data = PatchDataModule(
        make_dataset(cfg, store, "train", *sizes, encoder_input=None),
        make_dataset(cfg, store, "val", *sizes, encoder_input=None),
        cfg.model.batch_size,
        cfg.model.num_workers,
    )
    log.info("%d training and %d validation patches an epoch", len(data.train), len(data.val))
    return instantiated(cfg.module, meta=describe_vqgan(cfg, store.split("train")).to_plain()), data


def build_ddpm(cfg: DictConfig) -> tuple[PatchDDPM, PatchDataModule]:
    """The module and the data that the settings describe; the module's `meta` describes both."""
    frozen = FrozenNetworks.load(cfg)
    store = open_store(cfg.dataset, cfg.check)
    patch, stride = settled_sizes(cfg.model, store)
    check_views(store, cfg.model.views)
    latents = open_latents(cfg.dataset, frozen.source, store, patch, cfg.model.views)
    shown = {
        "encoder_input": frozen.encoder_input,
        "latents": latents,
        "context": 0 if latents else frozen.codec.context,
        "views": tuple(cfg.model.views),
    }
    data = PatchDataModule(
        make_dataset(cfg, store, "train", patch, stride, **shown),
        make_dataset(cfg, store, "val", patch, stride, **shown),
        cfg.model.batch_size,
        cfg.model.num_workers,
    )
    _tell_seen(frozen, data)
    channels = cfg.model.diffusion_num_channels
    module = instantiated(
        cfg.module,
        denoiser=frozen.widths,
        codec=frozen.codec,
        xray_encoder=frozen.encoder,
        latent_scale=LatentScale(latents.mean, latents.std) if latents else LatentScale.unknown(channels),
        meta=describe_ddpm(cfg, store, frozen, patch, stride).to_plain(),
    )
    cached = f"cached latents of {cfg.dataset.latents_dir}" if latents else "latents encoded on the fly"
    log.info("%d training and %d validation patches an epoch, %s", len(data.train), len(data.val), cached)
    return module, data


def _tell_seen(frozen: FrozenNetworks, data: PatchDataModule) -> None:
    """A codec of other patients' split is no mistake where one serves several folds, but the reader should know."""
    seen, held_out = seen_in_training(frozen.of_codec, data.val.cases), {c.patient_id for c in data.val.cases}
    if seen:
        log.warning(
            "the VQ-GAN %s was trained on %d of the %d patients that validate here: what is drawn of them may score"
            " better by that. One of this store's own training patients has not seen them",
            frozen.codec_path,
            len(seen),
            len(held_out),
        )
