"""How far long work is, and how long it still takes: a bar on a terminal, lines of the log elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

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
