"""The last few things made, kept for the next use."""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Kept = TypeVar("Kept")


class Recent(Generic[Kept]):
    """Keeps the `size` things used last, by key. A copy in another process, forked or pickled, starts empty."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"need room for at least one, got {size}")
        self.size = size
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._owner = os.getpid()

    def get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """What is kept under `key`, made now if it is not."""
        if self._owner != os.getpid():  # open files and big arrays stay with the process that made them
            self._kept, self._owner = OrderedDict(), os.getpid()
        if key not in self._kept:
            while len(self._kept) >= self.size:  # first, so that never more than `size` take memory
                self._kept.popitem(last=False)
            self._kept[key] = make()
        self._kept.move_to_end(key)
        return self._kept[key]

    def __len__(self) -> int:
        return len(self._kept)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}
