"""STORE/splits.json: every assignment ever made, also of cases that are not in the manifest now. STORE/shares.json:
the shares, or the fold, by which the first were made."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from common.atomic import write_text
from common.json_file import read_json

_SPLITS, _SHARES = "splits.json", "shares.json"
TO_SPLIT_ANEW = f"to split all anew, remove {_SPLITS} from the store and run prepare_data.py with other dataset.split"
_RESTORE = f"Restore it from a copy of the store; else, {TO_SPLIT_ANEW}."
_log = logging.getLogger(__name__)


def read_splits(store: Path) -> dict[str, str]:
    """The split of every patient that ever had one; empty before the first preparation."""
    path = store / _SPLITS
    return read_json(path, _RESTORE) if path.is_file() else {}


def write_splits(store: Path, splits: Mapping[str, str], shares: Mapping[str, float]) -> None:
    """Keep these assignments, and the shares if they are the first."""
    if not (store / _SPLITS).is_file():
        write_text(store / _SHARES, json.dumps(dict(shares)) + "\n")
    write_text(store / _SPLITS, json.dumps(splits, indent=1, sort_keys=True) + "\n")


def first_shares(store: Path) -> dict[str, float] | None:
    """The shares, or the fold, by which the patients of a store were split first; None where none were."""
    known = (store / _SPLITS).is_file() and (store / _SHARES).is_file()
    return read_json(store / _SHARES, "Remove it.") if known else None


def warn_of_other_shares(store: Path, shares: Mapping[str, float]) -> None:
    """Say that other shares than the first leave the patients where they are."""
    first = first_shares(store)
    if first is not None and first != dict(shares):
        _log.warning(
            "dataset.split=%s, but the patients of %s were split by %s and stay where they are: other shares count for"
            " patients that are added; %s",
            json.dumps(dict(shares)),
            store,
            json.dumps(first),
            TO_SPLIT_ANEW,
        )
