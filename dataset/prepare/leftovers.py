"""Cases that a store holds and the data set no longer names, such as those of a patient who has withdrawn."""

from collections.abc import Collection, Iterable
from pathlib import Path

from dataset.store.records import read_record

_OF_CASE = (
    *("cases/{}.json", "volumes/{}.b2nd", "xrays/{}.b2nd", "views/*/{}.b2nd", "thumbnails/{}.png"),
    *("latents/{}.npy", "latents/{}.npz", "latents/{}.json", "looks_*/{}_????????????????.npz"),
)
_OF_ALL = ("features/*.npz", "mean_ct_*.npz")  # which name nobody, and are made anew


def leftovers(store: Path, named: Collection[str]) -> list[str]:
    """Names of the cases that were prepared and are not `named`, ordered."""
    return sorted(path.stem for path in (store / "cases").glob("*.json") if path.stem not in named)


def patients_of(store: Path, names: Iterable[str]) -> set[str]:
    """Of cases that were prepared."""
    records = (read_record(store, name) for name in names)
    return {record.stored.patient_id for record in records if record is not None and record.stored is not None}


def remove(store: Path, names: Iterable[str]) -> None:
    """All that the store holds of these cases, and what was made of theirs and others' together.

    Their records go last: if it is interrupted, the next run still finds the rest. A name holds no wildcards.
    """
    for pattern in _OF_ALL:
        _unlink(store.glob(pattern))
    for name in names:
        records, *others = (pattern.format(name) for pattern in _OF_CASE)
        for pattern in (*others, records):
            _unlink(store.glob(pattern))


def _unlink(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)
