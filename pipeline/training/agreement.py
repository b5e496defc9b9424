"""What the ranks of a training tell one another: whether they begin alike, and what one of them has met."""

import socket
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from common.collectives import gathered, max_over_ranks
from common.errors import AgreedError
from common.tensor_hash import hash_of, tensors_of


class Later:
    """Numbers of a tensor, to be read later: without waiting for what the GPU was given since."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if values.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def read(self) -> list[float]:
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()


def tell(trainer: pl.Trainer, values: Tensor) -> Later:
    """The largest that any rank gives, number by number. Every rank must come here after the same step."""
    return Later(max_over_ranks(values.to(trainer.strategy.root_device, torch.float32)))


class SameStart(pl.Callback):
    """A distributed training goes on only if all ranks do from the same state, by the same code, settings and cases.

    Else each would train on from a checkpoint of its own, as on nodes that share no disk, or another network, or leave
    out cases that it believes to be others' share.
    """

    def __init__(self) -> None:
        self.of_this_rank: dict[str, str] = {}  # code, settings and cases, by name
        self._step = 0  # of the checkpoint that this rank goes on from

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._step = checkpoint["global_step"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Settings and steps, before anything that only ranks of some epochs wait for."""
        if trainer.world_size > 1:
            _compare_settings(self.of_this_rank)
            _compare(self._step, "")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1 and trainer.global_step > 0:  # else all begin anew
            _compare(trainer.global_step, _fingerprint(trainer))


def _compare_settings(own: dict[str, str]) -> None:
    found = gathered((own, socket.gethostname()))
    first, first_host = found[0]
    for rank, (other, host) in enumerate(found):
        unlike = [name for name in sorted(first.keys() | other.keys()) if first.get(name) != other.get(name)]
        if unlike:
            each = "; ".join(f"{name}: {first.get(name)} and {other.get(name)}" for name in unlike[:10])
            raise AgreedError(
                f"all ranks must run the same code with the same settings on the same cases; rank 0 on {first_host} and"
                f" rank {rank} on {host} differ in {each}. Start the same command from the same code on all machines,"
                " and give those that share no disk the same prepared data"
            )


def _compare(step: int, state: str) -> None:
    found = gathered((step, state, socket.gethostname()))
    if len({(step, state) for step, state, _ in found}) > 1:
        ranks = "; ".join(f"rank {r} on {host}: step {s}, state {h[:8]}" for r, (s, h, host) in enumerate(found))
        raise AgreedError(
            f"all ranks must go on from the same checkpoint, got {ranks}. Give all machines one checkpoint_dir on a"
            " shared disk, or copy the newest last.ckpt to each; resume=never starts anew"
        )


def _fingerprint(trainer: pl.Trainer) -> str:
    """Of weights, averages and optimizers."""
    state: dict[str, Any] = {
        "weights": trainer.lightning_module.state_dict(),
        "optimizers": [optimizer.state_dict()["state"] for optimizer in trainer.optimizers],
        "callbacks": [callback.state_dict() for callback in trainer.callbacks],  # type: ignore[attr-defined]
    }
    return hash_of(tensors_of(state))
