"""A data set on disk -> a store that training reads (dataset/store.py). Parallel and resumable."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from dataset.atomic import write_text
from dataset.cases import Case, Problem, find_cases, relative_to
from dataset.checks import format_problems, shared_content
from dataset.prepare_case import Record, fresh_record, prepare_case
from dataset.processes import single_threaded, without_script
from dataset.split import assign_splits
from dataset.store import StoredCase, write_manifest

XRAY_PATTERN = "*_pa_drr.png"
SHARES: Mapping[str, float] = {"train": 0.8, "val": 0.2}
REPORT = "report.txt"
_SPLITS_FILE = "splits.json"  # every assignment ever made, also of cases that are not in the manifest now

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareReport:
    """The cases of the manifest, all problems found, and how many cases were prepared anew in this run."""

    cases: list[StoredCase]
    problems: list[Problem]
    prepared: int


def prepare(
    root: Path | str,
    store: Path | str,
    ct_pattern: str | None = None,
    xray_pattern: str = XRAY_PATTERN,
    num_workers: int = 0,
    shares: Mapping[str, float] = SHARES,
    strict: bool = False,
) -> PrepareReport:
    """Check every case under `root` and store the good ones; run it again to continue or to add cases.

    Bad cases stay out of the manifest; `store/report.txt` lists every problem of the data set. A case whose
    sources have not changed is not prepared again.

    Args:
        num_workers: processes; 0 works in this one.
        shares: target shares of the splits; a `split` column of pairs.csv wins.
        strict: raise on any problem.

    Raises:
        FileNotFoundError: no such root.
        ValueError: no good case, or any problem if `strict`; holds the table.
    """
    root, store = Path(root), Path(store)
    cases, problems = find_cases(root, ct_pattern, xray_pattern, store)
    records, prepared = _records(cases, root, store, num_workers)
    problems += [problem for record in records.values() for problem in record.problems]
    problems += _duplicates(records)
    bad = {problem.patient_id for problem in problems if problem.fatal}
    good = [case for case in cases if case.patient_id not in bad]
    problems.sort(key=lambda problem: (problem.patient_id, problem.path))
    _write_report(store, len(good), problems)
    if not good or (strict and problems):
        raise ValueError(_summary(store, len(good), problems))
    stored = _manifest(good, records, root, store, shares)
    return PrepareReport(stored, problems, prepared)


def _records(cases: Sequence[Case], root: Path, store: Path, num_workers: int) -> tuple[dict[str, Record], int]:
    """The record of every case by id, and how many were made now."""
    records: dict[str, Record] = {}
    remaining = []
    for case in cases:
        known = fresh_record(case, store)
        if known is None:
            remaining.append(case)
        else:
            records[case.patient_id] = known
    results = _in_pool if num_workers > 0 else _in_process
    for patient_id, record in _with_progress(results(remaining, root, store, num_workers), len(remaining)):
        records[patient_id] = record
    return records, len(remaining)


def _in_process(cases: Sequence[Case], root: Path, store: Path, _: int) -> Iterator[tuple[str, Record]]:
    for case in cases:
        yield case.patient_id, prepare_case(case, root, store)


def _in_pool(cases: Sequence[Case], root: Path, store: Path, num_workers: int) -> Iterator[tuple[str, Record]]:
    work = partial(prepare_case, root=root, store=store)
    context = get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(cases) or 1), mp_context=context) as pool:
        with single_threaded(), without_script():
            futures = {pool.submit(work, case): case.patient_id for case in cases}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise RuntimeError(
                "a preparation process was killed, most likely for want of memory (each needs about four"
                f" times the size of a volume); got num_workers={num_workers}. Lower it and run this again:"
                " finished cases are kept."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _with_progress(results: Iterator[tuple[str, Record]], total: int) -> Iterator[tuple[str, Record]]:
    """A bar on a terminal, else about ten log lines."""
    if sys.stderr.isatty():
        yield from tqdm(results, total=total, desc="preparing", unit="case")
        return
    every = max(1, total // 10)
    for done, result in enumerate(results, start=1):
        if done % every == 0 or done == total:
            _log.info("prepared %d of %d cases", done, total)
        yield result


def _duplicates(records: Mapping[str, Record]) -> list[Problem]:
    cts = [(name, record.ct_content) for name, record in records.items() if record.ct_content]
    xrays = [(name, record.xray_content) for name, record in records.items() if record.xray_content]
    return shared_content(cts, "CT") + shared_content(xrays, "X-ray")


def _manifest(
    good: Sequence[Case], records: Mapping[str, Record], root: Path, store: Path, shares: Mapping[str, float]
) -> list[StoredCase]:
    ledger = store / _SPLITS_FILE
    known = json.loads(ledger.read_text(encoding="utf-8")) if ledger.is_file() else {}
    known |= {case.patient_id: case.split for case in good if case.split is not None}
    assigned = assign_splits([case.patient_id for case in good], known, shares)
    write_text(ledger, json.dumps(known | assigned, indent=1, sort_keys=True) + "\n")
    stored = [_entry(case, records[case.patient_id], assigned[case.patient_id], root) for case in good]
    write_manifest(store, stored)
    return stored


def _entry(case: Case, record: Record, split: str, root: Path) -> StoredCase:
    if record.stored is None or case.xray is None:
        raise ValueError(f"{case.patient_id} has no problem, yet nothing is stored")
    return replace(
        record.stored,
        split=split,
        target=case.target,
        ct_source=relative_to(root, case.ct),
        xray_source=relative_to(root, case.xray),
    )


def _write_report(store: Path, num_good: int, problems: Sequence[Problem]) -> None:
    write_text(store / REPORT, _summary(store, num_good, problems) + "\n")


def _summary(store: Path, num_good: int, problems: Sequence[Problem]) -> str:
    if not problems:
        return f"{num_good} good cases, no problems."
    bad = len({problem.patient_id for problem in problems if problem.fatal})
    head = f"{num_good} good cases, {bad} left out, {len(problems)} problems (also in {store / REPORT}):"
    return f"{head}\n\n{format_problems(problems)}"
