"""A training that is told to stop, as SLURM and torchrun tell it by SIGTERM before they kill."""

import logging
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from common.collectives import sum_over_ranks

log = logging.getLogger(__name__)
STATUS = 128 + signal.SIGTERM


class SaveOnSigterm(pl.Callback):
    """At SIGTERM the step under way is finished, `last.ckpt` written, and the process ends with status 143.

    Takes the place of Lightning's own answer, which loses the steps since the last checkpoint, broadcasts from within
    the signal handler, where another rank may be averaging gradients, and has all ranks compare notes before every
    batch, for which the CPU waits for the GPU. Here the handler sets a flag. A SIGTERM during validation is answered
    after it.

    Args:
        folder: of the checkpoints.
        every_n_steps: how often the ranks of a distributed training compare their flags.
    """

    def __init__(self, folder: str, every_n_steps: int = 10) -> None:
        self.path, self.every_n_steps = Path(folder) / "last.ckpt", every_n_steps
        self._asked, self._steps = False, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
        signal.signal(signal.SIGTERM, self._ask)  # Lightning gives the former handler back when it is done

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._steps += 1
        if self._any_asked(trainer):
            trainer.save_checkpoint(self.path)
            if trainer.is_global_zero:
                log.info("SIGTERM at step %d: wrote %s; the same command goes on", trainer.global_step, self.path)
            raise SystemExit(STATUS)

    def _ask(self, *_: Any) -> None:
        self._asked = True

    def _any_asked(self, trainer: pl.Trainer) -> bool:
        if trainer.world_size == 1:
            return self._asked
        if self._steps % self.every_n_steps:
            return False
        asked = torch.tensor(float(self._asked), device=trainer.strategy.root_device)
        return bool(sum_over_ranks(asked))


def _nothing() -> None: ...
