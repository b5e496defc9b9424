"""Pairs read from their own files, without a prepared store: the reference for what a store holds. Slow."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.recent import Recent
from dataset.prepare.cases import find_cases
from dataset.prepare.checks import format_problems
from dataset.prepare.conversion import MEDIAN, OFF, Conversion
from dataset.prepare.examine import Examined, Pair, entry_of, examine, pair_of, unreadable
from dataset.prepare.leaks import leaks
from dataset.prepare.run import SHARES, UNCHANGED, XRAY_PATTERN
from dataset.store.case import Case
from dataset.store.folds import Folds
from dataset.store.records import source_hash
from dataset.store.split import assign_splits
from dataset.store.store import Store, StoredCase, quantised

_PAIRS_KEPT = 2  # decoded volumes in memory, per process

_log = logging.getLogger(__name__)


class FileStore(Store):
    """What `VolumeStore` gives of a store that was prepared at once and with the same settings, bit for bit.

    Every case is read once to begin with, and again whenever it is not among the last two; nothing is written.
    Problems of the data are logged; bad cases are left out. Nothing remembers the splits either: where cases are
    added or taken away between two runs, others may change theirs, unless a `split` column of pairs.csv says it.

    Args:
        root: of the pairs. The others are those of `dataset.prepare.run.prepare`.

    Raises:
        FileNotFoundError: no such root. ValueError: no good case, or a spacing that only a store remembers.
    """

    def __init__(
        self,
        root: Path | str,
        ct_pattern: str | None = None,
        xray_pattern: str = XRAY_PATTERN,
        shares: Mapping[str, float] = SHARES,
        conversion: Conversion = UNCHANGED,
        folds: Folds | None = None,
    ) -> None:
        if conversion.spacing == MEDIAN:
            raise UserError("dataset.spacing=median is chosen once per store; without one, give the spacing in mm")
        root, self._conversion = Path(root), conversion
        sources, problems = find_cases(root, ct_pattern, xray_pattern, make_xray=bool(conversion.make_xray))
        found: dict[str, Examined] = {}
        entries: dict[str, StoredCase] = {}
        for case in tqdm(sources, desc="reading", unit="case", disable=None):
            found[case.name], pair = _look_at(case, root, conversion)
            if pair is not None:
                entries[case.name] = pair.entry
        problems += [problem for one in found.values() for problem in one.problems] + leaks(found, sources)
        bad = {problem.patient_id for problem in problems if problem.fatal}
        self._sources = {case.name: case for case in sources if case.name not in bad}
        if problems:
            _log.warning("%d problems in %s:\n%s", len(problems), root, format_problems(problems))
        if not self._sources:
            raise UserError(f"no good case in {root}:\n{format_problems(problems)}")
        good = [self._sources[name] for name in sorted(self._sources)]
        told = {case.patient_id: case.split for case in good if case.split}
        ids = [case.patient_id for case in good]
        splits = assign_splits(ids, told, shares) if folds is None else folds.assign(ids, told)
        cases = [entry_of(case, entries[case.name], splits[case.patient_id], root) for case in good]
        super().__init__(root, cases if folds is None else [replace(case, fold=str(folds)) for case in cases])
        self._pairs: Recent[Pair] = Recent(_PAIRS_KEPT)

    def _volume(self, case: StoredCase) -> np.ndarray:
        return self._pair(case).hu

    def _square(self, case: StoredCase, view: str) -> np.ndarray:
        return quantised(self._pair(case).squares[view])

    def _pair(self, case: StoredCase) -> Pair:
        return self._pairs.get(case.name, lambda: self._read(case))

    def _read(self, case: StoredCase) -> Pair:
        known = replace(self._conversion, register_films=False, pair_check=OFF)
        _, pair = _look_at(self._sources[case.name], self.folder, known)
        if pair is None or pair.entry.source_hash != case.source_hash:
            raise UserError(f"the files of {case.name} in {self.folder} have changed since they were checked")
        pair.hu.setflags(write=False)
        return pair


def _look_at(case: Case, root: Path, conversion: Conversion) -> tuple[Examined, Pair | None]:
    try:
        content = source_hash(case)
        found = examine(case, root, conversion)
        pair = pair_of(case, root, conversion, found, conversion.stored_hash(case, content))
    except (OSError, MemoryError) as error:
        return Examined(None, None, (unreadable(case, error),)), None
    problems = found.problems + (() if pair is None else pair.problems)
    return replace(found, volume=None, xray=None, problems=problems), pair
