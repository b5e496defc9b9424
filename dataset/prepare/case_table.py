"""pairs.csv -> cases, and what is wrong with its rows."""

import csv
from math import isfinite
from pathlib import Path

from common.errors import UserError
from dataset.store.case import Case, Problem
from dataset.store.split import SPLITS

CASE_TABLE = "pairs.csv"


def cases_of_table(root: Path, make_xray: bool) -> tuple[list[Case], list[Problem]]:
    """The cases of `root/pairs.csv`: patient_id, ct, xray[, target][, split][, series][, hu_offset], paths
    relative to `root`.

    With `make_xray` the column or the cell of the X-ray may be left out.

    Raises:
        ValueError: not a table, or a column is missing.
    """
    table = root / CASE_TABLE
    required = ("patient_id", "ct") if make_xray else ("patient_id", "ct", "xray")
    cases: list[Case] = []
    problems: list[Problem] = []
    for line, row in enumerate(_read_rows(table, required), start=2):
        if not any(row.values()):  # spreadsheets write such rows after the last one
            continue
        found = _row_problems(row, root, f"{CASE_TABLE} row {line}", required)
        problems += found
        if not found:
            cases.append(_row_case(row, root))
    return cases, problems


def _read_rows(table: Path, required: tuple[str, ...]) -> list[dict[str, str]]:
    """Every row as column -> stripped cell; absent cells are empty."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            columns, rows = reader.fieldnames or [], list(reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{table}: not a comma-separated UTF-8 table ({error}). Export it as CSV.") from None
    missing = [name for name in required if name not in columns]
    if missing:
        raise UserError(
            f"{table}: needs the columns {', '.join(required)}, separated by commas; got {columns}."
            f" Add {', '.join(missing)}."
        )
    return [{name: (value or "").strip() for name, value in row.items() if name is not None} for row in rows]


def _row_case(row: dict[str, str], root: Path) -> Case:
    xray, target, split, series, offset = (
        row.get(name) or None for name in ("xray", "target", "split", "series", "hu_offset")
    )
    return Case(
        row["patient_id"],
        root / row["ct"],
        None if xray is None else root / xray,
        None if target is None else float(target),
        split,
        series,
        None if offset is None else float(offset),
    )


def _row_problems(row: dict[str, str], root: Path, where: str, required: tuple[str, ...]) -> list[Problem]:
    patient_id = row["patient_id"] or f"({where})"
    problems = []

    def report(path: str, rule: str, found: str, remedy: str) -> None:
        problems.append(Problem(patient_id, path, rule, found, remedy))

    for column in ("patient_id", "ct", "xray"):
        value = row.get(column, "")
        if not value and column in required:
            remedy = "Fill it or remove the row."
            report(where, f"needs a value for {column}", f"an empty cell{_other_side(row, column)}", remedy)
        elif value and column != "patient_id" and not _exists(root / value):
            report(value, f"the {column} file exists", "no such file", f"Correct the path in {where}.")
    target, split = row.get("target", ""), row.get("split", "")
    if target and not _is_share(target):
        report(where, "target is a number in [0, 1] or empty", repr(target), "Write 1 for yes, 0 for no, or nothing.")
    if split and split not in SPLITS:
        report(where, f"split is one of {', '.join(SPLITS)} or empty", repr(split), "Correct it.")
    offset = row.get("hu_offset", "")
    if offset and not _is_finite(offset):
        report(where, "hu_offset is a number or empty", repr(offset), "Write what is to be added to reach HU.")
    return problems


def _other_side(row: dict[str, str], column: str) -> str:
    sides = {"ct": (row.get("xray"), " (an X-ray without a CT)"), "xray": (row["ct"], " (a CT without an X-ray)")}
    other, text = sides.get(column, ("", ""))
    return text if other else ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a loop of links, a folder that may not be entered
        return False


def _is_share(text: str) -> bool:
    return _is_finite(text) and 0 <= float(text) <= 1


def _is_finite(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False
