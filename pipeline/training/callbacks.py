"""What both trainings watch: progress without a terminal, losses that are no longer numbers, settings that changed."""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar
from torch import Tensor

from common.errors import AgreedError
from pipeline.checkpoints.parts import differences
from pipeline.training.agreement import Later, tell
from pipeline.training.schedules import restart

log = logging.getLogger(__name__)


class OptimizerSettings(pl.Callback):
    """A training that goes on does so with the optimizer settings given now; restoring would bring the old ones back.

    The learning rate goes on at its step of the schedule.
    """

    def __init__(self) -> None:
        self._given: list[dict[str, Any]] = []
        self._saved: list[dict[str, Any]] = []

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._saved = [group for state in checkpoint["optimizer_states"] for group in state["param_groups"]]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # the optimizer is made, the checkpoint's state not yet in it
        self._given = [_settings(group) for group in _groups(trainer)]
        for saved, given in zip(self._saved, self._given, strict=False):  # none, where a training starts
            if ("momentum" in saved) != ("momentum" in given):  # as Muon has
                raise AgreedError(
                    "a training goes on with the optimizer that it was started with; set optimizer= as it was, or start"
                    " another training from the weights (init_from=... resume=never)"
                )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        changed: list[str] = []
        for group, given in zip(_groups(trainer), self._given, strict=True):
            changed += differences(given | _settings(group), given)
            group.update(given)
        for config in trainer.lr_scheduler_configs:
            restart(config.scheduler)  # type: ignore[arg-type]
        if changed and trainer.is_global_zero:
            settings = ", ".join(dict.fromkeys(changed)).replace("initial_lr", "learning rate")
            log.info("the optimizer goes on with the settings given now: %s", settings)


def _groups(trainer: pl.Trainer) -> list[dict[str, Any]]:
    return [group for optimizer in trainer.optimizers for group in optimizer.param_groups]


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "lr")}  # lr moves with the schedule


class PatchesDone(pl.Callback):
    """A training that goes on with batches of another size, or on another number of processes, goes on at its patch.

    Lightning counts the batches of an epoch, and would take those that are done for as many of the new ones.
    """

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
        more = trainer.datamodule.resumed[1] - counts["processed"]  # type: ignore[attr-defined]
        for name in counts:
            counts[name] += more


class LossGuard(pl.Callback):
    """Stops all ranks when the loss of one is not finite; that one writes the batch that caused it.

    The loss of a step is looked at one step later, so that the GPU need not be waited for, but in any case before a
    checkpoint: a NaN of one rank is by then in the weights of all.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._pending: tuple[int, Later, Any] | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._check(trainer)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            bad = torch.zeros(trainer.world_size, device=loss.device)
            bad[trainer.global_rank] = ~torch.isfinite(loss.detach()).all()
            self._pending = (trainer.global_step, tell(trainer, bad), batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check(trainer)  # weights that a NaN has reached must not replace good ones
        _check_weights(trainer, checkpoint["state_dict"])

    def _check(self, trainer: pl.Trainer) -> None:
        if self._pending is None:
            return
        step, told, batch = self._pending
        self._pending = None
        bad = [rank for rank, is_bad in enumerate(told.read()) if is_bad]
        if not bad:
            return
        paths = [self.folder / f"bad_batch_step{step}_rank{rank}.pt" for rank in bad]
        if trainer.global_rank in bad:
            self.folder.mkdir(parents=True, exist_ok=True)
            torch.save(batch, paths[bad.index(trainer.global_rank)])
        trainer.strategy.barrier()  # the first to end ends the others
        raise AgreedError(
            f"the loss became NaN or infinite at step {step}; the batch that caused it is in {paths[0]}."
            " Try the same command with a lower model.train_lr or model.precision=32, or look at that batch's volume"
        )


def _check_weights(trainer: pl.Trainer, state: dict[str, Tensor]) -> None:
    """A finite loss may have gradients that are not: its step then spoils the weights, the same on all ranks."""
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise AgreedError(
            f"the weights became NaN or infinite by step {trainer.global_step}, although its loss is a number: its"
            " gradients were none. The checkpoints of before are kept, and the same command goes on from last.ckpt;"
            " give it a lower model.train_lr or model.precision=32"
        )


class _ShowsLoss(ProgressBar):
    """With `train/loss`, read when it is shown; for one logged with `prog_bar` the host waits in every step."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        loss = trainer.callback_metrics.get("train/loss")
        return super().get_metrics(trainer, pl_module) | ({} if loss is None else {"train/loss": loss.item()})


class Bar(_ShowsLoss, TQDMProgressBar):
    """On a terminal."""


class PlainProgress(_ShowsLoss):
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
    # each time the bar is drawn, the CPU waits for the GPU
    return Bar(refresh_rate=10) if sys.stderr.isatty() else PlainProgress()
