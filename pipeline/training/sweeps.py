"""What TensorBoard's table of hyperparameters shows, to compare the runs of a sweep."""

from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from pipeline import schema
from pipeline.settings import plain

GROUPS = ("model", "diffusion", "quantizer")
METRICS = ("val/loss", "val/psnr", "speed/samples_per_s")  # columns of the table, where a run has them


def note_settings(trainer: pl.Trainer, cfg: DictConfig) -> None:
    """Write the settings of a training to its TensorBoard. For the first rank."""
    chosen = {"seed": cfg.seed} | {group: plain(cfg[group]) for group in GROUPS if group in cfg}
    values: dict[str, Any] = {key: value for key, value in schema.settings(chosen) if value is not None}
    texts = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in values.items()}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for summary in hparams(texts, dict.fromkeys(METRICS, 0.0)):
                logger.experiment._get_file_writer().add_summary(summary)
