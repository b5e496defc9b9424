"""Which patches are drawn in which order: equal on all ranks, reproducible, resumable in mid-epoch."""

from collections.abc import Iterator
from hashlib import blake2b
from itertools import cycle, islice

import torch
from torch.utils.data import Sampler

from common.errors import UserError


def sample_key(seed: int, epoch: int, index: int) -> int:
    """A number in [0, 2**32) that names one draw; torch's CPU generator keeps only 32 bits of a seed."""
    return int.from_bytes(blake2b(f"{seed},{epoch},{index}".encode(), digest_size=4).digest(), "little")


class VolumeGroupedSampler(Sampler[int]):
    """Shuffled draws in which a few patches of a volume follow one another, so that its file is read while warm.

    Yields `epoch * num_volumes * patches_per_volume + draw`: the epoch travels with the index, so workers need not
    be told of it. All ranks yield equally many; the last groups of an epoch are repeated where they do not divide.
    They take batches in turn: what all have drawn is the same patches on however many ranks, in batches of any size.

    Args:
        num_volumes: volumes of the split.
        patches_per_volume: draws per volume and epoch.
        group: draws of a volume that stay together.
        rank, world_size: this process and their number.
        batch_size: draws that a rank takes at a time.
    """

    def __init__(
        self,
        num_volumes: int,
        patches_per_volume: int,
        seed: int,
        group: int = 2,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
    ) -> None:
        if num_volumes < 1 or patches_per_volume < 1:
            raise UserError(
                "need at least one volume and one patch per volume,"
                f" got {num_volumes} volumes and patches_per_volume {patches_per_volume}"
            )
        self.num_volumes, self.patches_per_volume = num_volumes, patches_per_volume
        self.seed, self.group = seed, min(group, patches_per_volume)
        self.rank, self.world_size, self.batch_size = rank, world_size, batch_size
        self.epoch = 0
        self._resumed_epoch, self._done = -1, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def resume(self, epoch: int, done: int) -> None:
        """Leave out the first `done` draws of this rank in `epoch`."""
        self.epoch = self._resumed_epoch = epoch
        self._done = done

    def __len__(self) -> int:
        draws = self.num_volumes * self.patches_per_volume
        return -(-draws // self.world_size)

    def __iter__(self) -> Iterator[int]:
        first = self._done if self.epoch == self._resumed_epoch else 0
        yield from self._order(self.epoch)[first:]

    def _order(self, epoch: int) -> list[int]:
        stream = torch.Generator().manual_seed(sample_key(self.seed, epoch, -1))
        per_volume, draws = self.patches_per_volume, self.num_volumes * self.patches_per_volume
        groups = [
            range(volume * per_volume + first, volume * per_volume + min(first + self.group, per_volume))
            for volume in range(self.num_volumes)
            for first in range(0, per_volume, self.group)
        ]
        shuffled = [groups[i] for i in torch.randperm(len(groups), generator=stream).tolist()]
        flat = [draw for group in shuffled for draw in group]
        size = len(self)
        flat = list(islice(cycle(flat), size * self.world_size))  # equal counts on all ranks
        own: list[int] = []
        for first in range(0, size, self.batch_size):
            batch = min(self.batch_size, size - first)  # the last may be smaller
            begin = first * self.world_size + self.rank * batch
            own += flat[begin : begin + batch]
        return [epoch * draws + draw for draw in own]
