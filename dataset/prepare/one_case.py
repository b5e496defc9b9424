"""Prepare one case: read, check, convert, measure, store. Runs in worker processes.

Its record (dataset/store/records.py) is written last: a record means that the case is finished, for good or bad.
"""

from dataclasses import replace
from pathlib import Path

from dataset.prepare.conversion import Conversion
from dataset.prepare.examine import Examined, Pair, examine, pair_of, unreadable
from dataset.prepare.thumbnails import write_thumbnail
from dataset.store.case import Case
from dataset.store.records import (
    UNREADABLE,
    Record,
    read_record,
    remove_record,
    source_hash,
    source_stamp,
    write_record,
)
from dataset.store.store import write_square_xray, write_volume


def prepare_case(case: Case, root: Path, store: Path, conversion: Conversion) -> Record:
    """Prepare a case and write its record; what is wrong with its files, or keeps them from being read, is returned.

    Raises:
        OSError: the store cannot be written (no space left).
    """
    known, recipe = read_record(store, case.name), conversion.recipe(case)
    found: Examined | None = None
    pair: Pair | None = None
    try:
        stamp, content = source_stamp(case), source_hash(case)
        if known is not None and (known.source_hash, known.recipe) == (content, recipe):
            record = replace(known, stamp=stamp)
        else:
            found = examine(case, root, conversion)
            pair = pair_of(case, root, conversion, found, conversion.stored_hash(case, content))
            record = _record(stamp, content, recipe, found, pair)
    except (OSError, MemoryError) as error:  # not for good: disk and memory may come back
        record = Record(UNREADABLE, "", recipe, (unreadable(case, error),), None)
    if found is not None:
        write_thumbnail(store, case.name, found.volume, found.xray, None if pair is None else pair.better)
    if pair is not None:
        remove_record(store, case.name)
        write_volume(store, case.name, pair.hu, pair.entry.source_hash)
        for name, square in pair.squares.items():
            write_square_xray(store, case.name, square, pair.entry.source_hash, name)
    write_record(store, case.name, record)
    return record


def _record(stamp: str, content: str, recipe: str, found: Examined, pair: Pair | None) -> Record:
    """What reading and checking a case told."""
    entry, problems = (None, ()) if pair is None else (pair.entry, pair.problems)
    looks = found.ct_content, found.xray_content, found.ct_look, found.xray_look
    sketch = "" if pair is None else pair.sketch
    return Record(stamp, content, recipe, found.problems + problems, entry, *looks, sketch)
