"""Read a case, find what is wrong with it, and describe it as the manifest does. Writes nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.errors import BadFileError
from dataset.prepare.checks import check_volume, check_xray
from dataset.prepare.conversion import Conversion, convert
from dataset.prepare.leaks import look_of
from dataset.prepare.made_xray import make_xray
from dataset.prepare.registered import Fit, fit_of
from dataset.scans.camera import Film, Matrix
from dataset.scans.measure import body_of, fingerprint, hu_percentiles, thin_strides, thinned
from dataset.scans.reading import Note
from dataset.scans.volume_io import Volume, read_ct
from dataset.scans.xray_io import Xray, intensity_percentiles, read_xray, to_square
from dataset.store.case import Case, Problem, relative_to
from dataset.store.store import XRAY_SIZE, StoredCase, as_tuples

Read = TypeVar("Read")


@dataclass(frozen=True)
class Examined:
    """What the files of a case hold, None where that cannot be read, and what is wrong with them.

    ct_content, xray_content: fingerprints, and looks (dataset/prepare/leaks.py), by which files of two patients are
        found; empty where there is nothing to compare.
    """

    volume: Volume | None
    xray: Xray | None
    problems: tuple[Problem, ...]
    ct_content: str = ""
    xray_content: str = ""
    ct_look: str = ""
    xray_look: str = ""


@dataclass(frozen=True)
class Pair:
    """A good case as it is stored: HU (D, H, W), square X-ray in [0, 1], and their entry without a split.

    problems: found on the way. better: what the X-ray seems to be, if it is not as it should be.
    """

    hu: np.ndarray
    square: np.ndarray
    entry: StoredCase
    problems: tuple[Problem, ...] = ()
    better: str | None = None


def examine(case: Case, root: Path, conversion: Conversion) -> Examined:
    """Read and check a case; its X-ray is projected from the CT if it has none.

    Raises OSError or MemoryError if that cannot be done now; it says nothing about the files' content.
    """
    ct_name = relative_to(root, case.ct)
    volume, problems = _read(case, ct_name, partial(read_ct, reading=conversion.reading_of(case)), case.ct)
    ct_content = xray_content = ct_look = xray_look = ""
    if volume is not None:
        thin = thinned(volume.hu, thin_strides(volume.spacing))
        problems += [_told(case, ct_name, note) for note in volume.notes]
        problems += check_volume(case.name, ct_name, volume, thin)
        ct_content, ct_look = fingerprint(thin), look_of(thin)
    xray, xray_problems = _given_xray(case, root, conversion.film)
    if case.xray is not None and xray is not None:
        xray_content, xray_look = fingerprint(xray.image), look_of(xray.image)
    if case.xray is None and volume is not None and not _fatal(problems):
        xray, xray_problems = make_xray(case.name, ct_name, volume, conversion)
    return Examined(volume, xray, tuple(problems + xray_problems), ct_content, xray_content, ct_look, xray_look)


def pair_of(case: Case, root: Path, conversion: Conversion, found: Examined, identity: str) -> Pair | None:
    """The case as it is stored; None if a problem is fatal. `identity`: hash of the sources and the conversion."""
    if found.volume is None or found.xray is None or _fatal(found.problems):
        return None
    volume, xray = convert(found.volume, found.xray, conversion)
    square, declared = to_square(xray, XRAY_SIZE)
    fit, camera, registration = Fit(), declared, None
    if case.xray is not None:
        start = conversion.film.square(XRAY_SIZE, conversion.xray_fov_mm) if declared is None else declared
        said = case.name, xray_source(case, root)
        fit = fit_of(*said, square, volume.hu, volume.spacing, start, xray.synthetic, conversion)
    if fit.registration is not None:
        camera = fit.registration.camera if fit.registration.ok else declared
        registration = {"score": round(fit.registration.score, 4), "ok": fit.registration.ok}
    d, h, w = volume.hu.shape
    entry = StoredCase(
        patient_id=case.patient_id,
        split=case.split or "",
        target=case.target,
        shape=(d, h, w),
        spacing=volume.spacing,
        affine=as_tuples(volume.affine.tolist()),
        source_axes=volume.source_axes,
        source_affine=as_tuples(volume.source_affine.tolist()),
        hu_percentiles=hu_percentiles(thinned(volume.hu, thin_strides(volume.spacing))),
        body_box=body_of(volume.hu, volume.spacing),
        ct_source=relative_to(root, case.ct),
        xray_source=xray_source(case, root),
        source_hash=identity,
        xray_kind=xray.kind,
        xray_percentiles=intensity_percentiles(xray.image),
        xray_camera=_stored(camera),
        xray_synthetic=xray.synthetic,
        xray_camera_declared=_stored(declared),
        registration=registration,
        view=xray.view,
    )
    return Pair(volume.hu, square, entry, fit.problems, fit.better)


def entry_of(case: Case, known: StoredCase, split: str, root: Path) -> StoredCase:
    """The entry of a pair as the table has the case now."""
    return replace(
        known,
        patient_id=case.patient_id,
        study_id=case.study_id,
        split=split,
        target=case.target,
        ct_source=relative_to(root, case.ct),
        xray_source=xray_source(case, root),
        view=case.about.get("view", "").upper() or known.view,
        about={name: value for name, value in case.about.items() if name != "view"},
    )


def _stored(camera: Matrix | None) -> Any:
    return None if camera is None else as_tuples(camera.tolist())


def xray_source(case: Case, root: Path) -> str:
    """What the manifest says of where the X-ray came from."""
    return "" if case.xray is None else relative_to(root, case.xray)


def unreadable(case: Case, error: OSError | MemoryError) -> Problem:
    """The problem of a case whose files cannot be read now; another run may find them well."""
    rule = "the files of a case can be read"
    if isinstance(error, MemoryError):
        remedy = "Lower dataset.prepare_workers and run this again."
        return Problem(case.name, case.ct.name, rule, "too little memory", remedy)
    found = error.strerror or type(error).__name__
    where = Path(error.filename).name if error.filename else case.ct.name
    return Problem(case.name, where, rule, found, "Check path, permissions and disk, and run this again.")


def _told(case: Case, ct_name: str, note: Note) -> Problem:
    return Problem(case.name, ct_name, *note[:3], fatal=False, note=not note.doubtful)


def _fatal(problems: "list[Problem] | tuple[Problem, ...]") -> bool:
    return any(problem.fatal for problem in problems)


def _given_xray(case: Case, root: Path, film: Film) -> tuple[Xray | None, list[Problem]]:
    if case.xray is None:
        return None, []
    name = relative_to(root, case.xray)
    xray, problems = _read(case, name, partial(read_xray, film=film), case.xray)
    return xray, problems if xray is None else check_xray(case.name, name, xray)


def _read(case: Case, name: str, reader: Callable[[Path], Read], path: Path) -> tuple[Read | None, list[Problem]]:
    try:
        return reader(path), []
    except BadFileError as error:
        return None, [Problem(case.name, name, error.rule, error.found, error.remedy)]
