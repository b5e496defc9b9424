"""Prepare one case: read, check, convert, measure, store. Runs in worker processes.

Its record (dataset/records.py) is written last: a record means that the case is finished, for good or bad.
"""

from dataclasses import replace
from pathlib import Path

from dataset.case import Case
from dataset.conversion import Conversion
from dataset.examine import examine, pair_of, unreadable
from dataset.records import UNREADABLE, Record, read_record, source_hash, source_stamp, write_record
from dataset.store import write_square_xray, write_volume
from dataset.thumbnails import write_thumbnail


def prepare_case(case: Case, root: Path, store: Path, conversion: Conversion) -> Record:
    """Prepare a case and write its record; what is wrong with its files is returned, not raised.

    Raises:
        OSError: the store cannot be written (no space left).
    """
    recipe = conversion.recipe(case)
    try:
        stamp, content = source_stamp(case), source_hash(case)
    except OSError as error:  # not for good: the disk may come back
        record = Record(UNREADABLE, "", recipe, (unreadable(case, error),), None)
    else:
        known = read_record(store, case.patient_id)
        if known is not None and (known.source_hash, known.recipe) == (content, recipe):
            record = replace(known, stamp=stamp)
        else:
            record = _prepare(case, root, store, conversion, Record(stamp, content, recipe, (), None))
    write_record(store, case.patient_id, record)
    return record


def _prepare(case: Case, root: Path, store: Path, conversion: Conversion, record: Record) -> Record:
    """`record` with what reading, checking and storing the case told."""
    found = examine(case, root, conversion)
    write_thumbnail(store, case.patient_id, found.volume, found.xray)
    pair = pair_of(case, root, conversion, found, conversion.stored_hash(case, record.source_hash))
    if pair is not None:
        write_volume(store, case.patient_id, pair.hu)
        write_square_xray(store, case.patient_id, pair.square)
    return replace(
        record,
        problems=found.problems,
        stored=None if pair is None else pair.entry,
        ct_content=found.ct_content,
        xray_content=found.xray_content,
    )
