"""Evaluations of the same patients, side by side: `python -m evaluation.compare RUN_A RUN_B [RUN ...]`."""

import argparse
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from common.errors import UserError
from evaluation.controls import Estimate, mean_of

log = logging.getLogger(__name__)
_ALIKE = ("split", "hu_window", "grid")  # settings without which numbers mean different things


@dataclass(frozen=True)
class Paired:
    """One number of two runs over the cases that both have it of.

    patients: whose cases these are. first, second: means over the cases. difference: the first run's minus the
    second's, case by case, with its interval over patients. p: of Wilcoxon's signed-rank test of the patients' means,
    two-sided; None where no patient differs.
    """

    name: str
    patients: int
    first: float
    second: float
    difference: Estimate
    p: float | None


def paired(first: Mapping[str, Any], second: Mapping[str, Any], seed: int = 0) -> list[Paired]:
    """Every number that both evaluations have of the same cases.

    Args:
        first, second: what two metrics.json hold.

    Raises:
        UserError: split, HU window or grid differ, or no case is in both.
    """
    for name in _ALIKE:
        a, b = (run["settings"].get(name) for run in (first, second))
        if a != b and None not in (a, b):  # CTs of another system, in files, have no split
            raise UserError(
                f"runs can be compared that were evaluated alike, but {name} is {a} in one and {b} in the other;"
                " evaluate one of them again as the other was"
            )
    one, other = (dict(zip(run["scores"], run["cases"], strict=True)) for run in (first, second))
    cases = [case for case in one if case in other]
    if not cases:
        raise UserError("runs can be compared that evaluated the same patients; these have none in common")
    owners = {case: case for case in cases} | second.get("patients", {}) | first.get("patients", {})
    found = []
    for name in dict.fromkeys(name for case in cases for name in one[case]):
        pairs = {case: (one[case].get(name), other[case].get(name)) for case in cases}
        known = {case: pair for case, pair in pairs.items() if None not in pair}  # infinite ones are stored so
        if known:
            values, whose = np.array(list(known.values()), dtype=np.float64), [owners[case] for case in known]
            by = values[:, 0] - values[:, 1]
            each = _by_patient(by, whose)
            p = float(wilcoxon(each).pvalue) if each.any() else None
            a, b = (float(mean) for mean in values.mean(0))
            found.append(Paired(name, len(each), a, b, mean_of(by, whose, seed), p))
    return found


def _by_patient(values: NDArray[np.float64], owners: Sequence[str]) -> NDArray[np.float64]:
    """The mean of each patient's values: studies of one patient are alike, and count once."""
    _, which, counts = np.unique(owners, return_inverse=True, return_counts=True)
    return np.bincount(which, weights=values) / counts


def means(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    """Of every number that all runs have, the mean of each run over the cases of which all have it."""
    cases = [dict(zip(run["scores"], run["cases"], strict=True)) for run in runs.values()]
    found = {}
    for name in dict.fromkeys(name for numbers in cases[0].values() for name in numbers):
        rows = [[of.get(case, {}).get(name) for of in cases] for case in cases[0]]
        known = [row for row in rows if None not in row]
        if known:
            found[name] = [float(mean) for mean in np.mean(known, axis=0)]
    return found


def as_table(table: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """One number a line, one run a column."""
    width = max(10, *map(len, names)) + 2
    lines = [" " * 26 + "".join(f"{name:>{width}}" for name in names)]
    return "\n".join(lines + [f"{name:26}" + "".join(f"{v:{width}.4g}" for v in row) for name, row in table.items()])


def as_text(rows: Sequence[Paired]) -> str:
    """A table, one number a line."""
    head = f"{'':26}{'patients':>9}{'first':>11}{'second':>11}{'difference':>12}"
    lines = [f"{head}  {'95 % interval':25}p (Wilcoxon)"]
    for row in rows:
        by = row.difference
        between = "–" if by.low is None or by.high is None else f"{by.low:.4g} to {by.high:.4g}"
        p = "–" if row.p is None or math.isnan(row.p) else f"{row.p:.2g}"
        numbers = f"{row.patients:9}{row.first:11.4g}{row.second:11.4g}{by.value:12.4g}"
        lines.append(f"{row.name:26}{numbers}  {between:25}{p}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the run_dir of an evaluation, two or more")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    paths = parser.parse_args().runs
    if len(paths) < 2:
        parser.error("two evaluations or more can be compared, got one")
    try:
        runs = {str(path): json.loads((path / "metrics.json").read_text("utf-8")) for path in paths}
        first, *others = runs
        if len(others) > 1:
            log.info(as_table(means(runs), list(runs)))
        for other in others:
            rows = as_text(paired(runs[first], runs[other]))
            log.info(rows if len(others) == 1 else f"\n{first} beside {other}\n{rows}")
    except (UserError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
