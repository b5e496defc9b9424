"""What a training has seen, as its checkpoints remember it: nobody is judged by CTs that the weights have learned from.

Ids would not do: another hospital's `p001` is somebody else.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError
from dataset.store.store import StoredCase
from pipeline.checkpoints.description import ModelDescription

DIGITS = 12  # hexadecimal: of 10,000 and 10,000 cases, two share them with a chance of 1 in a million
NAMED = 3


def mark(case: StoredCase) -> str:
    """Of a case, in every store that is prepared from its files alike; nothing of the patient can be read from it."""
    return hashlib.sha256(f"seen {case.source_hash}".encode()).hexdigest()[:DIGITS]


def marks(cases: Iterable[StoredCase]) -> list[str]:
    """Of some cases, ordered."""
    return sorted(map(mark, cases))


def seen_in_training(description: ModelDescription, cases: Iterable[StoredCase]) -> list[str]:
    """The patients of those cases that a training has learned from, ordered."""
    known = set(description.trained_on or ())
    return sorted({case.patient_id for case in cases if mark(case) in known})


def check_unseen(description: ModelDescription, cases: Iterable[StoredCase], source: str | Path) -> None:
    """UserError where a training has learned from cases that are now held out.

    Those of the split "train" may be seen: whoever asks for them knows.

    Args:
        description: of the checkpoint `source`.
    """
    held_out = [case for case in cases if case.split != "train"]
    seen = seen_in_training(description, held_out)
    if seen:
        raise UserError(
            f"{source} was trained on {len(seen)} of the {len({case.patient_id for case in held_out})} patients that are"
            f" held out here ({', '.join(seen[:NAMED])}): it would be judged by what it has learned. Give the store and"
            " the fold that it was trained with, or patients that it has not seen"
        )
