"""Work split over processes that know nothing of one another, on one machine or many."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from common.errors import UserError
from common.launcher import rank_and_world

Item = TypeVar("Item")
_TEXT = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, from 1 to `count`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise UserError(f"shard=i/n needs 1 <= i <= n, got {self}; the first of four is shard=1/4")

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Every `count`-th item from the `index`-th."""
        return list(items[self.index - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """ "2/4" -> the second of four."""
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        raise UserError(f"shard is i/n with two whole numbers, such as 1/4, got {text!r}")
    return Shard(int(found[1]), int(found[2]))


def shard_of_environment() -> Shard | None:
    """The part that torchrun or srun gave this process; None if it runs alone."""
    rank, count = rank_and_world()
    return Shard(rank + 1, count) if count > 1 else None
