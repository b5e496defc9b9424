"""The cases of a data set on disk, and everything that is wrong with it, found before anything is read."""

import os
import re
from collections.abc import Iterable, Sequence
from glob import escape
from operator import itemgetter
from pathlib import Path

from common.errors import UserError
from dataset.prepare.case_table import CASE_TABLE, cases_of_table
from dataset.scans.dicom_file import holds_dicom
from dataset.scans.formats import SUFFIXES
from dataset.scans.xray_files import is_image, name_of
from dataset.store.case import Case, Problem, is_view, relative_to, sharing


def _in_any_case(suffix: str) -> str:
    """A pattern: ".nii" -> ".[nN][iI][iI]"."""
    return "".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in suffix)


CT_PATTERNS = ("{id}.nii.gz", "{id}", *("{id}" + _in_any_case(suffix) for suffix in SUFFIXES))
_LONGEST_ID = 200  # of the 255 that a file's name may have; suffixes and marks follow
_SAFE_ID = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{_LONGEST_ID - 1}}}")


def find_cases(
    root: Path | str,
    ct_pattern: str | None,
    xray_pattern: str,
    store: Path | None = None,
    make_xray: bool = False,
) -> tuple[list[Case], list[Problem]]:
    """The cases under `root`, ordered by name, and all problems together; a case with a problem is left out.

    `root/pairs.csv` (dataset/prepare/case_table.py) tells them, else one folder per patient, in which the patterns
    name CT and X-ray; they may hold wildcards and `{id}`, the folder's name. Further X-rays are lateral.* and xray_2.*
    there. Without `ct_pattern` the CT is {id} with a
    suffix of a CT's (in any case) or none, or the only folder that holds DICOM files. `store`, and other stores that
    lie among the patients, are passed over. With `make_xray` a CT needs no X-ray: its case has None.

    Raises:
        FileNotFoundError: no such folder. ValueError: pairs.csv lacks a column, there is no case folder, or a pattern
            leads out of it.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"dataset.root must be a folder, got {root}. Set dataset.root=FOLDER.")
    if (root / CASE_TABLE).is_file():
        cases, problems = cases_of_table(root, make_xray)
        problems += _unnamed_folders(root, cases, ct_pattern, store)
    else:
        cases, problems = _from_folders(root, ct_pattern, xray_pattern, store, make_xray)
    problems += _unsafe_ids(cases) + _shared_ids(cases) + _shared_files(cases, root) + _odd_files(cases, root)
    bad = {problem.patient_id for problem in problems}
    good = [case for case in cases if case.name not in bad]
    return sorted(good, key=lambda case: case.name), sorted(problems, key=lambda p: (p.patient_id, p.path))


def _from_folders(
    root: Path, ct_pattern: str | None, xray_pattern: str, store: Path | None, make_xray: bool
) -> tuple[list[Case], list[Problem]]:
    for key, pattern in (("ct_pattern", ct_pattern), ("xray_pattern", xray_pattern)):
        if pattern is not None and (not pattern or Path(pattern).is_absolute()):
            raise UserError(f"dataset.{key} is a pattern within a patient's folder, like *.png; got {pattern!r}")
    visible, folders = _visible(root, store)
    if not folders:
        raise UserError(f"{root}: needs {CASE_TABLE} or one folder per patient, found neither. Check dataset.root.")
    cases: list[Case] = []
    problems = [_dead_link(f) for f in visible if f.is_symlink() and not f.is_dir() and not f.is_file()]
    for folder in folders:
        try:
            cts, ct_name = _matches(folder, _ct_patterns(folder, ct_pattern))
            xrays, xray_name = _matches(folder, [xray_pattern])
            xrays = [path for path in xrays if not is_view(name_of(path))]
        except OSError as error:
            problems.append(_unreadable(folder, error))
            continue
        if len(cts) != 1:
            only = " (an X-ray without a CT)" if xrays else ""
            problems.append(_not_one(folder, cts, ct_name, "CT", "dataset.ct_pattern", only))
        if len(xrays) > 1 or (not xrays and not make_xray):
            only = " (a CT without an X-ray)" if cts else ""
            problems.append(_not_one(folder, xrays, xray_name, "X-ray", "dataset.xray_pattern", only))
        elif len(cts) == 1:
            views, twice = _views(folder)
            problems += twice
            cases.append(Case(folder.name, cts[0], xrays[0] if xrays else None, None, None, views=views))
    return cases, problems


def _views(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Further X-rays of a patient, and those that are there twice."""
    images = sorted(path for path in folder.iterdir() if is_view(name_of(path)) and is_image(path))
    views = {name_of(path): path for path in images}
    return views, [
        _not_one(folder, group, f"{name_of(group[0])}.*", "X-ray of each view", "the others", "")
        for group in sharing(images, name_of)
    ]


def _visible(root: Path, store: Path | None) -> tuple[list[Path], list[Path]]:
    """What lies under the root, and of that the folders that are no store."""
    passed_over = None if store is None else store.resolve()
    visible = sorted(f for f in root.iterdir() if not f.name.startswith("."))
    return visible, [f for f in visible if f.is_dir() and f.resolve() != passed_over and not _is_store(f)]


