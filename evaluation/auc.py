"""How well scores tell patients with a label from those without: areas under ROC curves, and their differences."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from evaluation.controls import FEWEST_FOR_INTERVAL, NUM_DRAWS, Estimate

_DRAWS_AT_ONCE = 100


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Share of the pairs of a case with the label and one without in which the former scores higher; ties are half.

    NaN where all have the label, or none.
    """
    value = np.asarray(labels, dtype=bool)
    both = _won(np.asarray(scores, dtype=np.float64), value)
    return float(both.mean()) if both.size else float("nan")


def _won(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(cases with the label, cases without): 1 where the former scores higher, ½ where they are even."""
    yes, no = scores[labels][:, None], scores[~labels]
    return (yes > no) + 0.5 * (yes == no)


def compare_aucs(
    scores: Mapping[str, Sequence[float]], labels: Sequence[bool], patients: Sequence[str], seed: int = 0
) -> dict[str, Estimate]:
    """The AUC of each list of scores, and as "A minus B" the differences of each two, with 95 % bootstrap intervals.

    Patients are redrawn, each with all their cases, the same ones for all lists. Draws without both classes are left
    out.
    """
    value = np.asarray(labels, dtype=bool)
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    won = np.stack([_won(np.asarray(some, dtype=np.float64), value) for some in scores.values()])
    rng, drawn = np.random.default_rng(seed), []
    for first in range(0, NUM_DRAWS if len(names) >= FEWEST_FOR_INTERVAL else 0, _DRAWS_AT_ONCE):
        count = min(_DRAWS_AT_ONCE, NUM_DRAWS - first)
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), count)[:, owner].astype(np.float64)
        yes, no = times[:, value], times[:, ~value]
        pairs = yes.sum(1) * no.sum(1)
        drawn.append(np.einsum("bp,spn,bn->sb", yes, won, no, optimize=True) / np.where(pairs, pairs, np.nan))
    draws = np.concatenate(drawn, axis=1) if drawn else None
    whole = [float(pairs.mean()) if pairs.size else float("nan") for pairs in won]
    found = {name: _estimate(whole[i], None if draws is None else draws[i]) for i, name in enumerate(scores)}
    for (i, a), (k, b) in combinations(enumerate(scores), 2):
        found[f"{a} minus {b}"] = _estimate(whole[i] - whole[k], None if draws is None else draws[i] - draws[k])
    return found


def _estimate(value: float, draws: NDArray[np.float64] | None) -> Estimate:
    if draws is None or np.isnan(draws).all():
        return Estimate(value)
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Estimate(value, float(low), float(high))
