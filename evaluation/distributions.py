"""Are drawn CTs spread as real ones are? Fréchet and kernel distance, precision and recall of their features.

The unit is a CT: a network's features are averaged over its slices, so that a patient's slices do not pass for
independent samples. Features are compared plane by plane (axial, coronal, sagittal), or once where a network sees whole
CTs, and the planes' figures averaged. Intervals are jackknife ones: patients are left out in turn, with all studies,
drawn and real, of more than 50 in groups. A bootstrap would not do: who is drawn twice makes a set look narrower.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.controls import FEWEST_FOR_INTERVAL, Estimate

Float = NDArray[np.float64]
Index = NDArray[np.intp]

_GROUPS = 50  # that are left out in turn, at most
NEIGHBOURS = 3  # of precision and recall (Kynkäänniemi et al. 2019)
_LIMITS = {"fid": (0.0, np.inf), "kid": (-np.inf, np.inf), "precision": (0.0, 1.0), "recall": (0.0, 1.0)}
MEASURES = tuple(_LIMITS)


@dataclass(frozen=True)
class Distribution:
    """What one network's features say of drawn and real CTs.

    kind: "2.5D" (slices of three planes) or "3D". hash: of the network's tensors. cts, patients: how many.
    fid: squared Fréchet distance of Gaussians fitted to the features (Heusel et al. 2017), which falls with the number
    of CTs. fid_halves: the same of one half of the real CTs against the other, by patient; None for fewer than four.
    kid: unbiased squared MMD of a cubic kernel (Bińkowski et al. 2018). precision, recall: share of drawn CTs among
    the real ones, and of real among the drawn.
    """

    kind: str
    hash: str
    cts: int
    patients: int
    fid: Estimate
    fid_halves: float | None
    kid: Estimate
    precision: Estimate
    recall: Estimate


def compare_features(
    drawn: NDArray, real: NDArray, owners: Sequence[str], kind: str, network_hash: str
) -> Distribution:
    """
    Args:
        drawn, real: features (N, planes, F) of N drawn CTs, and of the real ones of the same cases. owners: patients.
    """
    planes = [
        _Plane(drawn[:, i].astype(np.float64), real[:, i].astype(np.float64), np.asarray(owners))
        for i in range(drawn.shape[1])
    ]
    names = sorted(set(owners), key=lambda name: hashlib.sha256(name.encode()).digest())
    place = {name: i for i, name in enumerate(names)}
    of = np.array([place[name] for name in owners])
    groups = min(_GROUPS, len(names))
    group = of % groups

    def measured(left_out: int = -1) -> Float:
        kept = np.flatnonzero(group != left_out)
        return np.mean([plane.measure(kept) for plane in planes], axis=0)

    whole = measured()
    without = [measured(i) for i in range(groups)] if len(names) >= FEWEST_FOR_INTERVAL else []
    found = {
        name: _estimate(value, [one[i] for one in without], *_LIMITS[name])
        for i, (name, value) in enumerate(zip(MEASURES, whole, strict=True))
    }
    halves = [np.flatnonzero(of % 2 == half) for half in (0, 1)]
    fid = float(np.mean([plane.fid_of_real(*halves) for plane in planes])) if len(names) >= 4 else None
    return Distribution(kind, network_hash, len(owners), len(names), fid_halves=fid, **found)


class _Plane:
    """Products of all features (N drawn ones, then N real ones) with one another, from which every measure follows."""

    def __init__(self, drawn: Float, real: Float, owners: NDArray) -> None:
        both = np.concatenate([drawn, real])
        self._count = len(drawn)
        self._kernel = (both @ both.T / both.shape[1] + 1) ** 3
        both = both - both.mean(0)  # changes neither distances nor covariances
        self._dot = both @ both.T
        squares = np.diag(self._dot)
        self._far = squares[:, None] + squares - 2 * self._dot
        self._apart = owners[:, None] != owners

    def measure(self, kept: Index) -> list[float]:
        """fid, kid, precision, recall of these cases."""
        drawn, real = kept, kept + self._count
        if len(kept) < 2:
            return [float("nan")] * 4
        return [
            self._fid(drawn, real),
            self._kid(kept),
            self._within(drawn, real),
            self._within(real, drawn),
        ]

    def fid_of_real(self, one: Index, other: Index) -> float:
        return self._fid(one + self._count, other + self._count)

    def _fid(self, a: Index, b: Index) -> float:
        """The trace of the root of the product of two covariances is the nuclear norm of what (N, M) the centred
        features give: no root of a matrix (F, F), which fewer CTs than features would make singular.
        """
        aa, bb, ab = (self._dot[np.ix_(x, y)] for x, y in ((a, a), (b, b), (a, b)))
        means = aa.mean() + bb.mean() - 2 * ab.mean()
        spreads = [(np.trace(own) - len(own) * own.mean()) / (len(own) - 1) for own in (aa, bb)]
        cross = ab - ab.mean(0) - ab.mean(1, keepdims=True) + ab.mean()
        shared = np.linalg.svd(cross, compute_uv=False).sum() / np.sqrt((len(a) - 1) * (len(b) - 1))
        return max(0.0, float(means + sum(spreads) - 2 * shared))

    def _kid(self, kept: Index) -> float:
        """Pairs of one patient say nothing of a distribution, and are left out."""
        apart = self._apart[np.ix_(kept, kept)]
        if not apart.any():
            return float("nan")
        drawn, real = kept, kept + self._count
        pairs = ((drawn, drawn), (real, real), (drawn, real))
        dd, rr, dr = (self._kernel[np.ix_(some, others)][apart].mean() for some, others in pairs)
        return float(dd + rr - 2 * dr)

    def _within(self, some: Index, others: Index) -> float:
        """Share of `some` that lie no further from one of the others than its third neighbour among them."""
        if len(others) <= NEIGHBOURS:
            return float("nan")
        own = self._far[np.ix_(others, others)]
        reach = np.sort(own, axis=1)[:, NEIGHBOURS]  # the nearest is the CT itself
        return float((self._far[np.ix_(some, others)] <= reach).any(1).mean())


def _estimate(value: float, without: Sequence[float], low: float, high: float) -> Estimate:
    if np.isnan(value):
        return Estimate(None)
    if not without or np.isnan(without).any():
        return Estimate(float(value))
    reach = 1.96 * float(np.sqrt((len(without) - 1) * np.var(without)))
    return Estimate(float(value), max(low, float(value) - reach), min(high, float(value) + reach))
