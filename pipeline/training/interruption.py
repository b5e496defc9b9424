"""`last.ckpt` in time: every so often, and when a training is told to stop, as SLURM, torchrun and Ctrl-C tell it."""

import logging
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from common.told import asking
from pipeline.training.agreement import Later, tell

log = logging.getLogger(__name__)


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` at intervals, and at SIGTERM, SIGUSR1, SIGHUP or Ctrl-C; then the exit status is 143, 138,
    129 or 130.

    And at the last step, from which a training that may take more goes on as if it had never ended.

    Takes the place of Lightning's own answer to SIGTERM, which loses the steps since the last checkpoint, broadcasts
    from within the signal handler, where another rank may be averaging gradients, and has all ranks compare notes
    before every batch, for which the CPU waits for the GPU. Here the handler sets a flag. Ranks tell one another
    after each step and hear it after the next, so that nobody waits and all save after the same one.

    The step under way is finished. A validation is broken off, and not made up for. A second Ctrl-C, or one during
    validation, ends a single process at once.

    As a `Checkpoint`, it comes after the callbacks that take part in a step. In the config it stands before those
    that judge a validation: one that was broken off has no figures.

    Args:
        folder: of the checkpoints.
        every_minutes: by the clock of the first rank.
        every_n_steps: instead of that; None: time decides.
    """

    def __init__(self, folder: str, every_minutes: float = 15.0, every_n_steps: int | None = None) -> None:
        self.path, self.every_s, self.every_n_steps = Path(folder) / "last.ckpt", 60 * every_minutes, every_n_steps
        self._asked = 0  # the number of a signal
        self._step, self._saved_at = 0, time.monotonic()
        self._told: Later | None = None
        self._stopping = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # with max_steps, Lightning would go through an epoch that is over once more, without a step
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
        connector = trainer._signal_connector
        connector.register_signal_handlers = partial(self._listen, trainer, connector.register_signal_handlers)  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step, self._saved_at = trainer.global_step, time.monotonic()

    def _listen(self, trainer: pl.Trainer, listen_as_lightning: Callable[[], None]) -> None:
        """Before the first step, whose preparation may take a while; until then a signal ends the process at once."""
        listen_as_lightning()

        def ask(number: int, *_: Any) -> None:
            if number == signal.SIGINT and trainer.world_size == 1 and (self._asked or not trainer.training):
                raise KeyboardInterrupt
            self._asked = number

        for number in (*asking(), signal.SIGINT):  # Lightning gives the former handlers back when it is done
            signal.signal(number, ask)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            return  # gradients accumulate
        self._step = trainer.global_step
        asked, due = self._hear(trainer)
        if asked:
            self._end(trainer, asked)
        elif _is_last_step(trainer) or (self._step % self.every_n_steps == 0 if self.every_n_steps else due):
            self._save(trainer)
            if self._step == trainer.max_steps and not trainer.is_last_batch:
                _save_no_more(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._stopping = self._hear(trainer)[0]
        if self._stopping:
            raise StopIteration  # Lightning's loop takes it for the last batch

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._stopping:
            self._end(trainer, self._stopping)

    def _hear(self, trainer: pl.Trainer) -> tuple[int, bool]:
        """The number of a signal that a rank has seen, 0 if none has; whether it is time to save."""
        due = time.monotonic() - self._saved_at >= self.every_s and trainer.is_global_zero
        if trainer.world_size == 1:
            return self._asked, due
        before, self._told = self._told, tell(trainer, torch.tensor([self._asked, due]))
        heard = before.read() if before is not None else (0.0, 0.0)
        return int(heard[0]), bool(heard[1])

    def _end(self, trainer: pl.Trainer, asked: int) -> None:
        self._save(trainer)
        if trainer.is_global_zero:
            name = signal.Signals(asked).name
            log.info("%s at step %d: wrote %s; the same command goes on", name, trainer.global_step, self.path)
        raise SystemExit(128 + asked)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_at, self._told = time.monotonic(), None


def _is_last_step(trainer: pl.Trainer) -> bool:
    ends = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
    return ends or trainer.global_step == trainer.max_steps


def _save_no_more(trainer: pl.Trainer) -> None:
    """Lightning counts an epoch that `max_steps` cuts off as done; what it would save then misses the rest of it."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            callback._save_on_train_epoch_end, callback.save_last = False, False


def _nothing() -> None: ...
