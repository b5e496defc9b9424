"""The cases of a data set on disk, and everything that is wrong with it, found before anything is read."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dataset.split import SPLITS

CASE_TABLE = "pairs.csv"
CT_PATTERNS = ("{id}.nii.gz", "{id}.nii")
_SAFE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_REQUIRED = ("patient_id", "ct", "xray")


@dataclass(frozen=True)
class Case:
    """One patient's pair. `target` is the label, `split` the user's own choice; None where not given."""

    patient_id: str
    ct: Path
    xray: Path | None
    target: float | None
    split: str | None


@dataclass(frozen=True)
class Problem:
    """Something wrong with a case: the rule, what was found instead, and what to do.

    A problem that is not `fatal` is reported, but the case is used.
    """

    patient_id: str
    path: str
    rule: str
    found: str
    remedy: str
    fatal: bool = True


def find_cases(
    root: Path | str, ct_pattern: str | None, xray_pattern: str, store: Path | None = None
) -> tuple[list[Case], list[Problem]]:
    """The cases under `root`, ordered by id, and all problems together; a case with a problem is left out.

    `root/pairs.csv` (patient_id, ct, xray[, target][, split], paths relative to root), else one folder per
    patient, in which the patterns name CT and X-ray; they may hold wildcards and `{id}`, the folder's name.
    Without `ct_pattern` the CT is {id}.nii.gz, {id}.nii or the only folder (of DICOM slices). A `store` that
    lies among the patients is passed over.

    Raises:
        FileNotFoundError: no such folder. ValueError: pairs.csv lacks a column, or there is no case folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset.root must be a folder, got {root}. Set dataset.root=FOLDER.")
    if (root / CASE_TABLE).is_file():
        cases, problems = _from_table(root)
    else:
        cases, problems = _from_folders(root, ct_pattern, xray_pattern, store)
    problems += _unsafe_ids(cases) + _shared_ids(cases) + _shared_files(cases, root)
    bad = {problem.patient_id for problem in problems}
    good = [case for case in cases if case.patient_id not in bad]
    return sorted(good, key=lambda case: case.patient_id), sorted(problems, key=lambda p: (p.patient_id, p.path))


def _from_table(root: Path) -> tuple[list[Case], list[Problem]]:
    table = root / CASE_TABLE
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            columns, rows = reader.fieldnames or [], list(reader)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{table}: not a comma-separated UTF-8 table ({error}). Export it as CSV.") from None
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise ValueError(
            f"{table}: needs the columns {', '.join(_REQUIRED)}, separated by commas; got {columns}."
            f" Add {', '.join(missing)}."
        )
    cases: list[Case] = []
    problems: list[Problem] = []
    for line, row in enumerate(rows, start=2):
        found = _row_problems(row, root, f"{CASE_TABLE} row {line}")
        problems += found
        if not found:
            cases.append(_row_case(row, root))
    return cases, problems


def _row_case(row: dict[str, str], root: Path) -> Case:
    cell = {name: (value or "").strip() for name, value in row.items() if name is not None}
    target, split = cell.get("target"), cell.get("split")
    number = float(target) if target else None
    return Case(cell["patient_id"], root / cell["ct"], root / cell["xray"], number, split or None)


def _row_problems(row: dict[str, str], root: Path, where: str) -> list[Problem]:
    problems = []
    patient_id = (row["patient_id"] or "").strip() or f"({where})"
    for column in _REQUIRED:
        value = (row[column] or "").strip()
        if not value:
            problems.append(
                Problem(
                    patient_id,
                    where,
                    f"needs a value for {column}",
                    "an empty cell",
                    "Fill it or remove the row.",
                )
            )
        elif column != "patient_id" and not _exists(root / value):
            problems.append(
                Problem(
                    patient_id,
                    value,
                    f"the {column} file exists",
                    "no such file",
                    f"Correct the path in {where}.",
                )
            )
    target, split = (row.get("target") or "").strip(), (row.get("split") or "").strip()
    if target and not _is_number(target):
        problems.append(
            Problem(
                patient_id,
                where,
                "target is a number or empty",
                repr(target),
                "Write 0 or 1, or leave it empty.",
            )
        )
    if split and split not in SPLITS:
        problems.append(
            Problem(patient_id, where, f"split is one of {', '.join(SPLITS)} or empty", repr(split), "Correct it.")
        )
    return problems


