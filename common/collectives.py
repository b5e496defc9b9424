"""What the processes of a distributed run tell one another. One that runs alone just goes on."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

Choice = TypeVar("Choice")


def together() -> bool:
    """Whether this process is one of a group."""
    return distributed.is_available() and distributed.is_initialized()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all ranks, in place."""
    if together():
        distributed.all_reduce(values)
    return values


def max_over_ranks(values: Tensor) -> Tensor:
    """The largest of all ranks, element by element, in place."""
    if together():
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return values


def gathered(value: Choice) -> list[Choice]:
    """Every rank's value, in their order; of a kind that pickles."""
    if not together():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def from_rank_zero(values: Tensor) -> Tensor:
    """`values` of rank 0 on every rank."""
    if together():
        values = values.contiguous()
        distributed.broadcast(values, src=0)
    return values


@dataclass(frozen=True)
class Team:
    """Processes that share one volume's windows and tiles; within a group, each may also be a team of its own."""

    rank: int = 0
    size: int = 1

    def sum(self, values: Tensor) -> Tensor:
        """The members' sum, in place."""
        return sum_over_ranks(values) if self.size > 1 else values

    def agree(self, choice: Choice) -> Choice:
        """What the first member chose."""
        if self.size == 1:
            return choice
        shared = [choice]
        distributed.broadcast_object_list(shared, device=torch.device("cpu"))
        return shared[0]

    def gather(self, value: Choice) -> list[Choice]:
        """Every member's value, in their order, of a kind that pickles; to all but the first member, nothing."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        distributed.gather_object(value, values)
        return values or []

    def share(self, windows: Tensor) -> Tensor:
        """The part of the windows (N, 3) that this member sees."""
        return windows[self.rank :: self.size]

    def wait(self) -> None:
        """Returns when every member has come here. torchrun ends the others as soon as one process fails."""
        self.sum(torch.zeros(1))
