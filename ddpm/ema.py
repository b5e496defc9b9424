"""Averaged weights: of the trainable parameters only, used for validation and kept in the checkpoint."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from common.errors import UserError


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


class WeightAverage(pl.Callback):
    """Exponential moving average of the weights after each optimizer step.

    The decay rises from 0.1 to `decay` as (1 + n) / (10 + n), so that the random start is forgotten.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"need 0 <= decay < 1, got {decay}")
        self.decay, self.updates = decay, 0
        self.average: dict[str, Tensor] = {}
        self._pairs: tuple[list[Tensor], list[Tensor]] = (
            [],
            [],
        )  # averages and weights: finding them takes time
        self._trained: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        if not self._pairs[0]:
            current = {name: p.detach() for name, p in trainable(module).items()}
            if not self.average:
                self.average = {name: p.clone() for name, p in current.items()}
            self._pairs = [self.average[name] for name in current], list(current.values())
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(*self._pairs, 1 - decay)

    @torch.no_grad()
    def swap_in(self, module: nn.Module) -> None:
        """Put the averaged weights into the module until `swap_out`."""
        if self.average and not self._trained:
            self._trained = {name: p.detach().clone() for name, p in trainable(module).items()}
            load_weights(module, self.average)

    @torch.no_grad()
    def swap_out(self, module: nn.Module) -> None:
        if self._trained:
            load_weights(module, self._trained)
            self._trained = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.updates:  # not while gradients accumulate
            self.update(pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.swap_in(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.swap_out(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.swap_out(pl_module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.average = {name: t.to(pl_module.device) for name, t in self.average.items()}
        self._pairs = ([], [])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates, self.average = state_dict["updates"], state_dict["average"]
        self._pairs = ([], [])


@torch.no_grad()
def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy trainable weights by name; ValueError if the names differ."""
    current = trainable(module)
    if current.keys() != weights.keys():
        raise UserError(f"weights of another network: {sorted(current.keys() ^ weights.keys())[:5]}")
    for name, p in current.items():
        p.copy_(weights[name])
