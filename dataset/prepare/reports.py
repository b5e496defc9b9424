"""What preparing found, for people: STORE/report.txt, and report.html, which shows what is in a data set."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from common.atomic import write_text
from common.page import html_page
from dataset.prepare.checks import format_problems
from dataset.prepare.thumbnails import thumbnail_path
from dataset.scans.measure import HU_PERCENTILES
from dataset.store.case import Problem
from dataset.store.store import StoredCase

REPORT = "report.txt"
REPORT_PAGE = "report.html"
_MAX_PROBLEM_PICTURES = 100  # a picture takes about 30 kB
_MAX_GOOD_PICTURES = 24

_log = logging.getLogger(__name__)


def write_reports(store: Path, cases: Sequence[StoredCase], problems: Sequence[Problem]) -> None:
    """Write both, each under a temporary name first. `cases` are the good ones."""
    write_text(store / REPORT, summary(store, len(cases), problems) + "\n")
    write_text(store / REPORT_PAGE, report_page(store, cases, problems))
    count = sum(not problem.note for problem in problems)
    _log.info("%d good cases, %d problems; to look at: %s", len(cases), count, store / REPORT_PAGE)


def summary(store: Path, num_good: int, problems: Sequence[Problem]) -> str:
    """The plain report: counts, then a table of the problems."""
    if not problems:
        return f"{num_good} good cases, no problems."
    bad = len({problem.patient_id for problem in problems if problem.fatal})
    notes = sum(problem.note for problem in problems)
    counted = f"{len(problems) - notes} problems" + f", {notes} notes" * bool(notes)
    head = f"{num_good} good cases, {bad} left out, {counted} (also in {store / REPORT}):"
    return f"{head}\n\n{format_problems(problems)}"


def report_page(store: Path, cases: Sequence[StoredCase], problems: Sequence[Problem]) -> str:
    """The page's text. It loads nothing from elsewhere and runs no script; pictures lie within it.

    Args:
        cases: the good ones.
        problems: of all cases, in the order to show them.
    """
    shown, omitted = _with_pictures(store, problems)
    spread = cases[:: -(-len(cases) // _MAX_GOOD_PICTURES) or 1]  # evenly over the ids
    return html_page(
        Path(__file__).with_name("report.html.j2"),
        title="Data report",
        summary=_summary_rows(cases, problems),
        rules=Counter(problem.rule for problem in problems).most_common(),
        problems=shown,
        omitted=omitted,
        gallery=[(case, png) for case in spread if (png := _picture(store, case.name))],
        num_cases=len(cases),
    )


def _summary_rows(cases: Sequence[StoredCase], problems: Sequence[Problem]) -> list[tuple[str, object]]:
    bad = {problem.patient_id for problem in problems if problem.fatal}
    rows: list[tuple[str, object]] = [
        ("good cases", len(cases)),
        ("left out", len(bad)),
        ("problems found", sum(not problem.note for problem in problems)),
        ("notes", sum(problem.note for problem in problems)),
    ]
    if not cases:
        return rows
    percentiles = zip(*(case.hu_percentiles for case in cases), strict=True)
    hu = [f"{_number(p)} %: {median(values):.0f}" for p, values in zip(HU_PERCENTILES, percentiles, strict=True)]
    return [
        *rows,
        ("splits", _counts(case.split for case in cases)),
        ("labels (target)", _counts("none" if c.target is None else _number(c.target) for c in cases)),
        ("voxels (foot-head, front-back, right-left)", _triples(case.shape for case in cases)),
        ("voxel size in mm, same order", _triples(case.spacing for case in cases)),
        ("HU percentiles, median over the cases", ", ".join(hu)),
        ("orientation of the files", _counts(case.source_axes for case in cases)),
        ("kinds of X-ray", _counts(case.xray_kind for case in cases)),
        ("X-rays projected from a CT", sum(case.xray_synthetic for case in cases)),
        ("X-rays whose place in the patient is known", sum(c.xray_camera is not None for c in cases)),
        ("found on the CT of their pair", sum(c.registration is not None and c.registration["ok"] for c in cases)),
    ]


def _with_pictures(store: Path, problems: Sequence[Problem]) -> tuple[list[tuple[Problem, bytes]], int]:
    """Every problem, the first of a case with its picture; how many pictures were left out."""
    shown, seen, pictures, omitted = [], set(), 0, 0
    for problem in problems:
        png = b"" if problem.patient_id in seen else _picture(store, problem.patient_id)
        seen.add(problem.patient_id)
        if png and pictures == _MAX_PROBLEM_PICTURES:
            png, omitted = b"", omitted + 1
        pictures += bool(png)
        shown.append((problem, png))
    return shown, omitted


def _picture(store: Path, patient_id: str) -> bytes:
    """The case's picture; nothing if none was made, or the id is no file name."""
    path = thumbnail_path(store, patient_id)
    return path.read_bytes() if path.parent == store / "thumbnails" and os.path.isfile(path) else b""


def _counts(values: Iterable[str]) -> str:
    return ", ".join(f"{value}: {count}" for value, count in sorted(Counter(values).items()))


def _triples(values: Iterable[Sequence[float]]) -> str:
    """Smallest, middle and largest per axis."""
    axes = [sorted(axis) for axis in zip(*values, strict=True)]
    return "; ".join(
        f"{name} " + " × ".join(_number(choose(axis)) for axis in axes)
        for name, choose in (("smallest", min), ("median", median), ("largest", max))
    )


def _number(value: float) -> str:
    return f"{value:.4g}"
