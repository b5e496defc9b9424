"""How far long work is, and how long it still takes: a bar on a terminal, lines of the log elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from common.collectives import Team

log = logging.getLogger(__name__)
Item = TypeVar("Item")
_EVERY_S = 10  # the shortest time between two lines of the log


def with_progress(items: Sequence[Item], what: str, unit: str, team: Team) -> Iterator[Item]:
    """The items, one after the other; the first process of a team says how far it is."""
    if team.rank > 0 or sys.stderr.isatty():
        yield from tqdm(items, desc=what, unit=unit, disable=team.rank > 0)
        return
    started = said = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= _EVERY_S or done == len(items):
            left, said = (now - started) / done * (len(items) - done), now
            log.info("%s: %d of %d, %s left", what, done, len(items), tqdm.format_interval(left))


class Comparing(Protocol):
    """What compares cases, each with a name, and finds again what it has compared."""

    def compared(self, case: Any, /) -> Any | None: ...

    def compare(self, case: Any, /) -> None: ...


def compare_all(comparing: Comparing, cases: Sequence[Any], what: str, unit: str, team: Team) -> None:
    """Each process compares its share of the cases that are not done yet; all wait for one another at the end."""
    todo = []
    for case in cases[team.rank :: team.size]:
        if comparing.compared(case):
            log.info("%s: evaluated before the interruption", case.name)
        else:
            todo.append(case)
    for case in with_progress(todo, what, unit, team):
        comparing.compare(case)
    team.wait()
