"""How fast training goes and what it waits for, in TensorBoard."""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import Profiler

from common.errors import UserError

_FETCH = "train_dataloader_next"  # Lightning's name for taking the next batch from the loader


class FetchClock(Profiler):
    """Adds up the seconds that training waits for its loader; to be given to the Trainer as its profiler.

    Copying to the GPU is not in it. A GPU may still be busy with the last step while the process waits, so the share
    of waiting is an upper bound there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waited_s = 0.0
        self._started = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith(_FETCH):
            self._started = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name.endswith(_FETCH):
            self.waited_s += time.perf_counter() - self._started


class Throughput(pl.Callback):
    """Logs, every `log_every_n_steps` of the Trainer and before each validation, the speed since the last time.

    speed/samples_per_s: over all ranks, whose batches are equally large. speed/data_wait: share of the time that this
    rank waited for its loader. speed/gpu_peak_gb: the most that this rank's tensors held since the start.
    Validation and the time between epochs do not count.

    Raises:
        ValueError: a Trainer without a `FetchClock`.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._since = self._waited = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(trainer.profiler, FetchClock):  # type: ignore[attr-defined]
            raise UserError(
                "callbacks.throughput needs trainer.profiler._target_=pipeline.training.throughput.FetchClock,"
                f" got {type(trainer.profiler).__name__}; leave callbacks.throughput out with ~callbacks.throughput"  # type: ignore[attr-defined]
            )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._log(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._samples += len(batch["sample_key"])
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._log(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._log(trainer)

    def _log(self, trainer: pl.Trainer) -> None:
        if self._samples:
            for logger in trainer.loggers:
                logger.log_metrics(self._speeds(trainer), step=trainer.global_step)
        self._restart(trainer)

    def _speeds(self, trainer: pl.Trainer) -> dict[str, float]:
        seconds = max(time.perf_counter() - self._since, 1e-9)
        speeds = {
            "speed/samples_per_s": self._samples * trainer.world_size / seconds,
            "speed/data_wait": (_clock(trainer).waited_s - self._waited) / seconds,
        }
        device = trainer.strategy.root_device
        if device.type == "cuda":
            speeds["speed/gpu_peak_gb"] = torch.cuda.max_memory_reserved(device) / 1e9  # CUDA graphs and all
        return speeds

    def _restart(self, trainer: pl.Trainer) -> None:
        self._samples, self._since, self._waited = 0, time.perf_counter(), _clock(trainer).waited_s


def _clock(trainer: pl.Trainer) -> FetchClock:
    return trainer.profiler  # type: ignore[attr-defined]
