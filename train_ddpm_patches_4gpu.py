"""Train the patch diffusion model (stage 2). Launched by launch_ddpm_patches_4gpu.sh."""

import logging

from omegaconf import DictConfig

from dataset.datamodule import PatchDataModule
from ddpm.latent_scale import LatentScale
from ddpm.module import PatchDDPM
from pipeline.checkpoints.from_settings import FrozenNetworks, describe_ddpm
from pipeline.cli import script
from pipeline.settings import instantiated
from pipeline.training import run as training_run
from pipeline.training.data import make_dataset, open_latents, open_store, settled_sizes

log = logging.getLogger(__name__)


def build(cfg: DictConfig) -> tuple[PatchDDPM, PatchDataModule]:
    """The module and the data that the settings describe; the module's `meta` describes both."""
    frozen = FrozenNetworks.load(cfg)
    store = open_store(cfg.dataset, cfg.check)
    patch, stride = settled_sizes(cfg.model, store)
    latents = open_latents(cfg.dataset, frozen.source, store, patch)
    views = {
        "encoder_input": frozen.encoder_input,
        "latents": latents,
        "context": 0 if latents else frozen.codec.context,
    }
    data = PatchDataModule(
        make_dataset(cfg, store, "train", patch, stride, **views),
        make_dataset(cfg, store, "val", patch, stride, **views),
        cfg.model.batch_size,
        cfg.model.num_workers,
    )
    module = instantiated(
        cfg.module,
        denoiser=frozen.widths,
        codec=frozen.codec,
        xray_encoder=frozen.encoder,
        latent_scale=LatentScale(latents.mean, latents.std) if latents else None,
        meta=describe_ddpm(cfg, store, frozen, patch, stride).to_plain(),
    )
    cached = f"cached latents of {cfg.dataset.latents_dir}" if latents else "latents encoded on the fly"
    log.info("%d training and %d validation patches an epoch, %s", len(data.train), len(data.val), cached)
    return module, data


@script("train_ddpm")
def main(cfg: DictConfig) -> None:
    training_run.run(cfg, build)


if __name__ == "__main__":
    main()
