"""A volume's latent as a file, written tile by tile."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor

from common.geometry import Triple


def write_tiles(path: Path, shape: Triple, tiles: Iterable[tuple[Triple, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """Write float16 (D, H, W, C) from tiles; the sum and the sum of squares of each channel, float64 (C,).

    Row by row, not mapped: a process that fills up a disk through a mapped file is killed without a message.
    """
    total = square = np.zeros(0)
    with path.open("wb") as file:
        begin = 0
        for start, tile in tiles:
            block = tile.permute(1, 2, 3, 0).cpu().numpy()
            channels = block.shape[-1]
            if begin == 0:
                header = {"descr": "<f2", "fortran_order": False, "shape": (*shape, channels)}
                np.lib.format.write_array_header_1_0(file, header)
                begin, total, square = file.tell(), np.zeros(channels), np.zeros(channels)
            half = np.ascontiguousarray(block, dtype="<f2")
            for z, y in np.ndindex(*half.shape[:2]):
                row = ((start[0] + z) * shape[1] + start[1] + y) * shape[2] + start[2]
                file.seek(begin + 2 * channels * row)
                file.write(half[z, y].data)
            wide = block.reshape(-1, channels).astype(np.float64)
            total, square = total + wide.sum(0), square + (wide**2).sum(0)
    if begin == 0:
        raise ValueError("a volume needs at least one tile of latents, got none")
    return total, square
