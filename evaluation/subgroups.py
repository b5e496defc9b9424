"""Numbers of an evaluation by groups of cases: by sex, by view, by scanner, whatever the data set tells."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from common.errors import UserError
from evaluation.controls import mean_of

UNKNOWN = "not known"
_MOST_GROUPS = 6  # a column of more different numbers is cut in thirds


def groups_of(column: str, told: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each case the group that it is of; numbers of more than six different values are cut in thirds.

    Args:
        told: of each case what is known, by column.

    Raises:
        UserError: no case has a value in that column.
    """
    values = [str(case[column]).strip() if case.get(column) not in (None, "") else UNKNOWN for case in told]
    known = sorted(set(values) - {UNKNOWN})
    if not known:
        columns = sorted({name for case in told for name, value in case.items() if value not in (None, "")})
        raise UserError(
            f"subgroups are by columns of pairs.csv in which these cases have values: {', '.join(columns) or 'none'};"
            f" got {column}"
        )
    numbers = [_number(value) for value in values]
    if len(known) <= _MOST_GROUPS or any(_number(value) is None for value in known):
        return values
    low, high = np.quantile([number for number in numbers if number is not None], [1 / 3, 2 / 3])
    names = (f"up to {low:g}", f"{low:g} to {high:g}", f"above {high:g}")
    return [UNKNOWN if n is None else names[int(n > low) + int(n > high)] for n in numbers]


def subgroups(
    columns: Sequence[str],
    told: Sequence[Mapping[str, Any]],
    numbers: Sequence[Mapping[str, float]],
    patients: Sequence[str],
    seed: int = 0,
) -> dict[str, dict[str, dict[str, Any]]]:
    """By column and group: `cases`, `patients`, and of every number the mean over the group with its interval
    (`value`, `low`, `high`).

    Args:
        told: see `groups_of`. numbers: of each case. patients: of each. seed: of the bootstrap.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for column in columns:
        groups = groups_of(column, told)
        found[column] = {}
        for group in sorted(set(groups)):
            members = [i for i, name in enumerate(groups) if name == group]
            row: dict[str, Any] = {"cases": len(members), "patients": len({patients[i] for i in members})}
            for name in dict.fromkeys(name for i in members for name in numbers[i]):
                have = [i for i in members if name in numbers[i] and math.isfinite(numbers[i][name])]
                if have:
                    row[name] = asdict(mean_of([numbers[i][name] for i in have], [patients[i] for i in have], seed))
            found[column][group] = row
    return found


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
