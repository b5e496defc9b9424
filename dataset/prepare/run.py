"""A data set on disk -> a store that training reads (dataset/store/store.py). Parallel, resumable, on many machines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from common.atomic import remove_abandoned
from common.errors import UserError
from common.locks import exclusive
from dataset.prepare.cases import find_cases
from dataset.prepare.conversion import Conversion, with_known_spacing
from dataset.prepare.conversion_file import warn_of_change, write_conversion
from dataset.prepare.examine import entry_of
from dataset.prepare.leaks import leaks
from dataset.prepare.leftovers import settle
from dataset.prepare.one_case import prepare_case
from dataset.prepare.partners import with_partners
from dataset.prepare.processes import results_of
from dataset.prepare.reports import summary, write_reports
from dataset.prepare.shards import Shard
from dataset.store.case import Case, Problem
from dataset.store.folds import Folds, check_folds
from dataset.store.records import Record, fresh_record
from dataset.store.split import assign_splits
from dataset.store.split_file import read_splits, warn_of_other_shares, write_splits
from dataset.store.store import StoredCase, write_manifest

XRAY_PATTERN = "*_pa_drr.png"
SHARES: Mapping[str, float] = {"train": 0.8, "val": 0.2}
UNCHANGED = Conversion()
_MERGE_LOCK = ".prepare.lock"
Work = Callable[[Case], Record]


@dataclass(frozen=True)
class PrepareReport:
    """What a run found.

    cases: those of the manifest. problems: all of the data set. prepared: how many cases were prepared anew.
    missing: cases that other shards have not finished; while there are any, this run wrote no manifest, `cases` is
        empty and `problems` are those known so far.
    """

    cases: list[StoredCase]
    problems: list[Problem]
    prepared: int
    missing: int = 0


def prepare(
    root: Path | str,
    store: Path | str,
    ct_pattern: str | None = None,
    xray_pattern: str = XRAY_PATTERN,
    num_workers: int = 0,
    shares: Mapping[str, float] = SHARES,
    strict: bool = False,
    conversion: Conversion = UNCHANGED,
    shard: Shard | None = None,
    folds: Folds | None = None,
    prune: bool = False,
) -> PrepareReport:
    """Check every case under `root` and store the good ones; run it again to continue or to add cases.

    Bad cases stay out of the manifest; `store/report.txt` and `report.html` show every problem of the data set. A
    case whose sources and conversion have not changed is not prepared again.

    Args:
        num_workers: processes; 0 works in this one.
        shares: target shares of the splits; a `split` column of pairs.csv wins.
        folds: which part of the patients validates, in place of `shares`.
        strict: raise on any problem that is no note (of parts, the one that ends last).
        conversion: what changes on the way: spacing, crop, X-rays projected where there are none.
        shard: the part of the cases to prepare here. The part that ends last writes manifest and reports, for all.
        prune: remove what the store holds of cases that `root` no longer names.

    Raises:
        FileNotFoundError: no such root.
        ValueError: no good case, or any problem if `strict`; holds the table.
        OSError: the store cannot be written (no space left).
    """
    root, store = Path(root), Path(store)
    check_folds(store, folds)
    cases, problems = find_cases(root, ct_pattern, xray_pattern, store, bool(conversion.make_xray))
    conversion = with_known_spacing(conversion, cases, store)
    warn_of_change(store, conversion)
    if folds is None:
        warn_of_other_shares(store, shares)
    work = partial(prepare_case, root=root, store=store, conversion=conversion)
    records, prepared = _records(cases if shard is None else shard.share(cases), store, conversion, work, num_workers)
    with exclusive(store / _MERGE_LOCK):
        missing = 0 if shard is None else _add_others(records, cases, store, conversion)
        problems += [problem for record in records.values() for problem in record.problems]
        problems = with_partners(problems, records, cases)
        problems = sorted(problems + leaks(records, cases), key=lambda problem: (problem.patient_id, problem.path))
        if missing:
            return PrepareReport([], problems, prepared, missing)
        remove_abandoned(store)
        stored = _finish(cases, problems, records, root, store, shares if folds is None else folds, strict)
        write_conversion(store, conversion)
        settle(store, cases, problems, prune)
    return PrepareReport(stored, problems, prepared)


def _records(
    cases: Sequence[Case], store: Path, conversion: Conversion, work: Work, num_workers: int
) -> tuple[dict[str, Record], int]:
    """The record of every case by id, and how many were made now."""
    records: dict[str, Record] = {}
    remaining = []
    for case in cases:
        known = fresh_record(case, store, conversion.recipe(case))
        if known is None:
            remaining.append(case)
        else:
            records[case.name] = known
    for case, record in results_of(work, remaining, num_workers, "prepared %d of %d cases"):
        records[case.name] = record
    return records, len(remaining)


def _add_others(records: dict[str, Record], cases: Sequence[Case], store: Path, conversion: Conversion) -> int:
    """Add what other shards have recorded; how many cases are still missing."""
    for case in cases:
        if case.name not in records:
            found = fresh_record(case, store, conversion.recipe(case), tried=True)
            if found is not None:
                records[case.name] = found
    return len(cases) - len(records)


def _finish(
    cases: Sequence[Case],
    problems: Sequence[Problem],
    records: Mapping[str, Record],
    root: Path,
    store: Path,
    shares: Mapping[str, float] | Folds,
    strict: bool,
) -> list[StoredCase]:
    """Write reports, splits and manifest from the records of all cases."""
    bad = {problem.patient_id for problem in problems if problem.fatal}
    good = [case for case in cases if case.name not in bad]
    told = {case.patient_id: case.split for case in good if case.split is not None}
    known, ids = read_splits(store) | told, [case.patient_id for case in good]
    assigned = shares.assign(ids, told) if isinstance(shares, Folds) else assign_splits(ids, known, shares)
    stored = [_entry(case, records[case.name], assigned[case.patient_id], root) for case in good]
    if isinstance(shares, Folds):
        stored = [replace(case, fold=str(shares)) for case in stored]
    write_reports(store, stored, problems)
    if not good or (strict and not all(problem.note for problem in problems)):
        raise UserError(summary(store, len(good), problems))
    write_splits(store, known | assigned, asdict(shares) if isinstance(shares, Folds) else shares)
    write_manifest(store, stored)
    return stored


def _entry(case: Case, record: Record, split: str, root: Path) -> StoredCase:
    if record.stored is None:
        raise ValueError(f"{case.name} has no problem, yet nothing is stored")
    return entry_of(case, record.stored, split, root)
