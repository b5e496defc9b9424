"""How the slices of a CT lie over one another: the grid they stand for, and what keeps them from being one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import BadFileError
from dataset.scans.dicom_slices import EXPORT, Slice
from dataset.scans.reading import REFUSE, Note
from dataset.scans.upright import HALF

_EVEN_RULE = "slices are evenly spaced ({:g} mm here): none is missing"
_DOUBLE, _GAP = 0.25, 1.75  # of the step: what is less is a second slice of one place, what is more lacks one between
_ALIKE = 0.2  # relative: steps that rounding makes of one
_SHOWN = 5
_ROUND = 6  # decimals of a mm: a fitted line is off by 1e-12


@dataclass(frozen=True)
class Stack:
    """Slices in the order of their normal, and the grid that they lie on.

    first (3,), step (3,): LPS mm of the first voxel, and from slice to slice; aslant where the gantry was tilted.
    depths: where slices of the grid lie between those there are, as their indices; None where they are the same.
    """

    slices: list[Slice]
    first: np.ndarray
    step: np.ndarray
    depths: np.ndarray | None
    notes: tuple[Note, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices of the grid."""
        grid = self.slices[0].grid
        return grid.columns, grid.rows, len(self.slices) if self.depths is None else len(self.depths)

    @property
    def affine(self) -> np.ndarray:
        """(4, 4), voxel (column, row, slice) -> RAS mm."""
        grid = self.slices[0].grid
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = grid.along_row, grid.along_column
        affine[:3, 2], affine[:3, 3] = self.step, self.first
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS -> RAS


def stacked(slices: list[Slice], folder: Path, irregular: str) -> Stack:
    """The stack of slices of one grid, on the grid that fits them best: noise of half a voxel is none.

    Raises:
        BadFileError: two slices at a place; gaps and uneven steps, unless `irregular` lets them be interpolated; slices
            aside of one another.
    """
    grid = slices[0].grid
    slices = sorted(slices, key=lambda piece: float(piece.position @ grid.normal))
    places = np.array([piece.position for piece in slices])
    depths = places @ grid.normal
    steps = np.diff(depths)
    mean = _line(np.arange(len(slices)), depths)[1]
    _check_double(depths, steps, float(mean), folder)
    slack = HALF * min(*grid.pixel_mm, float(mean))
    aside = places - depths[:, None] * grid.normal
    start, slant = _line(depths, aside)
    off = np.linalg.norm(aside - start - depths[:, None] * slant, axis=1)
    if off.max() > slack:
        at = int(np.argmax(off))
        found = f"the one at {depths[at]:g} mm, {off[at]:.2g} mm aside"
        raise BadFileError(folder, "slices lie over one another", found, EXPORT)
    first, step = _line(np.arange(len(slices)), depths)
    rough = np.abs(depths - first - step * np.arange(len(slices))).max()
    notes, where = [], None
    if rough > slack or (np.abs(steps / step - 1) > _GAP - 1).any():
        usual = _commonest(steps)
        found = _uneven(depths, steps, usual, float(rough))
        if irregular == REFUSE:
            remedy = f"{EXPORT} Or interpolate: dataset.irregular=resample."
            raise BadFileError(folder, _EVEN_RULE.format(usual), found, remedy, EXPORT)
        first, step = depths[0], usual
        count = int((depths[-1] - depths[0]) / usual + 1e-3) + 1
        where = np.interp(depths[0] + usual * np.arange(count), depths, np.arange(len(depths)))
        found += f"; interpolated to {usual:g} mm, {len(slices)} slices became {count}"
        notes.append(Note(_EVEN_RULE.format(usual), found, "Prefer an export with every slice."))
    origin = start + first * (grid.normal + slant)
    return Stack(slices, origin.round(_ROUND), (step * (grid.normal + slant)).round(_ROUND), where, tuple(notes))


def _line(at: np.ndarray, values: np.ndarray) -> tuple[Any, Any]:
    """Value at 0 and slope of the lines that fit `values` (n,) or (n, k) best."""
    middle = at.mean()
    slope = (at - middle) @ (values - values.mean(0)) / ((at - middle) ** 2).sum()
    return values.mean(0) - slope * middle, slope


def _check_double(depths: np.ndarray, steps: np.ndarray, mean: float, folder: Path) -> None:
    same = [f"{depths[i]:g} mm" for i in np.flatnonzero(steps < _DOUBLE * mean)]
    if same or mean <= 0:
        found = f"{len(same)} duplicate position(s): {', '.join(same[:_SHOWN])}"
        raise BadFileError(folder, "every slice of a series has a position of its own", found, EXPORT)


def _commonest(steps: np.ndarray) -> float:
    """The mean of the steps that most others are like."""
    alike = np.abs(steps[:, None] / steps - 1) < _ALIKE
    return float(steps[alike[np.argmax(alike.sum(1))]].mean().round(_ROUND))


def _uneven(depths: np.ndarray, steps: np.ndarray, usual: float, rough: float) -> str:
    odd = np.flatnonzero(np.abs(steps / usual - 1) > _ALIKE)
    if not len(odd):
        return f"slices up to {rough:.2g} mm away from even steps"
    told = ", ".join(f"{steps[i]:g} mm between {depths[i]:g} and {depths[i + 1]:g} mm" for i in odd[:_SHOWN])
    return f"steps of {told}" + (f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else "")