def _from_folders(
    root: Path, ct_pattern: str | None, xray_pattern: str, store: Path | None
) -> tuple[list[Case], list[Problem]]:
    passed_over = None if store is None else store.resolve()
    folders = sorted(
        f for f in root.iterdir() if not f.name.startswith(".") and f.is_dir() and f.resolve() != passed_over
    )
    if not folders:
        raise ValueError(f"{root}: needs {CASE_TABLE} or one folder per patient, found neither. Check dataset.root.")
    cases: list[Case] = []
    problems: list[Problem] = []
    for folder in folders:
        ct, ct_problems = _one_ct(folder, ct_pattern)
        xray, xray_problems = _the_one(folder, [xray_pattern], "X-ray", "dataset.xray_pattern")
        problems += ct_problems + xray_problems
        if ct is not None and xray is not None:
            cases.append(Case(folder.name, ct, xray, None, None))
    return cases, problems


def _one_ct(folder: Path, pattern: str | None) -> tuple[Path | None, list[Problem]]:
    if pattern is not None:
        return _the_one(folder, [pattern], "CT", "dataset.ct_pattern")
    subfolders = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return _the_one(folder, [*CT_PATTERNS, *subfolders], "CT", "dataset.ct_pattern")


def _the_one(folder: Path, patterns: list[str], what: str, key: str) -> tuple[Path | None, list[Problem]]:
    names = [pattern.replace("{id}", folder.name) for pattern in patterns]
    matches = sorted({match for name in names for match in folder.glob(name)})
    if len(matches) == 1:
        return matches[0], []
    found = "none" if not matches else f"{len(matches)}: " + ", ".join(m.name for m in matches[:4])
    remedy = f"Add it, or set {key}." if not matches else f"Keep one, or narrow {key}."
    return None, [Problem(folder.name, f"{folder.name}/{names[0]}", f"one {what} per patient", found, remedy)]


def _unsafe_ids(cases: Iterable[Case]) -> list[Problem]:
    rule, remedy = "ids are letters, digits, '.', '_' and '-' (they name files)", "Rename the patient."
    return [
        Problem(case.patient_id, case.ct.name, rule, repr(case.patient_id), remedy)
        for case in cases
        if not _SAFE_ID.fullmatch(case.patient_id)
    ]


def _shared_ids(cases: Iterable[Case]) -> list[Problem]:
    """Ids used twice, also by names that differ in case only: some file systems hold them for the same."""
    same: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        same[case.patient_id.lower()].append(case)
    rule, remedy = "one row per patient_id (capitals do not count)", "Keep one pair per patient."
    return [
        Problem(case.patient_id, case.ct.name, rule, f"{len(group)} rows", remedy)
        for group in same.values()
        if len(group) > 1
        for case in group
    ]


def _shared_files(cases: Iterable[Case], root: Path) -> list[Problem]:
    users: dict[Path, list[str]] = defaultdict(list)
    for case in cases:
        for path in (case.ct, case.xray):
            if path is not None:
                users[path].append(case.patient_id)
    return [
        Problem(
            patient,
            relative_to(root, path),
            "a file belongs to one patient",
            f"used by {', '.join(ids)}",
            "Correct it.",
        )
        for path, ids in users.items()
        if len(set(ids)) > 1
        for patient in ids
    ]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a loop of links, a folder that may not be entered
        return False


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def relative_to(root: Path, path: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
