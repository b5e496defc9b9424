"""How the preparation of a case went: `STORE/cases/ID.json`, by which a run knows what is done and unchanged."""

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from common.atomic import write_text
from dataset.scans.formats import files_of
from dataset.scans.xray_files import sidecar_of
from dataset.store.case import Case, Problem
from dataset.store.store import StoredCase, volume_path, xray_path

RECORD_FORMAT = 10  # raise it when reading, checking or storing changes: every case is then prepared anew
UNREADABLE = ""  # the stamp of a case whose files could not be read: it is tried again
_HASH_BYTES = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """How a case went.

    stamp: names, sizes and times of the source files; source_hash: their content.
    recipe: what preparing changed of the case (dataset/prepare/conversion.py).
    stored: None if a problem is fatal. Its split, target and sources are set anew for each manifest.
    ct_content, xray_content: fingerprints of what was read, and looks, to find files of two patients.
    sketch: of X-ray and CT, to find whose X-ray it is (dataset/scans/sketch.py).
    """

    stamp: str
    source_hash: str
    recipe: str
    problems: tuple[Problem, ...]
    stored: StoredCase | None
    ct_content: str = ""
    xray_content: str = ""
    ct_look: str = ""
    xray_look: str = ""
    sketch: str = ""


def fresh_record(case: Case, store: Path, recipe: str, tried: bool = False) -> Record | None:
    """The record of an earlier run, if it was made by this recipe, the sources have not changed since and its
    files are there; with `tried` also that of a case which somebody else has just found unreadable."""
    record = read_record(store, case.name)
    if record is None or record.recipe != recipe:
        return None
    try:
        fresh = (tried and record.stamp == UNREADABLE) or record.stamp == source_stamp(case)
        return record if fresh else None
    except OSError:
        return None  # preparing it will say what is wrong


def write_record(store: Path, name: str, record: Record) -> None:
    write_text(_path(store, name), json.dumps({"format": RECORD_FORMAT} | asdict(record)))


def remove_record(store: Path, name: str) -> None:
    """To be done before the arrays that it speaks of are replaced: else it would outlive an interruption in between."""
    _path(store, name).unlink(missing_ok=True)


def read_record(store: Path, name: str) -> Record | None:
    """The record, if it is of this version and the arrays it speaks of are there; a damaged one is removed."""
    path = _path(store, name)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != RECORD_FORMAT:
            return None
        content["problems"] = tuple(Problem(**problem) for problem in content["problems"])
        if content["stored"] is not None:
            content["stored"] = StoredCase.from_json(content["stored"])
        record = Record(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s is damaged (%s: %s); its case is prepared anew", path, type(error).__name__, error)
        remove_record(store, name)
        return None
    views = () if record.stored is None else record.stored.views
    arrays = volume_path(store, name), *(xray_path(store, name, view) for view in ("", *views))
    return record if record.stored is None or all(array.is_file() for array in arrays) else None


def source_stamp(case: Case) -> str:
    """Names, sizes and times of the source files, as a hash. OSError if one cannot be reached."""
    digest = hashlib.sha256()
    for path in _source_files(case):
        state = path.stat()
        digest.update(os.fsencode(path.name) + f" {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def source_hash(case: Case) -> str:
    """SHA-256 over the names, sizes and contents of the source files. OSError if one cannot be read."""
    digest = hashlib.sha256()
    for path in _source_files(case):
        digest.update(os.fsencode(path.name) + f" {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while piece := file.read(_HASH_BYTES):
                digest.update(piece)
    return digest.hexdigest()


def _source_files(case: Case) -> list[Path]:
    """Every file that the case is read from, ordered."""
    slices = files_of(case.ct)
    sidecars = map(sidecar_of, case.xrays)
    return [*slices, *case.xrays, *filter(Path.is_file, sidecars)]


def _path(store: Path, name: str) -> Path:
    return store / "cases" / f"{name}.json"
