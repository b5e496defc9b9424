"""Which of the stacks of slices in a DICOM folder is the CT."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from common.errors import BadFileError
from dataset.scans.dicom_slices import CUT_OFF, Slice
from dataset.scans.kernels import sharpness
from dataset.scans.reading import Note

MIN_SLICES = 10  # fewer make no chest volume: scouts, bolus tracking
_SAME_MM = 0.01
_PARALLEL = 0.99
_PROJECTION = re.compile(  # image types of what several slices, or a view of the whole, were made into
    r"(?<![a-z])(m(ax|in)?[ _]?ip|projection image|volren|vrt|ssd|(volume|surface)[ _]render(ing|ed)?)(?![a-z])",
    re.IGNORECASE,
)
_SCANNED_RULE = "a CT's slices are no projections of others"
_PATIENT_RULE = "a CT is one patient's"
_TAKEN_RULE = "a DICOM folder holds one CT and nothing else"
_TELLS_APART: tuple[Callable[[Slice], object], ...] = (
    lambda piece: piece.series.patient,
    lambda piece: piece.series.kernel,
    lambda piece: piece.series.acquisition,
    lambda piece: piece.series.image_type,
)  # reconstructions and passes that one series may hold

_OF_WHOLE_STACKS: tuple[Callable[[Slice], object], ...] = (
    lambda piece: piece.series.frame,
    lambda piece: str(piece.path.parent),
)  # what else may tell volumes of the same places apart
_ALL = (*_TELLS_APART, *_OF_WHOLE_STACKS)


@dataclass(frozen=True)
class Candidate:
    """Slices of one series and grid. name: what chooses it. step: mm; places: how many positions they have."""

    name: str
    slices: list[Slice]
    step: float
    places: int

    @classmethod
    def of(cls, slices: list[Slice]) -> "Candidate":
        depths = _depths(slices)
        steps = np.diff(depths)[np.diff(depths) > _SAME_MM]
        step = float(np.median(steps)) if len(steps) else 0.0
        return cls(slices[0].series.number or "0", slices, step, len(steps) + 1)

    @property
    def is_volume(self) -> bool:
        return self.places >= MIN_SLICES

    @property
    def is_projection(self) -> bool:
        return bool(_PROJECTION.search(self.slices[0].series.image_type))

    @property
    def is_derived(self) -> bool:
        return self.slices[0].series.image_type.startswith("DERIVED")

    def told(self, folder: Path) -> str:
        series, grid = self.slices[0].series, self.slices[0].grid
        about = f" {series.description!r}" * bool(series.description)
        about += f", kernel {series.kernel}" * bool(series.kernel)
        return (
            f"series {self.name}{about}: {len(self.slices)} slices of {grid.rows} x {grid.columns},"
            f" {grid.pixel_mm[0]:g} mm pixels, {self.step:.4g} mm steps,"
            f" in {self.slices[0].path.relative_to(folder).parent}"
        )


_WORDS: dict[str, Callable[[Candidate], tuple[float, ...]]] = {
    "thinnest": lambda c: (round(c.step, 2), c.is_derived, sharpness(c.slices[0].series.kernel), -c.places),
    "largest": lambda c: (-c.places, c.is_derived, sharpness(c.slices[0].series.kernel)),
    "softest": lambda c: (sharpness(c.slices[0].series.kernel), c.is_derived, round(c.step, 2), -c.places),
}  # the first counts, then what stands behind it, then the order of the names


def choose(
    slices: list[Slice], passed: Counter[str], folder: Path, wanted: str | None
) -> tuple[list[Slice], tuple[Note, ...]]:
    """The slices of the CT, and what was passed over for it.

    Args:
        passed: what else the files hold. wanted: `Reading.series`.

    Raises:
        BadFileError: there is no stack of `MIN_SLICES` places, or several that `wanted` does not tell apart.
    """
    pieces = _pieces(slices)
    volumes = [piece for piece in pieces if piece.is_volume]
    strays = [piece for piece in pieces if not piece.is_volume and any(_may_belong(piece, v) for v in volumes)]
    short = [piece for piece in pieces if piece not in volumes and piece not in strays]
    named = _named([*volumes, *strays])
    scanned = [piece for piece in named if not piece.is_projection]
    pool = scanned if _matching(scanned, wanted) else named
    found = _matching(pool, wanted)
    patients = _patients(piece.slices[0] for piece in pool or short)
    if len(found) != 1 or not found[0].is_volume or (patients > 1 and wanted in _WORDS):
        listed = "; ".join(piece.told(folder) for piece in named or short) or "no CT slice"
        listed = f"{patients} patients: " * (patients > 1) + "; ".join([listed, *_counted(passed)])
        rule = f"a DICOM folder holds one CT series of at least {MIN_SLICES} slices, all on one grid"
        raise BadFileError(folder, rule, listed, *_how_to_choose(named, wanted))
    (taken,) = found
    for what, pieces in (("in short series", short), ("in projections", [p for p in named if p not in pool])):
        passed = passed + Counter({what: sum(len(piece.slices) for piece in pieces)})
    others = len(pool) - 1
    notes = []
    if taken.is_projection:
        found_type = taken.slices[0].series.image_type
        notes.append(Note(_SCANNED_RULE, found_type, "Give the series that they were made from.", doubtful=True))
    if (patients := _patients(taken.slices)) > 1:
        found_ids = f"slices of {patients}, by their ids"
        notes.append(Note(_PATIENT_RULE, found_ids, "Check whose they are.", doubtful=True))
    told = [f"one of {len(pool)} series by {wanted}: {taken.told(folder)}"] * bool(others) + [*_counted(passed)]
    if told:
        lost = any(what.startswith(CUT_OFF) for what in passed)
        remedy = "Nothing, if this is the CT; else choose another one."
        remedy = "Export the files that are cut off again, if they are slices." if lost else remedy
        notes.append(Note(_TAKEN_RULE, "; ".join(told), remedy, doubtful=lost))
    return taken.slices, tuple(notes)


def _counted(passed: Counter[str]) -> list[str]:
    told = [f"{count} {what}" for what, count in sorted(passed.items()) if count]
    return [f"passed over: {', '.join(told)}"] if told else []


def _depths(slices: list[Slice]) -> np.ndarray:
    return np.sort([float(piece.position @ slices[0].grid.normal) for piece in slices])


def _pieces(slices: list[Slice]) -> list[Candidate]:
    """Slices by series and grid, those of several reconstructions apart."""
    groups: dict[str, list[list[Slice]]] = {}
    for piece in slices:
        of_series = groups.setdefault(_series(piece), [])
        group = next((group for group in of_series if group[0].grid.like(piece.grid)), None)
        if group is None:
            of_series.append([piece])
        else:
            group.append(piece)
    return [Candidate.of(part) for of_series in groups.values() for group in of_series for part in _parts(group)]


def _series(piece: Slice) -> str:
    """What its series goes by: the UID, or the number where there is none."""
    return piece.series.uid or f"number {piece.series.number}"


def _patients(slices: Iterable[Slice]) -> int:
    return len({piece.series.patient for piece in slices} - {0})


def _parts(slices: list[Slice], by: Sequence[Callable[[Slice], object]] = _ALL) -> list[list[Slice]]:
    """Slices of several passes over the same places apart, as far as tags tell them; others together."""
    if not by or (np.diff(_depths(slices)) > _SAME_MM).all():
        return [slices]
    parts: dict[object, list[Slice]] = {}
    for piece in slices:
        parts.setdefault(by[0](piece), []).append(piece)
    if by[0] in _OF_WHOLE_STACKS and len({tuple(_depths(part).round(2)) for part in parts.values()}) > 1:
        return _parts(slices, by[1:])
    return [smaller for part in parts.values() for smaller in _parts(part, by[1:])]


def _may_belong(piece: Candidate, volume: Candidate) -> bool:
    """Whether slices may be a part of a volume that a header tells another grid of: none is dropped for that."""
    one, other = piece.slices[0], volume.slices[0]
    parallel = abs(float(one.grid.normal @ other.grid.normal)) > _PARALLEL
    return _series(one) == _series(other) and parallel and not one.grid.like(other.grid)


def _named(pieces: list[Candidate]) -> list[Candidate]:
    """In the order of their numbers; equal ones get 5-1, 5-2."""
    numbers = Counter(piece.name for piece in pieces)
    seen: Counter[str] = Counter()
    out = []
    for piece in sorted(pieces, key=lambda piece: (len(piece.name), piece.name)):
        seen[piece.name] += 1
        many = numbers[piece.name] > 1
        out.append(replace(piece, name=f"{piece.name}-{seen[piece.name]}") if many else piece)
    return out


def _matching(pieces: list[Candidate], wanted: str | None) -> list[Candidate]:
    if wanted is None:
        return pieces
    if wanted in _WORDS:
        best = sorted((piece for piece in pieces if piece.is_volume), key=_WORDS[wanted])[:1]
        siblings = [p for p in pieces if best and not p.is_volume and _may_belong(p, best[0])]
        return best + siblings
    exact = [piece for piece in pieces if piece.name == wanted]
    if exact:
        return exact
    pattern = wanted.lower()
    return [
        piece
        for piece in pieces
        for series in [piece.slices[0].series]
        if wanted in (series.number, series.uid) or fnmatchcase(series.description.lower(), pattern)
    ]


def _how_to_choose(pieces: list[Candidate], wanted: str | None) -> tuple[str, str | None]:
    """By settings, and without them (`BadFileError.elsewhere`)."""
    volumes = [piece for piece in pieces if piece.is_volume]
    if not volumes:
        return "Put the slices of the CT there, unpacked.", None
    none = "" if wanted is None else f"dataset.series={wanted} does not choose one of them. "
    if _patients(piece.slices[0] for piece in volumes) > 1:
        none += "Put each patient into a folder of its own. "
    by_settings = (
        f"{none}Choose with dataset.series={volumes[0].name} (a number, a UID, a pattern of the description like"
        " '*lung*', thinnest, largest or softest), or in a column 'series' of pairs.csv."
    )
    return by_settings, "Put the slices of one of them into a folder of its own, and give that."
