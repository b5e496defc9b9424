"""Decoded tiles, put together to slabs of a CT in HU: only one slab is in memory at a time."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import torch

from common.collectives import Team
from common.geometry import Triple
from dataset.intensity import unit_to_hu
from ddpm.finite import check_decoded

HuTile = tuple[Triple, np.ndarray]  # first voxel, int16 HU (d, h, w)


class _Coming:
    """A decoded tile (1, d, h, w) in [-1, 1] on its way to the host, in HU."""

    def __init__(self, start: Triple, block: torch.Tensor, hu_window: tuple[float, float]) -> None:
        self.start, self.block = start, block
        self.hu = to_host(unit_to_hu(block[0], hu_window).round().to(torch.int16))
        self.total = to_host(block.sum())
        self.sent = None
        if block.is_cuda:
            self.sent = torch.cuda.Event()
            self.sent.record()

    def arrived(self) -> HuTile:
        if self.sent is not None:
            self.sent.synchronize()
        check_decoded(self.block, float(self.total), self.start)
        return self.start, self.hu.numpy()


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the host, from a GPU without waiting for it: an event tells when the numbers are there."""
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def hu_tiles(tiles: Iterator[tuple[Triple, torch.Tensor]], hu_window: tuple[float, float]) -> Iterator[HuTile]:
    """Decoded tiles, (1, d, h, w) in [-1, 1], in HU on the host. UserError where one is not finite.

    Each is asked for before the last one is waited for: a GPU decodes while the host puts slabs together and writes.
    """
    last: _Coming | None = None
    for start, block in tiles:
        coming = _Coming(start, block, hu_window)
        if last is not None:
            yield last.arrived()
        last = coming
    if last is not None:
        yield last.arrived()


def in_turn(own: Iterator[HuTile], rounds: int, team: Team) -> Iterator[HuTile]:
    """The tiles of all members in their order, for the first of them; every member owns one of each round."""
    for _ in range(rounds):
        yield from (tile for tile in team.gather(next(own, None)) if tile is not None)


def slabs_of(tiles: Iterator[HuTile], shape: Triple) -> Iterator[tuple[int, np.ndarray]]:
    """Tiles, all of one depth after another → first slice and int16 HU (d, H, W) of slabs, cropped to `shape`.

    Args:
        tiles: they may reach beyond `shape` at the high ends.
    """
    depth, height, width = shape
    for first, row in groupby(tiles, key=lambda piece: piece[0][0]):
        if first >= depth:
            return  # only padding follows
        slab = None
        for (_, h, w), tile in row:
            hu = tile[: depth - first]
            slab = np.empty((len(hu), height, width), dtype=np.int16) if slab is None else slab
            slab[:, h : h + hu.shape[1], w : w + hu.shape[2]] = hu[:, : max(0, height - h), : max(0, width - w)]
        if slab is not None:
            yield first, slab
