"""The columns of pairs.csv: those that are read, those kept as they are, and names that were meant to be others."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from common.errors import UserError
from dataset.store.case import is_view

COLUMNS = (
    "patient_id", "study_id", "ct", "xray", "lateral", "target", "split", "series", "hu_offset", "axes", "view",
    "days_between",
)  # fmt: skip
KEPT = ("view", "days_between")  # for the manifest alone
_MEANT = {
    "split": ("fold", "set", "subset", "partition", "dataset", "phase"),
    "target": ("label", "labels", "class", "y", "pe"),
    "patient_id": ("patient", "patientid", "id", "subject", "subject_id", "pid"),
    "study_id": ("study", "studyid", "accession"),
    "xray": ("cxr", "x_ray", "film", "radiograph"),
    "ct": ("cta", "ctpa", "volume"),
}
_ALIKE = 0.8  # of difflib's ratio


def check_columns(table: Path, columns: Sequence[str], required: Sequence[str]) -> list[str]:
    """Names of the user's own columns.

    Raises:
        UserError: a required column is missing, one stands there twice, or one is no column but nearly.
    """
    meant = {name: right for name in columns if (right := _meant(name)) is not None}
    if meant:
        told = ", ".join(f"{name!r} (for {right!r})" for name, right in meant.items())
        raise UserError(
            f"{table}: the columns are {', '.join(COLUMNS)}, and any of your own; got {told}, which would not be read."
            " Write the right name; rename a column that is your own."
        )
    missing = [name for name in required if name not in columns]
    if missing:
        raise UserError(
            f"{table}: needs the columns {', '.join(required)}, separated by commas; got {list(columns)}."
            f" Add {', '.join(missing)}."
        )
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise UserError(f"{table}: each column stands there once, got {', '.join(twice)} again. Remove or rename one.")
    return [name for name in columns if name and name not in COLUMNS and not is_view(name)]


def _meant(name: str) -> str | None:
    """The column that `name` was meant to be, if it is none."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    if name in COLUMNS or is_view(name) or not plain:
        return None
    found = [right for right, others in _MEANT.items() if plain in others]
    found = found or get_close_matches(plain, COLUMNS, 1, _ALIKE)
    return found[0] if found else None
