"""Prepare one case: read, check, measure, store. Runs in worker processes.

Its record `STORE/cases/ID.json` is written last: a record means that the case is finished, for good or bad.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from dataset.atomic import write_text
from dataset.cases import Case, Problem, relative_to
from dataset.checks import check_volume, check_xray
from dataset.errors import BadFileError
from dataset.measure import body_box, fingerprint, hu_percentiles, thin_strides, thinned
from dataset.store import (
    XRAY_SIZE,
    StoredCase,
    as_tuples,
    volume_path,
    write_square_xray,
    write_volume,
    xray_path,
)
from dataset.volume_io import Volume, read_ct
from dataset.xray_io import Xray, intensity_percentiles, read_xray, to_square

RECORD_FORMAT = 1  # raise it when reading, checking or storing changes: every case is then prepared anew
_HASH_BYTES = 1 << 20
Read = TypeVar("Read")


@dataclass(frozen=True)
class Record:
    """How a case went.

    stamp: names, sizes and times of the source files; source_hash: their content.
    stored: None if a problem is fatal. Its split, target and sources are set anew for each manifest.
    ct_content, xray_content: fingerprints of what was read, to find duplicates.
    """

    stamp: str
    source_hash: str
    problems: tuple[Problem, ...]
    stored: StoredCase | None
    ct_content: str
    xray_content: str


def fresh_record(case: Case, store: Path) -> Record | None:
    """The record of an earlier run, if the sources have not changed since and its files are there."""
    record = _read_record(store, case.patient_id)
    try:
        return record if record is not None and record.stamp == _source_stamp(case) else None
    except OSError:
        return None  # preparing it will say what is wrong


def prepare_case(case: Case, root: Path, store: Path) -> Record:
    """Prepare a case and write its record; what is wrong with its files is returned, not raised.

    Raises:
        OSError: the store cannot be written (no space left).
    """
    try:
        stamp, content = _source_stamp(case), _source_hash(case)
    except OSError as error:
        return Record("", "", (_unreadable(case, error),), None, "", "")  # not kept: the disk may come back
    known = _read_record(store, case.patient_id)
    if known is not None and known.source_hash == content:
        record = replace(known, stamp=stamp)
    else:
        record = _prepare(case, root, store, stamp, content)
    write_text(_record_path(store, case.patient_id), json.dumps({"format": RECORD_FORMAT} | asdict(record)))
    return record


def _prepare(case: Case, root: Path, store: Path, stamp: str, content: str) -> Record:
    ct_path, xray_file = relative_to(root, case.ct), _xray_of(case)
    xray_name = relative_to(root, xray_file)
    volume, problems = _read(case, ct_path, read_ct, case.ct)
    xray, xray_problems = _read(case, xray_name, read_xray, xray_file)
    problems += xray_problems
    ct_content = xray_content = ""
    if xray is not None:
        problems += check_xray(case.patient_id, xray_name, xray)
        xray_content = fingerprint(xray.image)
    if volume is not None:
        thin = thinned(volume.hu, thin_strides(volume.spacing))
        problems += check_volume(case.patient_id, ct_path, volume, thin)
        ct_content = fingerprint(thin)
    stored = None
    if volume is not None and xray is not None and not any(problem.fatal for problem in problems):
        stored = _store(case, root, store, volume, xray, content)
    return Record(stamp, content, tuple(problems), stored, ct_content, xray_content)


def _read(case: Case, name: str, reader: Callable[[Path], Read], path: Path) -> tuple[Read | None, list[Problem]]:
    try:
        return reader(path), []
    except BadFileError as error:
        return None, [Problem(case.patient_id, name, error.rule, error.found, error.remedy)]


def _store(case: Case, root: Path, store: Path, volume: Volume, xray: Xray, content: str) -> StoredCase:
    """Write the arrays of a good case."""
    square, affine = to_square(xray, XRAY_SIZE)
    strides = thin_strides(volume.spacing)
    thin = thinned(volume.hu, strides)
    d, h, w = volume.hu.shape
    write_volume(store, case.patient_id, volume.hu)
    write_square_xray(store, case.patient_id, square)
    return StoredCase(
        patient_id=case.patient_id,
        split=case.split or "",
        target=case.target,
        shape=(d, h, w),
        spacing=volume.spacing,
        affine=as_tuples(volume.affine.tolist()),
        source_axes=volume.source_axes,
        source_affine=as_tuples(volume.source_affine.tolist()),
        hu_percentiles=hu_percentiles(thin),
        body_box=body_box(thin, strides, (d, h, w)),
        ct_source=relative_to(root, case.ct),
        xray_source=relative_to(root, _xray_of(case)),
        source_hash=content,
        xray_kind=xray.kind,
        xray_percentiles=intensity_percentiles(xray.image),
        xray_affine=None if affine is None else as_tuples(affine.tolist()),
        xray_synthetic=xray.synthetic,
    )


def _xray_of(case: Case) -> Path:
    if case.xray is None:
        raise ValueError(f"{case.patient_id} has no X-ray; find_cases lists such cases as problems")
    return case.xray


def _source_files(case: Case) -> list[Path]:
    """Every file that the case is read from, ordered."""
    xray = _xray_of(case)
    slices = sorted(path for path in case.ct.rglob("*") if path.is_file()) if case.ct.is_dir() else [case.ct]
    sidecar = xray.with_suffix(".json")
    return [*slices, xray, *([sidecar] if sidecar.is_file() else [])]


def _source_stamp(case: Case) -> str:
    digest = hashlib.sha256()
    for path in _source_files(case):
        state = path.stat()
        digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _source_hash(case: Case) -> str:
    digest = hashlib.sha256()
    for path in _source_files(case):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while piece := file.read(_HASH_BYTES):
                digest.update(piece)
    return digest.hexdigest()


def _unreadable(case: Case, error: OSError) -> Problem:
    found = error.strerror or type(error).__name__
    where = Path(error.filename).name if error.filename else case.ct.name
    return Problem(case.patient_id, where, "the files of a case can be read", found, "Check path and permissions.")


def _record_path(store: Path, patient_id: str) -> Path:
    return store / "cases" / f"{patient_id}.json"


def _read_record(store: Path, patient_id: str) -> Record | None:
    """The record, if it is of this version and the arrays it speaks of are there."""
    path = _record_path(store, patient_id)
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.pop("format") != RECORD_FORMAT:
        return None
    content["problems"] = tuple(Problem(**problem) for problem in content["problems"])
    if content["stored"] is not None:
        content["stored"] = StoredCase.from_json(content["stored"])
        if not (volume_path(store, patient_id).is_file() and xray_path(store, patient_id).is_file()):
            return None
    return Record(**content)
