"""Does a model give away its training patients? How near drawn CTs lie to single training CTs.

A copy lies much nearer to one training CT than to any other patient's. So what counts is a CT's distance to the nearest
training CT over that to the nearest of any other patient, beside the same of real CTs that training has not seen
(distances alone would take blurred CTs for copies: they are nearer to all). After Carlini et al. 2023 and the test of
data copying by Meehan et al. 2020.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from common.geometry import axis_weights, centres
from evaluation.common_grid import CommonGrid

SURE = 0.01  # by chance alone, so many models that draw afresh would be called copying
CLOSEST = 5  # pairs that are listed


@dataclass(frozen=True)
class Look:
    """A CT made small, to be compared with others: values (C, V) at the places of a common grid, and inside (V,) where
    the CT's field of view holds them.
    """

    values: NDArray[np.float32]
    inside: NDArray[np.bool_]


def look_at(
    array: NDArray, spacing: Sequence[float], centre: Sequence[float], extent: Sequence[float], grid: CommonGrid
) -> Look:
    """A CT, or its latent, averaged onto the grid, whose centre is that of the CT.

    Args:
        array: (C, d, h, w). spacing: (d, h, w) of its voxels in mm. centre: of the CT in mm from the array's own.
        extent: of the CT in mm.
    """
    small, inside = array.astype(np.float32, copy=False), []
    axes = zip(array.shape[1:], spacing, grid.shape, grid.spacing, centre, extent, strict=True)
    for axis, (n, step, size, new, middle, mm) in enumerate(axes, start=1):
        at = centres(size, new)
        weights = axis_weights(n, step, at + middle)
        small = np.moveaxis(np.tensordot(weights, small, axes=(1, axis)), 0, axis)
        inside.append(np.abs(at) <= mm / 2 * (1 + 1e-9))
    held = inside[0][:, None, None] & inside[1][:, None] & inside[2]
    return Look(small.reshape(len(small), -1), held.ravel())


def distances(some: Sequence[Look], others: Sequence[Look]) -> NDArray[np.float64]:
    """(N, M): root mean square differences where both fields of view are; of equal ones 0 but for rounding."""
    (a, in_a), (b, in_b) = (_stacked(looks) for looks in (some, others))
    squares = (a * a) @ in_b.T - 2 * a @ b.T + in_a @ (b * b).T
    return np.sqrt(np.maximum(squares, 0) / np.maximum(in_a @ in_b.T, 1))


def _stacked(looks: Sequence[Look]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values (N, C * V), 0 outside the field of view, and 1 inside it."""
    inside = np.stack([np.broadcast_to(look.inside, look.values.shape).ravel() for look in looks]).astype(np.float64)
    return np.stack([look.values.ravel() for look in looks]) * inside, inside


@dataclass(frozen=True)
class Nearest:
    """Of a CT the nearest training CT of another patient: its name, the distance, and that over the distance of the
    nearest of any further patient.
    """

    name: str
    distance: float
    ratio: float


def nearest(
    by: NDArray[np.float64], owners: Sequence[str], names: Sequence[str], patients: Sequence[str]
) -> list[Nearest]:
    """
    Args:
        by: distances (N, M) of CTs to training CTs. owners: patients of the former. names, patients: of the latter,
            which need three patients.
    """
    found, of = [], np.asarray(patients)
    for row, owner in zip(by, owners, strict=True):
        apart = np.where(of == owner, np.inf, row)
        first = int(apart.argmin())
        further = float(apart[of != of[first]].min())
        found.append(Nearest(names[first], float(apart[first]), float(apart[first] / further) if further else 1.0))
    return found


@dataclass(frozen=True)
class Copying:
    """What one way to look at CTs says. drawn: by case, of its drawn CT. real: the same of its real CT.

    nearer: how many drawn CTs have a smaller ratio than any real one. p: how likely so small ratios of drawn CTs are,
    were they as those of real CTs: the lesser of Mann and Whitney's test and the chance of so many smallest ones,
    doubled.
    """

    drawn: dict[str, Nearest]
    real: dict[str, Nearest]
    nearer: int
    p: float

    @classmethod
    def of(cls, drawn: dict[str, Nearest], real: dict[str, Nearest]) -> "Copying":
        ours, theirs = ([one.ratio for one in some.values()] for some in (drawn, real))
        nearer = int(np.sum(np.array(ours) < min(theirs)))
        both = len(ours) + len(theirs)
        smallest = comb(both - nearer, len(theirs)) / comb(both, len(theirs))
        shifted = float(mannwhitneyu(ours, theirs, alternative="less").pvalue)
        return cls(drawn, real, nearer, min(1.0, 2 * min(smallest, shifted)))

    @property
    def closest(self) -> list[str]:
        """The cases whose drawn CTs are nearest to one training CT alone."""
        return sorted(self.drawn, key=lambda name: self.drawn[name].ratio)[:CLOSEST]


def words(found: dict[str, Copying]) -> str:
    """The verdict over all ways to look."""
    surest = min(found, key=lambda name: found[name].p)
    one = found[surest]
    drawn, real = (float(np.median([n.ratio for n in some.values()])) for some in (one.drawn, one.real))
    ratios = f"distance to the nearest training CT over that to the next patient's: {drawn:.2f}, of real CTs {real:.2f}"
    if one.p < SURE:
        return (
            f"It copies training patients: {one.nearer} of {len(one.drawn)} drawn CTs stand out nearer to one training"
            f" CT than any real CT does ({surest}; {ratios}; p = {one.p:.2g})."
        )
    fewest = 2 / comb(2 * len(one.drawn), len(one.drawn))
    if fewest >= SURE:
        return f"Too few patients to say whether it copies training patients ({ratios})."
    return f"No sign that it copies training patients ({ratios}; p = {one.p:.2g})."
