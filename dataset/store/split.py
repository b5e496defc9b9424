"""Which patients train, validate and test: decided once, never changed."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

from common.errors import UserError

SPLITS = ("train", "val", "test")


def assign_splits(ids: Iterable[str], stored: Mapping[str, str], shares: Mapping[str, float]) -> dict[str, str]:
    """Split of every id. `stored` assignments are kept; `shares` are the target shares, which sum to 1.

    The first time, patients are ordered by a hash of their id: int(share * n) train (at least one),
    int(share * n) test, the others validate. Later each new patient joins the split furthest below target. Patients
    of a split that has no share (a test set named by hand) do not count.

    Raises:
        ValueError: shares that are negative, do not sum to 1 or leave out train; an unknown split.
    """
    _check(stored, shares)
    known = set(ids)
    new = sorted(known - stored.keys(), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assigned = {name: stored[name] for name in known & stored.keys()}
    if not assigned:
        return dict(zip(new, _first_split(len(new), shares), strict=True))
    counts = Counter(split for split in assigned.values() if split in shares)
    for name in new:
        total = sum(counts.values()) + 1
        # rounding hides the last bits of the shares; equal needs go to the first split
        split = max(shares, key=lambda s: round(shares[s] * total - counts[s], 9))
        assigned[name] = split
        counts[split] += 1
    return assigned


def _first_split(n: int, shares: Mapping[str, float]) -> list[str]:
    train = max(min(n, 1), _share_of(n, shares["train"]))
    test = min(_share_of(n, shares.get("test", 0)), n - train)
    return ["train"] * train + ["test"] * test + ["val"] * (n - train - test)


def _share_of(n: int, share: float) -> int:
    return int(share * n + 1e-9)  # 0.7 * 10 is 6.999...


def _check(stored: Mapping[str, str], shares: Mapping[str, float]) -> None:
    unknown = sorted((set(shares) | set(stored.values())) - set(SPLITS))
    if unknown:
        raise UserError(f"splits are {', '.join(SPLITS)}, got {', '.join(unknown)}")
    if shares.get("train", 0) <= 0 or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"split shares must be positive, hold train and sum to 1, got {dict(shares)}")
