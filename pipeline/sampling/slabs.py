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


def hu_tiles(tiles: Iterator[tuple[Triple, torch.Tensor]], hu_window: tuple[float, float]) -> Iterator[HuTile]:
    """Decoded tiles, (1, d, h, w) in [-1, 1], in HU on the host. UserError where one is not finite."""
    for start, block in tiles:
        check_decoded(block, start)
        yield start, unit_to_hu(block[0], hu_window).round().to(torch.int16).cpu().numpy()


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
