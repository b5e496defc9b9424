"""CT voxels kept in a file while a volume is being made, so that memory does not grow with its depth."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray

from common.geometry import Triple, slices

# (first voxel, size) of a box inside a volume -> int16 HU (d, h, w)
ReadBox = Callable[[Triple, Triple], NDArray[np.int16]]


class VoxelFile:
    """int16 voxels (D, H, W) in a nameless temporary file: nothing is left of it, however the process ends.

    Read and written with plain calls, not mapped: mapped pages would count as this process' memory.

    Args:
        shape: (D, H, W). folder: on whose disk the voxels lie, 2 bytes each.
    """

    def __init__(self, shape: Triple, folder: Path) -> None:
        self.shape = shape
        self._file = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115, closed by __exit__

    def write(self, start: int, slab: NDArray[np.int16]) -> None:
        """Slices (d, H, W) from slice `start` on."""
        if slab.shape[1:] != self.shape[1:] or start + len(slab) > self.shape[0]:
            raise ValueError(f"slices {slab.shape} from {start} on do not lie in a volume {self.shape}")
        self._file.seek(2 * start * self.shape[1] * self.shape[2])
        rest = np.ascontiguousarray(slab, dtype=np.int16).data.cast("B")
        while rest:  # a call may take only a part, for instance just before the disk is full
            rest = rest[self._file.write(rest) :]

    def read(self, start: Triple, size: Triple) -> NDArray[np.int16]:
        """A box (d, h, w) of the volume."""
        out = np.empty(size, dtype=np.int16)
        _, height, width = self.shape
        for index in range(size[0]):
            self._file.seek(2 * ((start[0] + index) * height + start[1]) * width)
            rows = np.frombuffer(self._file.read(2 * size[1] * width), dtype=np.int16).reshape(size[1], width)
            out[index] = rows[:, start[2] : start[2] + size[2]]
        return out

    def __enter__(self) -> "VoxelFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def box_of(hu: NDArray) -> ReadBox:
    """Box reader of a volume (D, H, W) in memory; its boxes are views of it."""
    return lambda start, size: hu[slices(start, size)]
