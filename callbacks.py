"""What both trainings watch: progress without a terminal, and losses that are no longer numbers."""

import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar
from torch import Tensor


class LossGuard(pl.Callback):
    """Stops the run when the loss is not finite, and writes the batch that caused it.

    The loss of a step is looked at one step later, so that the GPU need not be waited for.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._pending: tuple[int, Tensor, Any] | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._check(trainer)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._pending = (trainer.global_step, loss.detach(), batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check(trainer)  # weights that a NaN has reached must not replace good ones

    def _check(self, trainer: pl.Trainer) -> None:
        if self._pending is None:
            return
        step, loss, batch = self._pending
        self._pending = None
        if torch.isfinite(loss).all():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"bad_batch_step{step}_rank{trainer.global_rank}.pt"
        torch.save(batch, path)
        raise ValueError(
            f"the loss became {float(loss)} at step {step}; the batch that caused it is in {path}."
            " Try a lower model.train_lr, model.precision=32, or look at that batch's volume"
        )


class PlainProgress(ProgressBar):
    """A line every few seconds instead of a bar, for logs and machines without a terminal."""

    def __init__(self, every_s: float = 10.0) -> None:
        super().__init__()
        self.every_s = every_s
        self._enabled = True
        self._started = self._last = time.monotonic()
        self._first_step = 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = self._last = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._enabled and time.monotonic() - self._last >= self.every_s:
            self._say(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._enabled:
            self._say(trainer, pl_module)

    def _say(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last = time.monotonic()
        done, spent = trainer.global_step - self._first_step, self._last - self._started
        total = trainer.estimated_stepping_batches
        left = (total - trainer.global_step) * spent / max(done, 1)
        metrics = {k: v for k, v in self.get_metrics(trainer, pl_module).items() if k != "v_num"}
        shown = "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in metrics.items())
        print(
            f"epoch {trainer.current_epoch}  step {trainer.global_step}/{total:.0f}  {done / max(spent, 1e-9):.2f} it/s"
            f"  about {left:.0f} s left  {shown}",
            file=sys.stderr,
            flush=True,
        )


def progress_bar() -> ProgressBar:
    """A bar on a terminal, plain lines elsewhere."""
    return TQDMProgressBar() if sys.stderr.isatty() else PlainProgress()
