"""pairs.csv -> cases, and what is wrong with its rows."""

import csv
from collections import Counter
from math import isfinite
from pathlib import Path

from common.errors import UserError
from dataset.prepare.columns import KEPT, check_columns
from dataset.scans.lost_affine import told_affine
from dataset.store.case import Case, Problem, case_name, is_view
from dataset.store.split import SPLITS

CASE_TABLE = "pairs.csv"
_SEPARATORS = ",;\t"  # the first of those that the header holds most often
_SURPLUS = "(surplus)"
_FRONTAL = {"", "ap", "pa"}
_VIEWS = _FRONTAL | {"lateral", "ll", "rl", "lat"}


def cases_of_table(root: Path, make_xray: bool) -> tuple[list[Case], list[Problem]]:
    """The cases of `root/pairs.csv` (columns: dataset/prepare/columns.py), paths relative to `root`.

    Several rows of one patient are studies: `study_id` names them; without it the second is 2, and so on. With
    `make_xray` the column or the cell of the X-ray may be left out.

    Raises:
        ValueError: not a table, or columns are missing or nearly those that are read.
    """
    table = root / CASE_TABLE
    required = ("patient_id", "ct") if make_xray else ("patient_id", "ct", "xray")
    rows, own = _read_rows(table, required)
    cases: list[Case] = []
    problems: list[Problem] = []
    if own:
        rule, found = "columns are those that docs/data.md lists", f"of your own: {', '.join(own)}"
        remedy = "Nothing: the manifest keeps them."
        problems.append(Problem(f"({CASE_TABLE})", CASE_TABLE, rule, found, remedy, fatal=False, note=True))
    seen: Counter[str] = Counter()
    for line, row in enumerate(rows, start=2):
        if not any(row.values()):  # spreadsheets write such rows after the last one
            continue
        if not row.get("study_id"):
            seen[row["patient_id"]] += 1
            row["study_id"] = str(seen[row["patient_id"]]) if seen[row["patient_id"]] > 1 else ""
        wrong = _row_problems(row, root, f"{CASE_TABLE} row {line}", required)
        problems += wrong
        if not wrong:
            cases.append(_row_case(row, root, own))
    return cases, problems


def _read_rows(table: Path, required: tuple[str, ...]) -> tuple[list[dict[str, str]], list[str]]:
    """Every row as column -> cell as it was meant, absent cells empty, surplus ones as `_SURPLUS`; the names of columns
    that are the user's own.
    """
    with table.open(newline="", encoding="utf-8-sig") as file:
        try:
            first = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, strict=True, delimiter=max(_SEPARATORS, key=first.count))
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = list(reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{table}: not a comma-separated UTF-8 table ({error}). Export it as CSV.") from None
    own = check_columns(table, columns, required)
    for row in rows:
        row[_SURPLUS] = "".join(row.pop(None, []))
    return [{name: _cell(value) for name, value in row.items()} for row in rows], own


def _cell(value: str | None) -> str:
    """Without spaces around it, and without what Excel is told by that a number is text: ="001"."""
    text = (value or "").strip()
    return text[2:-1] if text.startswith('="') and text.endswith('"') and len(text) > 3 else text


def _path(root: Path, text: str) -> Path:
    """Of a file; with the separators of Windows only where none is there by that name."""
    path = root / text
    return root / text.replace("\\", "/") if "\\" in text and not _exists(path) else path


def _row_case(row: dict[str, str], root: Path, own: list[str]) -> Case:
    xray, target, split, series, offset = (
        row.get(name) or None for name in ("xray", "target", "split", "series", "hu_offset")
    )
    return Case(
        row["patient_id"],
        _path(root, row["ct"]),
        None if xray is None else _path(root, xray),
        None if target is None else float(target),
        split,
        series,
        None if offset is None else float(offset),
        row["study_id"],
        {name: row[name] for name in (*KEPT, *own) if row.get(name)},
        {name: _path(root, path) for name, path in row.items() if is_view(name) and path},
        row.get("axes") or None,
    )


def _row_problems(row: dict[str, str], root: Path, where: str, required: tuple[str, ...]) -> list[Problem]:
    name = case_name(row["patient_id"], row["study_id"]) if row["patient_id"] else f"({where})"
    problems = []

    def report(path: str, rule: str, found: str, remedy: str) -> None:
        problems.append(Problem(name, path, rule, found, remedy))

    for column in ("patient_id", "ct", "xray", *filter(is_view, row)):
        value = row.get(column, "")
        if not value and column in required:
            remedy = "Fill it or remove the row."
            report(where, f"needs a value for {column}", f"an empty cell{_other_side(row, column)}", remedy)
        elif value and column != "patient_id" and not _exists(_path(root, value)):
            report(value, f"the {column} file exists", "no such file", f"Correct the path in {where}.")
    if row[_SURPLUS]:
        remedy = 'Put cells that hold a separator between quotes ("a,b").'
        report(where, "a row has no more cells than there are columns", repr(row[_SURPLUS]), remedy)
    target, split, view = (row.get(column, "") for column in ("target", "split", "view"))
    if target and not _is_share(target):
        report(where, "target is a number in [0, 1] or empty", repr(target), "Write 1 for yes, 0 for no, or nothing.")
    if split and split not in SPLITS:
        report(where, f"split is one of {', '.join(SPLITS)} or empty", repr(split), "Correct it.")
    if view.lower() not in _VIEWS:
        report(where, "view is AP, PA, LATERAL or empty", repr(view), "Correct it.")
    elif view.lower() not in _FRONTAL:
        report(where, "xray is the frontal view", f"view {view!r}", "Give the PA or AP view; the other as 'lateral'.")
    for column, meaning in (("hu_offset", "what is to be added to reach HU"), ("days_between", "days, CT to X-ray")):
        if (value := row.get(column, "")) and not _is_finite(value):
            report(where, f"{column} is a number or empty", repr(value), f"Write {meaning}.")
    try:
        told_affine(row.get("axes") or "LPS")
    except UserError as error:
        report(where, "axes is as RAS or 'LPS 0.7x0.7x1.5', or empty", repr(row["axes"]), str(error))
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
