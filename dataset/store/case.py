"""A case of a data set on disk, and what can be wrong with it."""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dataset.scans.camera import LATERAL

Item = TypeVar("Item")
_VIEW = re.compile(rf"{LATERAL}|xray_\d+")


@dataclass(frozen=True)
class Case:
    """A pair: one study of a patient. `xray` is None where it is to be projected from the CT.

    `target` is the label, `split` the user's own choice, `series`, `hu_offset` and `axes` how the CT is to be read
    (dataset/scans/reading.py); None where not given. `study_id` is empty for a patient's first or only one. `about`
    holds other columns of pairs.csv, for the manifest. `views` are further X-rays by their names.
    """

    patient_id: str
    ct: Path
    xray: Path | None
    target: float | None
    split: str | None
    series: str | None = None
    hu_offset: float | None = None
    study_id: str = ""
    about: Mapping[str, str] = field(default_factory=dict)
    views: Mapping[str, Path] = field(default_factory=dict)
    axes: str | None = None

    @property
    def name(self) -> str:
        """What tells it from others, and names its files."""
        return case_name(self.patient_id, self.study_id)

    @property
    def xrays(self) -> list[Path]:
        """All that there are."""
        return [*([] if self.xray is None else [self.xray]), *self.views.values()]

    @property
    def files(self) -> list[Path]:
        """What it is read from; the CT may be a folder."""
        return [self.ct, *self.xrays]


def is_view(name: str) -> bool:
    """Whether a column or a file of this name is a further X-ray: lateral, xray_2, xray_3, ..."""
    return _VIEW.fullmatch(name) is not None


def case_name(patient_id: str, study_id: str) -> str:
    return f"{patient_id}_{study_id}" if study_id else patient_id


@dataclass(frozen=True)
class Problem:
    """Something wrong with a case, which `patient_id` names: the rule, what was found instead, and what to do.

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
