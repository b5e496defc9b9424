"""One self-contained HTML page for an evaluation: numbers, controls, cases, pictures, settings."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from common.notice import NOTICE
from common.page import html_page
from evaluation.anatomy import OVER_CASES
from evaluation.controls import CONTROLS, FEWEST_FOR_INTERVAL, ControlScores, Estimate
from evaluation.summary import Findings

_NAMES = {"psnr": "PSNR, dB", "ssim": "SSIM", "hu_mae": "mean |error|, HU"}


@dataclass(frozen=True)
class CaseRow:
    """One case of the report: its numbers (column -> value) and its page of pictures, where there is one."""

    patient_id: str
    numbers: Mapping[str, object]
    picture: Image.Image | None = None


def report_html(title: str, findings: Findings, cases: Sequence[CaseRow], settings: Mapping[str, object]) -> str:
    """The page's text. It loads nothing from elsewhere and runs no script.

    Args:
        settings: what the numbers depend on: window, spacing, checkpoint and its hash, sampler, versions;
            groups within it appear as `group.name`.
    """
    names = list(dict.fromkeys(name for case in cases for name in case.numbers))
    drawn = (
        ("lung volume correlation", findings.lungs),
        ("likeness of the projection", findings.projection),
        ("own X-ray found", findings.found),
    )
    return html_page(
        Path(__file__).with_suffix(".html.j2"),
        title=title,
        notice=NOTICE,
        verdict=findings.verdict,
        scores=[_scores(name, scores) for name, scores in findings.scores.items()],
        drawn=[[label, *(show(by.get(name)) for name in ("right", "wrong", "null"))] for label, by in drawn],
        regions_head=("", *OVER_CASES),
        regions=[
            [region if who == "right" else f"{region}, {who}", *(show(by.get(key)) for key in OVER_CASES)]
            for who, regions in findings.anatomy.items()
            for region, by in regions.items()
        ],
        vessels_head=("vessels of", *next(iter(findings.vessels.values()), {})),
        vessels=[
            ["drawn CT" if who == "right" else who, *map(show, by.values())] for who, by in findings.vessels.items()
        ],
        textures=_pairs(findings.textures),
        num_cases=len(cases),
        fewest=FEWEST_FOR_INTERVAL,
        names=("patient", *names),
        cases=[[case.patient_id, *(show(case.numbers.get(name)) for name in names)] for case in cases],
        settings=_pairs(settings),
        pictures=[(case.patient_id, _png(case.picture)) for case in cases if case.picture is not None],
    )


def show(value: object) -> str:
    """A value as the page prints it: 24.43, 0.7876, with its interval 24.43 (23.1 to 25.2), a dash for nothing."""
    if isinstance(value, Estimate):
        return show(value.value) + ("" if value.low is None else f" ({show(value.low)} to {show(value.high)})")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:.4g}" if isinstance(item, float) else show(item) for item in value)
    return str(value)


def _pairs(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{name}.")
        else:
            yield prefix + name, show(value)


def _scores(name: str, scores: ControlScores) -> list[str]:
    score, _, preset = name.partition(" ")
    means = (scores.means.get(who) for who in ("right", *CONTROLS, "codec"))
    differences = (scores.differences.get(who) for who in CONTROLS)
    return [f"{_NAMES[score]} {preset}".strip(), *map(show, (*means, *differences))]


def _png(picture: Image.Image) -> bytes:
    stream = BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
