"""Cases that a store holds and the data set no longer names, such as those of a patient who has withdrawn."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from dataset.store.case import Case, Problem
from dataset.store.split_file import read_splits, write_splits

_NAMED = 3  # cases that a message names
_OF_CASE = (
    *("cases/{}.json", "volumes/{}.b2nd", "xrays/{}.b2nd", "views/*/{}.b2nd", "thumbnails/{}.png"),
    *("latents/{}.npy", "latents/{}.npz", "latents/{}.json", "looks_*/{}_????????????????.npz"),
)
_OF_ALL = ("features/*.npz", "mean_ct_*.npz")  # which name nobody, and are made anew
_log = logging.getLogger(__name__)


def settle(store: Path, cases: Sequence[Case], problems: Sequence[Problem], prune: bool) -> None:
    """Remove cases that are no longer named, with their patients' splits; without `prune` only tell of them.

    Args:
        cases, problems: of the data set as it is now. A case that has a problem is named still.
    """
    in_trouble = {problem.patient_id for problem in problems}
    named = {case.name for case in cases} | in_trouble
    names = sorted(path.stem for path in (store / "cases").glob("*.json") if path.stem not in named)
    if prune:
        _forget_splits(store, {case.patient_id for case in cases}, in_trouble)
    if names and prune:
        _remove(store, names)
        _log.info("%d cases are removed from %s", len(names), store)
    elif names:
        _log.warning(
            "%d cases of %s are of no pair now (%s): nothing uses them, but their CTs and X-rays are there;"
            " prune=true removes them",
            len(names),
            store,
            ", ".join(names[:_NAMED]),
        )


def _forget_splits(store: Path, patients: set[str], in_trouble: set[str]) -> None:
    """Of all but these patients, and those of whom a study may be in trouble."""

    def stays(patient: str) -> bool:
        return patient in patients or any(f"{name}_".startswith(f"{patient}_") for name in in_trouble)

    write_splits(store, {patient: split for patient, split in read_splits(store).items() if stays(patient)}, {})


def _remove(store: Path, names: Iterable[str]) -> None:
    """All that the store holds of these cases, and what was made of theirs and others' together.

    Their records go last: if it is interrupted, the next run still finds the rest. A name holds no wildcards.
    """
    _unlink(store, _OF_ALL)
    for name in names:
        record, *others = (pattern.format(name) for pattern in _OF_CASE)
        _unlink(store, (*others, record))


def _unlink(store: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for path in list(store.glob(pattern)):
            path.unlink(missing_ok=True)
