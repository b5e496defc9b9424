"""On which grid a case is drawn, and which part of it its real CT shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from common.geometry import Slices, Spacing, Triple, centres, triple
from dataset.scans.resample import cropped_affine, regridded
from dataset.store.store import StoredCase
from ddpm.plan import Grid
from evaluation.common_grid import CommonGrid, to_grid
from evaluation.metrics import Window, widest
from pipeline.sampling.ct_sampler import Placement


@dataclass(frozen=True)
class Field:
    """Where a case is drawn (`place`), and compared: in all voxels whose centres its real CT's field of view holds.

    case: whose real CT has the same centre as the drawn one.
    """

    case: StoredCase
    place: Placement

    @classmethod
    def of(cls, case: StoredCase, median: Placement | None = None) -> Field:
        """The grid of the case's real CT or, as users draw, that of the training's median CT."""
        affine = np.asarray(case.affine)
        if median is None:
            return cls(case, Placement(Grid(case.shape, case.spacing), affine, case.source_axes))
        grid = median.grid
        moved = regridded(affine, case.shape, grid.shape, np.divide(grid.spacing, case.spacing))
        return cls(case, Placement(grid, moved, case.source_axes))

    @cached_property
    def is_own(self) -> bool:
        """Whether the case is drawn on the grid of its real CT."""
        grid = self.place.grid
        return grid.shape == self.case.shape and grid.spacing == self.case.spacing

    @cached_property
    def box(self) -> Slices:
        """Of the drawn CT, what is compared."""
        grid = self.place.grid
        return box_shown(grid.shape, grid.spacing, self.case.shape, self.case.spacing)

    @cached_property
    def grid(self) -> CommonGrid:
        """Of what is compared."""
        d, h, w = (part.stop - part.start for part in self.box)
        return CommonGrid((d, h, w), self.place.grid.spacing)

    @cached_property
    def affine(self) -> NDArray:
        """Of what is compared: (4, 4), voxel (w, h, d) → RAS mm."""
        return cropped_affine(self.place.affine, triple([part.start for part in self.box]))

    def of_drawn(self, hu: NDArray) -> NDArray:
        return hu[self.box]

    def of_real(self, hu: NDArray, window: Window) -> NDArray:
        """A CT on the real one's grid, brought onto the one that is compared.

        Scores clip its HU, each to its own window, of which `window` is the training's: none is narrower for it here.
        """
        return hu if self.is_own else to_grid(hu, self.case.spacing, self.grid, widest(window))


def box_shown(shape: Triple, spacing: Spacing, real_shape: Triple, real_spacing: Spacing) -> Slices:
    """Of a grid, the voxels whose centres a real CT's field of view holds, which has the same centre."""
    inside = []
    for n, step, size, own in zip(shape, spacing, real_shape, real_spacing, strict=True):
        seen = np.flatnonzero(np.abs(centres(n, step)) <= size * own / 2 * (1 + 1e-9))
        inside.append(slice(int(seen[0]), int(seen[-1]) + 1))
    d, h, w = inside
    return d, h, w
