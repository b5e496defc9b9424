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
_LINES = 50  # of the log, at most


def with_progress(items: Sequence[Item], what: str, unit: str, team: Team) -> Iterator[Item]:
    """The items, one after the other; the first process of a team says how far it is."""
    if team.rank > 0 or sys.stderr.isatty():
        yield from tqdm(items, desc=what, unit=unit, disable=team.rank > 0)
        return
    started, every = time.monotonic(), -(-len(items) // _LINES)
    for done, item in enumerate(items, start=1):
        yield item
        left = (time.monotonic() - started) / done * (len(items) - done)
        if done % every == 0 or done == len(items):
            log.info("%s: %d of %d, %s left", what, done, len(items), tqdm.format_interval(left))
