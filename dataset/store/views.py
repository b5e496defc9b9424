"""Further X-rays of a case besides the frontal one, as the manifest has them, and how X-rays are scaled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from dataset.scans.camera import LATERAL, Film

if TYPE_CHECKING:
    from dataset.store.store import StoredCase

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class StoredView:
    """A further X-ray; fields as those of `StoredCase` without "xray_".

    kind: by `kind_of`.
    """

    source: str
    kind: str
    percentiles: tuple[float, float]
    camera: Matrix | None
    synthetic: bool
    camera_declared: Matrix | None = None
    registration: Mapping[str, Any] | None = None


def views_from_json(content: Mapping[str, Mapping[str, Any]]) -> dict[str, StoredView]:
    return {
        name: StoredView(**{key: as_tuples(value) for key, value in view.items()}) for name, view in content.items()
    }


def xray_of(case: StoredCase, view: str = "") -> StoredView:
    """The frontal X-ray of a case, or a further one; KeyError where it has none of that name."""
    if view:
        return case.views[view]
    return StoredView(case.xray_source, case.xray_kind, case.xray_percentiles, case.xray_camera, case.xray_synthetic)


def kind_of(view: str, kind: str) -> str:
    """Of an X-ray in the manifest: views do not share an intensity scale."""
    return f"{view} {kind}" if view else kind


def film_of(view: str, film: Film) -> Film:
    """How a further X-ray was taken where its file does not tell; `film` tells it of the frontal one."""
    return Film("ll", film.source_mm, film.patient_mm) if view == LATERAL else film


def xray_ranges(cases: Iterable[StoredCase]) -> dict[str, tuple[float, float]]:
    """(low, high) of each kind of X-ray: the medians of its images' percentiles."""
    by_kind: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        for xray in (xray_of(case), *case.views.values()):
            by_kind.setdefault(xray.kind, []).append(xray.percentiles)
    return {
        kind: (median(low for low, _ in pairs), median(high for _, high in pairs))
        for kind, pairs in sorted(by_kind.items())
    }


def range_of(xray: StoredView, ranges: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """(low, high) by which an X-ray is scaled: those of its kind, or its own percentiles where its kind has none."""
    return ranges.get(xray.kind, xray.percentiles)


def as_tuples(value: Any) -> Any:
    return tuple(as_tuples(item) for item in value) if isinstance(value, list) else value
