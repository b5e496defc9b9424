"""What preparing found, for people: STORE/report.txt and STORE/report.html."""

import logging
from collections.abc import Sequence
from pathlib import Path

from common.atomic import write_text
from dataset.prepare.checks import format_problems
from dataset.prepare.report_page import report_page
from dataset.store.case import Problem
from dataset.store.store import StoredCase

REPORT = "report.txt"
REPORT_PAGE = "report.html"

_log = logging.getLogger(__name__)


def write_reports(store: Path, cases: Sequence[StoredCase], problems: Sequence[Problem]) -> None:
    """Write both, each under a temporary name first. `cases` are the good ones."""
    write_text(store / REPORT, summary(store, len(cases), problems) + "\n")
    write_text(store / REPORT_PAGE, report_page(store, cases, problems))
    _log.info("%d good cases, %d problems; to look at: %s", len(cases), len(problems), store / REPORT_PAGE)


def summary(store: Path, num_good: int, problems: Sequence[Problem]) -> str:
    """The plain report: counts, then a table of the problems."""
    if not problems:
        return f"{num_good} good cases, no problems."
    bad = len({problem.patient_id for problem in problems if problem.fatal})
    head = f"{num_good} good cases, {bad} left out, {len(problems)} problems (also in {store / REPORT}):"
    return f"{head}\n\n{format_problems(problems)}"