def _unnamed_folders(root: Path, cases: Sequence[Case], ct_pattern: str | None, store: Path | None) -> list[Problem]:
    """Folders of patients, by their CT, that no row of the table leads into."""
    paths = [p for case in cases for p in case.files if p.is_relative_to(root)]
    named = {path.relative_to(root).parts[0] for path in paths}
    others = [f.name for f in _visible(root, store)[1] if f.name not in named and _holds_ct(f, ct_pattern)]
    if not others:
        return []
    rule = f"{CASE_TABLE} names every pair, as where there is one, folders do not"
    found = f"{len(others)} folders with a CT that it does not name: {', '.join(others[:4])}"
    remedy = f"{CASE_TABLE} was taken. Add rows for them; remove it to take the folders."
    return [Problem(f"({CASE_TABLE})", CASE_TABLE, rule, found, remedy, fatal=False, note=True)]


def _holds_ct(folder: Path, ct_pattern: str | None) -> bool:
    try:
        return bool(_matches(folder, [ct_pattern] if ct_pattern else CT_PATTERNS)[0])
    except OSError:
        return False


def _is_store(folder: Path) -> bool:
    """Whether it is a prepared data set (dataset/store/store.py), finished or not."""
    return os.path.isfile(folder / "manifest.jsonl") or all(os.path.isdir(folder / n) for n in ("cases", "volumes"))


def _ct_patterns(folder: Path, pattern: str | None) -> list[str]:
    if pattern is not None:
        return [pattern]
    subfolders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if len(subfolders) > 1:  # the viewer of a CD lies beside the images
        subfolders = [path for path in subfolders if holds_dicom(path)] or subfolders
    return [*CT_PATTERNS, *(escape(path.name) for path in subfolders)]


def _matches(folder: Path, patterns: Sequence[str]) -> tuple[list[Path], str]:
    """The files that match, and the name that was looked for first."""
    names = [pattern.replace("{id}", escape(folder.name)) for pattern in patterns]
    matches = {match for name in names for match in folder.glob(name)}
    return sorted(matches), patterns[0].replace("{id}", folder.name)


def _not_one(folder: Path, matches: list[Path], name: str, what: str, key: str, only: str) -> Problem:
    if matches:
        found, remedy = f"{len(matches)}: " + ", ".join(m.name for m in matches[:4]), f"Keep one, or narrow {key}."
    else:
        found, remedy = f"none{only}", f"Add it, or set {key}."
    return Problem(folder.name, f"{folder.name}/{name}", f"one {what} per patient", found, remedy)


def _unreadable(folder: Path, error: OSError) -> Problem:
    found = error.strerror or type(error).__name__
    return Problem(folder.name, folder.name, "a patient's folder can be read", found, "Check its permissions.")


def _dead_link(path: Path) -> Problem:
    rule, found = "a link leads to a patient's folder", "a link to nothing or to itself"
    return Problem(path.name, path.name, rule, found, "Correct or remove it.")


def _unsafe_ids(cases: Iterable[Case]) -> list[Problem]:
    rule = f"ids are letters, digits, '.', '_' and '-', at most {_LONGEST_ID} (they name files)"
    remedy = "Rename the patient."
    return [
        Problem(case.name, case.ct.name, rule, repr(case.name), remedy)
        for case in cases
        if not _SAFE_ID.fullmatch(case.name)
    ]


def _odd_files(cases: Iterable[Case], root: Path) -> list[Problem]:
    """Pipes and devices, which would never end; a folder where a picture should be."""
    rule, remedy = "a CT is a file or a folder of slices, an X-ray is a file", "Put the file itself there."
    return [
        Problem(case.name, relative_to(root, path), rule, "something else", remedy)
        for case in cases
        for path in case.files
        if not (os.path.isfile(path) or (path == case.ct and os.path.isdir(path)))
    ]


def _shared_ids(cases: Sequence[Case]) -> list[Problem]:
    """Rows that nothing tells apart, patients whose ids differ in capitals only, and those on two sides of a split."""
    by_patient = sharing(cases, lambda case: case.patient_id.lower())
    alike = [group for group in by_patient if len({case.patient_id for case in group}) > 1]
    written = {case.patient_id for group in alike for case in group}
    same = [group for group in sharing(cases, lambda c: c.name.lower()) if group[0].patient_id not in written]
    halved = [group for group in by_patient if len({case.split for case in group} - {None}) > 1]
    twice = [group for group in sharing(cases, lambda case: (case.patient_id, case.ct, case.xray)) if group not in same]
    return [
        Problem(case.name, case.ct.name, rule, found(group), remedy)
        for groups, rule, found, remedy in (
            (same, "each row is another study of its patient", _rows, "Keep one, or name them in a column 'study_id'."),
            (twice, "each row is another study of its patient", _rows, "Keep one."),
            (alike, "capitals do not tell patients apart", _ids, "Write the patient's id alike, or another one."),
            (halved, "a patient lies in one split only", _splits, "Keep all studies of a patient in one split."),
        )
        for group in groups
        for case in group
    ]


def _rows(group: list[Case]) -> str:
    return f"{len(group)} rows"


def _ids(group: list[Case]) -> str:
    return " and ".join(sorted({case.patient_id for case in group}))


def _splits(group: list[Case]) -> str:
    return f"{len(group)} rows, in {' and '.join(sorted({case.split for case in group if case.split is not None}))}"


def _shared_files(cases: Iterable[Case], root: Path) -> list[Problem]:
    rule, remedy = "a file belongs to one patient", "Correct it."
    uses = [(path, case) for case in cases for path in case.files]
    return [
        Problem(case.name, relative_to(root, path), rule, "used by " + ", ".join(c.name for _, c in group), remedy)
        for group in sharing(uses, itemgetter(0))
        if len({user.patient_id for _, user in group}) > 1 or len({user.name for _, user in group}) == 1
        for path, case in group
    ]
