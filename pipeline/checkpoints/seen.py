"""Whom a training has seen, as its checkpoints remember it: nobody is judged by patients that it learned from."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError
from dataset.store.store import StoredCase
from pipeline.checkpoints.description import ModelDescription

DIGITS = (
    8  # two of 10,000 patients share them with a chance of 1 %; they tell a known id, and no id can be read from them
)
NAMED = 3


def mark(patient_id: str) -> str:
    """Of a patient, in every store and on every machine; capitals do not tell patients apart."""
    return hashlib.sha256(f"patient {patient_id.lower()}".encode()).hexdigest()[:DIGITS]


def marks(cases: Iterable[StoredCase]) -> list[str]:
    """Of the patients of some cases, ordered."""
    return sorted({mark(case.patient_id) for case in cases})


def seen_in_training(description: ModelDescription, cases: Iterable[StoredCase]) -> list[str]:
    """The patients among some cases that a training has learned from, ordered."""
    known = set(description.trained_on or ())
    return sorted({case.patient_id for case in cases if mark(case.patient_id) in known})


def check_unseen(description: ModelDescription, cases: Iterable[StoredCase], source: str | Path) -> None:
    """UserError for patients that a training has learned from, where they are now held out of it.

    Cases of the split "train" may be seen: whoever asks for them knows.

    Args:
        description: of the checkpoint `source`.
    """
    held_out = [case for case in cases if case.split != "train"]
    seen = seen_in_training(description, held_out)
    if seen:
        raise UserError(
            f"{source} was trained on {len(seen)} of the {len({case.patient_id for case in held_out})} patients that are"
            f" held out here ({', '.join(seen[:NAMED])}): it would be judged by what it has learned. Give the store and the"
            " fold that it was trained with, or patients that it has not seen"
        )
