"""An evaluation's page, made of what its metrics.json holds, whatever that is."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.atomic import replacing, write_text
from common.notice import NOTICE
from common.page import html_page
from evaluation.anatomy import OVER_CASES
from evaluation.controls import CONTROLS, FEWEST_FOR_INTERVAL
from evaluation.pictures import WINDOWS
from evaluation.report.definitions import OUTSIDE, definition
from evaluation.report.volumes import FOLDER, embedded, full_size
from evaluation.serve import PAGE

Json = Mapping[str, Any]
_ASSETS = ("niivue-0.69.0.js", "niivue-LICENSE.txt", "page.js")
_NAMES = {"psnr": "PSNR, dB", "ssim": "SSIM", "hu_mae": "mean |error|, HU"}
_CONTROLS = {"wrong": "wrong X-ray", "null": "no X-ray", "mean_volume": "mean volume", "lookup": "look-up"}
_SHOWN_ABOVE = {"verdict", "summary", "controls", "settings", "cases", "scores", "definitions"}
_FIRST = ("psnr", "ssim", "hu_mae", "psnr_wrong", "psnr_null", "psnr_mean_volume")  # columns of the cases' table
_EXTREMES = 2  # best cases, and worst ones, that are shown open


def write_report(folder: Path, title: str = "X-ray → CTPA", pictured: bool = True) -> Path:
    """The page of an evaluation, from its folder's metrics.json, pictures (ID.png) and embedded volumes.

    pictured: whether the pictures of this name are its own, not those of something else in the same folder.
    """
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for name in _ASSETS:
        with replacing(folder / FOLDER / name) as temporary:
            shutil.copyfile(Path(__file__).with_name(name), temporary)
    names = (*metrics["scores"], *(Path(pair["picture"]).stem for pair in metrics.get("closest", ())))
    pictures = {name for name in names if pictured and (folder / f"{name}.png").is_file()}
    write_text(folder / PAGE, report_html(title, metrics, pictures, embedded(folder), full_size(folder)))
    return folder / PAGE


def report_html(
    title: str,
    metrics: Json,
    pictures: frozenset[str] | set[str] = frozenset(),
    volumes: Sequence[str] = (),
    full: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """The page's text. It loads files of its own folder only.

    Args:
        metrics: what metrics.json holds. Parts that this module does not know are shown as they are; numbers are
            explained by `evaluation.report.definitions`, and by the `definitions` among the metrics.
        pictures: cases, and closest pairs, that have one. volumes: cases in the viewer. full: their full-size files,
            as a server has them.
    """
    found, names = metrics["controls"], list(metrics["scores"])
    cases = dict(zip(names, metrics["cases"], strict=True))
    columns = list(dict.fromkeys(key for numbers in cases.values() for key in numbers))
    columns = [key for key in _FIRST if key in columns] + [key for key in columns if key not in _FIRST]
    explained = _Explained(metrics)
    means = [who for who in ("right", *CONTROLS, "codec") if any(who in by["means"] for by in found["scores"].values())]
    differences = [who for who in CONTROLS if any(who in by["differences"] for by in found["scores"].values())]
    drawn = (
        ("lung volume correlation", "lung_volume_correlation", found["lungs"]),
        ("likeness of the projection", "projection", found["projection"]),
        ("error of the projection", "projection_mae", found.get("projection_error", {})),
        ("own X-ray found", "own_xray_found", found["found"]),
    )
    best = sorted((name for name in names if cases[name].get("psnr") is not None), key=lambda n: -cases[n]["psnr"])
    others = {key: value for key, value in metrics.items() if key not in _SHOWN_ABOVE}
    known = {"scores", "lungs", "projection", "projection_error", "found", "textures", "anatomy", "vessels"}
    others |= {key: value for key, value in found.items() if key not in known}
    return html_page(
        Path(__file__).with_name("report.html.j2"),
        title=title,
        notice=NOTICE,
        verdict=metrics["verdict"],
        scores_head=[*("right X-ray" if who == "right" else _CONTROLS.get(who, who) for who in means)]
        + [f"right - {_CONTROLS[who].partition(' X-ray')[0]}" for who in differences],
        scores=[_scores(name, scores, means, differences) for name, scores in found["scores"].items()],
        drawn=[
            [name, label, *(show(by.get(who)) for who in ("right", "wrong", "null"))] for label, name, by in drawn if by
        ],
        regions_head=OVER_CASES,
        regions=[
            [region if who == "right" else f"{region}, {who}", *(show(by.get(key)) for key in OVER_CASES)]
            for who, regions in found.get("anatomy", {}).items()
            for region, by in regions.items()
        ],
        vessels_head=[f"vessel_{name}" for name in next(iter(found.get("vessels", {}).values()), {})],
        vessels=[
            ["drawn CT" if who == "right" else who, *map(show, by.values())]
            for who, by in found.get("vessels", {}).items()
        ],
        textures=[[name, name, show(value)] for name, value in found["textures"].items()],
        others=[section for key, value in others.items() if value for section in _sections(key, value)],
        summary=list(_summary(metrics["summary"])),
        fewest=FEWEST_FOR_INTERVAL,
        columns=columns,
        shown=min(7, len(columns)),
        cases=[
            (name, [(_sortable(own.get(key)), show(own.get(key))) for key in columns]) for name, own in cases.items()
        ],
        best=best[:_EXTREMES],
        worst=best[max(_EXTREMES, len(best) - _EXTREMES) :],
        pictures=[name for name in names if name in pictures],
        closest=[pair for pair in metrics.get("closest", ()) if Path(pair["picture"]).stem in pictures],
        quote=quote,
        show=show,
        outside=OUTSIDE,
        windows={name: (centre - width / 2, centre + width / 2) for name, (centre, width) in WINDOWS.items()},
        volumes=volumes,
        full=full or {},
        folder=FOLDER,
        settings=list(_pairs(metrics["settings"])),
        explained=explained,
    )


def show(value: object) -> str:
    """A value as the page prints it: 24.43, 0.7876, with its interval 24.43 (23.1 to 25.2), a dash for nothing."""
    if isinstance(value, Mapping) and _is_estimate(value):
        low, high = value["low"], value["high"]
        return show(value["value"]) + ("" if low is None else f" ({show(low)} to {show(high)})")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:.4g}" if isinstance(item, float) else show(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {show(item)}" for key, item in value.items())
    return str(value)


class _Explained(dict[str, str]):
    """Definitions by the names of numbers, found as the page asks for them."""

    def __init__(self, metrics: Json) -> None:
        super().__init__()
        first: Sequence[Json] = next(
            (volumes[0].get("scores", ()) for volumes in metrics["scores"].values() if volumes), ()
        )
        self._presets = {("" if i == 0 else score["preset"]): score for i, score in enumerate(first)}
        self._own = metrics.get("definitions")

    def knows(self, name: str) -> bool:
        if name not in self and (text := definition(name, self._presets, self._own)):
            self[name] = text
        return name in self

    def number(self, name: str) -> int:
        return list(self).index(name)


def _is_estimate(value: object) -> bool:
    return isinstance(value, Mapping) and set(value) == {"value", "low", "high"}


def _sortable(value: object) -> str:
    return repr(float(value)) if isinstance(value, int | float) else "" if value is None else str(value)


def _summary(summary: Json) -> Iterator[tuple[str, str]]:
    for name, value in summary.items():
        if not name.endswith("_95"):
            ends = summary.get(f"{name}_95")
            yield name, show(value) + (f" ({show(ends[0])} to {show(ends[1])})" if ends else "")


def _sections(title: str, value: Any) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of what no other section knows: tables where there are such, else names and values."""
    rows = {str(i + 1): row for i, row in enumerate(value)} if isinstance(value, list | tuple) else value
    if not isinstance(rows, Mapping):
        yield title, [], [["", show(value)]]
    elif rows and all(map(_is_group, rows.values())) and not any(_is_nested(row) for row in rows.values()):
        columns = list(dict.fromkeys(key for row in rows.values() for key in row))
        yield title, columns, [[str(name), *(show(row.get(key)) for key in columns)] for name, row in rows.items()]
    else:
        deeper = {name: item for name, item in rows.items() if _is_group(item) or _is_rows(item)}
        single = [[str(name), show(item)] for name, item in rows.items() if name not in deeper]
        if single:
            yield title, [], single
        for name, item in deeper.items():
            yield from _sections(f"{title}, {name}", item)


def _is_group(value: object) -> bool:
    return isinstance(value, Mapping) and not _is_estimate(value)


def _is_rows(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_group, value))


def _is_nested(row: Json) -> bool:
    return any(_is_group(item) or _is_rows(item) for item in row.values())


def _pairs(values: Json, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and _is_group(value):
            yield from _pairs(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", show(value)


def _scores(name: str, scores: Json, means: Sequence[str], differences: Sequence[str]) -> list[str]:
    score, _, preset = name.partition(" ")
    cells = [scores["means"].get(who) for who in means] + [scores["differences"].get(who) for who in differences]
    return [name, f"{_NAMES.get(score, score)} {preset}".strip(), *map(show, cells)]
