"""k-fold splits: of k stores each validates on another part of the patients and trains on the others."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import UserError
from dataset.store.split_file import first_shares


@dataclass(frozen=True)
class Folds:
    """Of `folds` parts of the patients, part `fold` validates.

    A patient's part follows from the id alone, so it is the same in every store, with other patients and on every
    machine; the parts are about equally large.
    """

    folds: int
    fold: int

    def __post_init__(self) -> None:
        if self.folds < 2 or not 0 <= self.fold < self.folds:
            raise UserError(
                f"dataset.fold is a number from 0 to below dataset.folds, which is 2 or more,"
                f" got dataset.folds={self.folds} dataset.fold={self.fold}"
            )

    def __str__(self) -> str:
        return f"{self.fold}/{self.folds}"

    def assign(self, ids: Iterable[str], told: Mapping[str, str]) -> dict[str, str]:
        """Split of every id. `told`, a `split` column, may name a test set, which is then in no fold.

        Raises:
            UserError: another split that is told; nobody to train on or to validate on.
        """
        ids = set(ids)
        against = sorted(name for name in ids & told.keys() if told[name] != "test")
        if against:
            raise UserError(
                f"dataset.folds={self.folds} decides who trains and who validates, but the column 'split' of pairs.csv"
                f" does for {len(against)} patients ({', '.join(against[:3])}): empty it there (it may hold test only),"
                " or leave out dataset.folds and dataset.fold"
            )
        assigned = {
            name: told.get(name) or ("val" if _part(name, self.folds) == self.fold else "train") for name in ids
        }
        if ids and not {"train", "val"} <= set(assigned.values()):
            raise UserError(
                f"{len(ids)} patients fill fold {self.fold} of {self.folds} not at all, or alone; take fewer folds"
            )
        return assigned

    def told(self) -> str:
        """The settings that give it."""
        return f"dataset.folds={self.folds} dataset.fold={self.fold}"


def check_folds(store: Path, folds: Folds | None) -> None:
    """UserError if the patients of `store` were split in another way: as another fold, or by shares."""
    first = first_shares(store)
    wanted = None if folds is None else asdict(folds)
    if first is None or first == wanted or (wanted is None and "folds" not in first):
        return
    was = (
        Folds(int(first["folds"]), int(first["fold"])).told()
        if "folds" in first
        else f"dataset.split={json.dumps(first)}"
    )
    asked = "no dataset.folds" if folds is None else folds.told()
    raise UserError(
        f"the patients of {store} were split by {was}, and stay where they are; got {asked}."
        " Each fold has a store of its own: give another dataset.store, or the settings of this one"
    )


def _part(name: str, folds: int) -> int:
    return int.from_bytes(hashlib.sha256(f"fold {name}".encode()).digest()[:8], "big") % folds
