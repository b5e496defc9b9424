"""A case of a data set on disk, and what can be wrong with it."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Case:
    """One patient's pair. `xray` is None where it is to be projected from the CT.

    `target` is the label, `split` the user's own choice, `series` and `hu_offset` how the CT is to be read
    (dataset/scans/reading.py); None where not given.
    """

    patient_id: str
    ct: Path
    xray: Path | None
    target: float | None
    split: str | None
    series: str | None = None
    hu_offset: float | None = None


@dataclass(frozen=True)
class Problem:
    """Something wrong with a case: the rule, what was found instead, and what to do.

    A problem that is not `fatal` is reported, but the case is used. A `note` tells what was chosen where files leave a
    choice, and is none.
    """

    patient_id: str
    path: str
    rule: str
    found: str
    remedy: str
    fatal: bool = True
    note: bool = False


def sharing(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """The items whose key another one has, too, together."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [group for group in groups.values() if len(group) > 1]


def relative_to(root: Path, path: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
