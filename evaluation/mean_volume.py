"""The mean training CT, offered for every case: what a model must beat that has seen no X-ray."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from common.geometry import centres
from common.voxel_file import ReadBox
from evaluation.common_grid import CommonGrid, boxes_to_grid, to_grid
from evaluation.metrics import Window


@dataclass(frozen=True)
class MeanVolume:
    """hu: float32 (D, H, W) on `grid`, whose centre is that of the CTs; HU clipped to `window`. name: of which CTs."""

    hu: NDArray[np.float32]
    grid: CommonGrid
    window: Window
    name: str = ""

    def on(self, grid: CommonGrid) -> NDArray[np.float32]:
        """What a CT of this grid would show of it; beyond the largest training CT lies the window's floor."""
        return to_grid(self.hu, self.grid.spacing, grid, self.window)


class MeanOfCTs:
    """Adds CTs up on one grid. Each counts where its field of view lies, so that none darkens what it does not show."""

    def __init__(self, grid: CommonGrid, window: Window) -> None:
        self.grid, self.window = grid, window
        self.sum = np.zeros(grid.shape)  # HU above the window's floor
        self.count = np.zeros(grid.shape)

    def add(self, read: ReadBox, shape: Sequence[int], spacing: Sequence[float]) -> None:
        """A CT (D, H, W) of HU, read box by box; spacing in mm."""
        self.sum += boxes_to_grid(read, shape, spacing, self.grid, self.window) - self.window[0]
        inside = [
            np.abs(centres(n, step)) <= size * own / 2 * (1 + 1e-9)
            for n, step, size, own in zip(self.grid.shape, self.grid.spacing, shape, spacing, strict=True)
        ]
        self.count[np.ix_(*inside)] += 1

    def mean(self) -> MeanVolume:
        """Where no CT has been within the grid, the mean goes on as at the nearest place."""
        hu = self.window[0] + self.sum / np.maximum(self.count, 1)
        hu = hu[tuple(distance_transform_edt(self.count == 0, return_distances=False, return_indices=True))]
        return MeanVolume(hu.astype(np.float32), self.grid, self.window)
