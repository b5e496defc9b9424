"""A training that is told to stop: by SIGTERM, as SLURM and torchrun do before they kill, or by Ctrl-C."""

import logging
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from common.collectives import sum_over_ranks

log = logging.getLogger(__name__)


class SaveOnSigterm(Checkpoint):
    """At SIGTERM or Ctrl-C the step under way is finished and `last.ckpt` written; exit status 143 or 130.

    Takes the place of Lightning's own answer to SIGTERM, which loses the steps since the last checkpoint, broadcasts
    from within the signal handler, where another rank may be averaging gradients, and has all ranks compare notes
    before every batch, for which the CPU waits for the GPU. Here the handler sets a flag. A SIGTERM during validation
    is answered after it; Ctrl-C, there or for a second time, ends a single process at once.

    As a `Checkpoint`, it comes after the callbacks that take part in a step.

    Args:
        folder: of the checkpoints.
        every_n_steps: how often the ranks of a distributed training compare their flags.
    """

    def __init__(self, folder: str, every_n_steps: int = 10) -> None:
        self.path, self.every_n_steps = Path(folder) / "last.ckpt", every_n_steps
        self._asked = self._steps = 0  # the number of a signal

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]

        def ask(number: int, *_: Any) -> None:
            if number == signal.SIGINT and trainer.world_size == 1 and (self._asked or not trainer.training):
                raise KeyboardInterrupt
            self._asked = number

        for number in (signal.SIGTERM, signal.SIGINT):  # Lightning gives the former handlers back when it is done
            signal.signal(number, ask)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._steps += 1
        asked = self._asked_of_any(trainer)
        if asked:
            trainer.save_checkpoint(self.path)
            if trainer.is_global_zero:
                name = signal.Signals(asked).name
                log.info("%s at step %d: wrote %s; the same command goes on", name, trainer.global_step, self.path)
            raise SystemExit(128 + asked)

    def _asked_of_any(self, trainer: pl.Trainer) -> int:
        """The number of the signal that a rank has seen, 0 if none has."""
        if trainer.world_size == 1:
            return self._asked
        if self._steps % self.every_n_steps:
            return 0
        asked = torch.tensor(float(self._asked), device=trainer.strategy.root_device)
        return (self._asked or signal.SIGTERM) if sum_over_ranks(asked) else 0


def _nothing() -> None: ...
