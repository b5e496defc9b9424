"""Read a case, find what is wrong with it, and describe it as the manifest does. Writes nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
from dataset.scans.camera import ANY, FRONTAL, LATERAL, Film, Matrix
from dataset.scans.measure import body_of, fingerprint, hu_percentiles, thin_strides, thinned
from dataset.scans.reading import Note
from dataset.scans.volume_io import Volume, read_ct
from dataset.scans.xray_io import Xray, intensity_percentiles, read_xray, to_square
from dataset.store.case import Case, Problem, relative_to
from dataset.store.store import XRAY_SIZE, StoredCase
from dataset.store.views import StoredView, as_tuples, film_of, kind_of

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
    views: Mapping[str, Xray] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A good case as it is stored: HU (D, H, W), square X-rays in [0, 1], and their entry without a split.

    squares: the frontal X-ray's has an empty name. problems: found on the way. better: what that X-ray seems to be, if
    it is not as it should be. sketch: of X-ray and CT, to compare them with those of others.
    """

    hu: np.ndarray
    squares: Mapping[str, np.ndarray]
    entry: StoredCase
    problems: tuple[Problem, ...] = ()
    better: str | None = None
    sketch: str = ""


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
        problems += check_volume(case.name, ct_name, volume, thin, conversion.hu_window)
        ct_content, ct_look = fingerprint(thin), look_of(thin)
    xray, xray_problems = _given_xray(case, case.xray, root, conversion.film)
    if case.xray is not None and xray is not None:
        xray_content, xray_look = fingerprint(xray.image), look_of(xray.image)
    if case.xray is None and volume is not None and not _fatal(problems):
        xray, xray_problems = make_xray(case.name, ct_name, volume, conversion)
    views: dict[str, Xray] = {}
    for name, path in case.views.items():
        view, found = _given_xray(case, path, root, film_of(name, conversion.film), LATERAL if name == LATERAL else ANY)
        problems += found
        views |= {} if view is None else {name: view}
    return Examined(volume, xray, tuple(problems + xray_problems), ct_content, xray_content, ct_look, xray_look, views)


def pair_of(case: Case, root: Path, conversion: Conversion, found: Examined, identity: str) -> Pair | None:
    """The case as it is stored; None if a problem is fatal. `identity`: hash of the sources and the conversion."""
    if found.volume is None or found.xray is None or _fatal(found.problems):
        return None
    volume, xrays = convert(found.volume, {"": found.xray, **found.views}, conversion)
    squares: dict[str, np.ndarray] = {}
    seen: dict[str, StoredView] = {}
    problems: tuple[Problem, ...] = ()
    better, sketch = None, ""
    for name, xray in xrays.items():
        path = case.views[name] if name else case.xray
        film = film_of(name, conversion.film)
        squares[name], seen[name], fit = _stored_view(case, name, path, root, xray, film, volume, conversion)
        problems += fit.problems
        if not name:
            better, sketch = fit.better, fit.sketch
    frontal = seen.pop("")
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
        xray_source=frontal.source,
        source_hash=identity,
        xray_kind=frontal.kind,
        xray_percentiles=frontal.percentiles,
        xray_camera=frontal.camera,
        xray_synthetic=frontal.synthetic,
        xray_camera_declared=frontal.camera_declared,
        registration=frontal.registration,
        view=xrays[""].view,
        views=seen,
    )
    return Pair(volume.hu, squares, entry, problems, better, sketch)


def _stored_view(
    case: Case,
    name: str,
    path: Path | None,
    root: Path,
    xray: Xray,
    film: Film,
    volume: Volume,
    conversion: Conversion,
) -> tuple[np.ndarray, StoredView, Fit]:
    """An X-ray as it is stored, and how it fits its CT; `path` is None of one that was projected from the CT."""
    square, declared = to_square(xray, XRAY_SIZE)
    fit, camera, registration = Fit(), declared, None
    source = "" if path is None else relative_to(root, path)
    if path is not None:
        start = film.square(XRAY_SIZE, conversion.xray_fov_mm) if declared is None else declared
        fit = fit_of(case.name, source, square, volume.hu, volume.spacing, start, xray.synthetic, conversion)
    if fit.registration is not None:
        camera = fit.registration.camera if fit.registration.ok else declared
        registration = {"score": round(fit.registration.score, 4), "ok": fit.registration.ok}
    kind, range_ = kind_of(name, xray.kind), intensity_percentiles(xray.image)
    known = _stored(declared)
    return square, StoredView(source, kind, range_, _stored(camera), xray.synthetic, known, registration), fit


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
        views={name: replace(known.views[name], source=relative_to(root, path)) for name, path in case.views.items()},
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


def _given_xray(
    case: Case, path: Path | None, root: Path, film: Film, expected: str = FRONTAL
) -> tuple[Xray | None, list[Problem]]:
    if path is None:
        return None, []
    name = relative_to(root, path)
    xray, problems = _read(case, name, partial(read_xray, film=film, expected=expected), path)
    return xray, problems if xray is None else check_xray(case.name, name, xray, expected == FRONTAL)


def _read(case: Case, name: str, reader: Callable[[Path], Read], path: Path) -> tuple[Read | None, list[Problem]]:
    try:
        return reader(path), []
    except BadFileError as error:
        return None, [Problem(case.name, name, error.rule, error.found, error.remedy)]
