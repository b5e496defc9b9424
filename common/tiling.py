"""Cutting a latent grid into tiles, and reading boxes that reach beyond a volume. Pure geometry."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from torch import Tensor

from common.errors import UserError
from common.geometry import Triple, overlap, slices

TileBox = tuple[Triple, Triple]  # first voxel, size


def tile_boxes(shape: Triple, tile: int) -> Iterator[TileBox]:
    """Disjoint boxes that cover `shape`, none larger than `tile` per axis, of nearly equal sizes."""
    if tile < 1:
        raise UserError(f"a tile needs at least 1 latent voxel per side, got {tile}")
    for spans in itertools.product(*(_axis_spans(size, tile) for size in shape)):
        (d, h, w), (nd, nh, nw) = zip(*spans, strict=True)
        yield (d, h, w), (nd, nh, nw)


def _axis_spans(size: int, tile: int) -> list[tuple[int, int]]:
    count = -(-size // tile)
    edges = [size * i // count for i in range(count + 1)]
    return [(low, high - low) for low, high in itertools.pairwise(edges)]


def read_padded(
    read: Callable[[Triple, Triple], Tensor], shape: Triple, start: Triple, size: Triple, fill: Tensor
) -> Tensor:
    """Box (C, d, h, w) that may reach beyond a volume of `shape`.

    Args:
        read: (first voxel, size) of a box inside the volume -> (C, d, h, w).
        fill: (C,), the value of every voxel outside.
    """
    result = fill.view(-1, 1, 1, 1).expand(-1, *size).clone()
    inside = overlap(start, size, shape)
    if inside is not None:
        first, length, where = inside
        result[(slice(None), *where)] = read(first, length).to(result)
    return result


def padded_boxes(
    read: Callable[[Triple, Triple], Tensor],
    shape: Triple,
    tile: int,
    halo: int,
    fill: Tensor,
    step: int = 1,
    most: int | None = None,
    own: slice = slice(None),  # noqa: B008 (frozen)
) -> Iterator[tuple[Triple, Tensor]]:
    """Tiles of a volume, each with its surroundings.

    Args:
        read, shape, fill: of `read_padded`; `step` divides the shape.
        tile: largest side of a tile, and
        halo: of what surrounds it, in blocks of `step` voxels.
        most: read so many of the tiles only, evenly spread.
        own: of those, which to read, by their order.

    Yields:
        first block of the tile, and its box (C, d, h, w), halo included.
    """
    d, h, w = shape
    boxes = list(tile_boxes((d // step, h // step, w // step), tile))
    count = len(boxes) if most is None else min(most, len(boxes))
    for start, size in [boxes[i * len(boxes) // count] for i in range(count)][own]:
        (a, b, c), (x, y, z) = ([step * (s - halo) for s in start], [step * (n + 2 * halo) for n in size])
        yield start, read_padded(read, shape, (a, b, c), (x, y, z), fill)


def assemble(pieces: Iterator[tuple[Triple, Tensor]], result: Tensor) -> Tensor:
    """Writes pieces (first voxel, (C, d, h, w)) into `result` (C, D, H, W) and returns it."""
    for (d, h, w), piece in pieces:
        result[:, d : d + piece.shape[1], h : h + piece.shape[2], w : w + piece.shape[3]] = piece
    return result


def reader_of(volume: Tensor) -> Callable[[Triple, Triple], Tensor]:
    """Box reader of a volume (C, D, H, W) in memory."""

    def read(start: Triple, size: Triple) -> Tensor:
        return volume[(slice(None), *slices(start, size))]

    return read
