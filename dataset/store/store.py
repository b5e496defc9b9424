"""The prepared data set: what `prepare_data.py` writes and training reads.

STORE/manifest.jsonl    one StoredCase a line, ordered by patient_id
STORE/volumes/ID.b2nd   blosc2 array int16 (D, H, W), HU, canonical frame; it carries its case's source_hash
STORE/xrays/ID.b2nd     the same of uint16 (512, 512), the X-ray padded to a square, 0 to 65535
STORE/views/VIEW/ID.b2nd   likewise, its further X-rays, such as lateral
STORE/cases/ID.json     how the preparation of a case went (dataset/store/records.py)
STORE/report.txt        every problem of the data set; report.html shows pictures (thumbnails/ID.png) besides
STORE/splits.json       every patient's split, once and for all; shares.json the shares of the first preparation
STORE/conversion.json   spacing and crop of the stored arrays; spacing.json the median spacing, if it was asked for
STORE/mean_ct_KEY.npz   the mean training CT, which an evaluation offers for every case
STORE/looks_KEY/        CTs and X-rays made small, by which an evaluation asks whether a model copies them
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from common.atomic import write_text
from common.errors import UserError
from common.geometry import Region, Spacing, Triple, slices
from common.recent import Recent
from dataset.scans.camera import from_affine
from dataset.scans.xray_io import KIND_FULL_SCALE, scale_xray
from dataset.store.case import case_name
from dataset.store.split import SPLITS
from dataset.store.split_file import TO_SPLIT_ANEW
from dataset.store.stored_array import open_array, write_array
from dataset.store.views import Matrix, StoredView, as_tuples, range_of, views_from_json, xray_of, xray_ranges

MANIFEST = "manifest.jsonl"
XRAY_SIZE = 512
_XRAY_FULL_SCALE = KIND_FULL_SCALE["uint16"]
_OPEN_VOLUMES = 8  # each open array keeps its pages and index in memory
_CHUNK = 64  # voxels along each axis of a volume


@dataclass(frozen=True)
class StoredCase:
    """One line of the manifest. Millimetres, HU, voxels; (d, h, w) order unless an affine says otherwise.

    shape, spacing, affine ((4, 4), voxel (w, h, d) -> RAS mm): of the stored array, which may be resampled or cropped.
    source_axes, source_affine: those of the file it came from.
    hu_percentiles: at measure.HU_PERCENTILES. body_box: first and one-past-last voxel of the body.
    ct_source, xray_source: paths relative to the data set's root; xray_source is empty if the X-ray was projected
        from the CT. source_hash: SHA-256 over both contents, and over what preparing changed, if anything.
    xray_percentiles: (0.5, 99.5) of the X-ray's values in [0, 1]. xray_camera: (3, 4) of the square X-ray, as
        found on the CT where registration["ok"]; xray_camera_declared: as told before.
    registration: score and ok of the search for that camera; None where none was made.
    study_id: which of the patient's; empty for the first or only one. view: "PA", "AP" or empty, of pairs.csv, else of
        the X-ray's header. about: other columns of pairs.csv. fold: "0/5" where the split is fold 0 of 5.
        views: further X-rays by their names.
    """

    patient_id: str
    split: str
    target: float | None
    shape: Triple
    spacing: Spacing
    affine: Matrix
    source_axes: str
    source_affine: Matrix
    hu_percentiles: tuple[float, ...]
    body_box: Region
    ct_source: str
    xray_source: str
    source_hash: str
    xray_kind: str
    xray_percentiles: tuple[float, float]
    xray_camera: Matrix | None
    xray_synthetic: bool
    xray_camera_declared: Matrix | None = None
    registration: Mapping[str, Any] | None = None
    study_id: str = ""
    view: str = ""
    fold: str = ""
    about: Mapping[str, str] = field(default_factory=dict)
    views: Mapping[str, StoredView] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tells it from others, and names its files."""
        return case_name(self.patient_id, self.study_id)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "StoredCase":
        if "xray_affine" in content:  # of earlier versions, for parallel rays
            affine = content["xray_affine"]
            content = content | {"xray_camera": None if affine is None else from_affine(affine).tolist()}
        needed = [one.name for one in fields(cls) if one.default is MISSING and one.default_factory is MISSING]
        known = [one.name for one in fields(cls) if one.name in content or one.name in needed]
        values = {name: as_tuples(content[name]) for name in known}
        return cls(**values | {"views": views_from_json(content.get("views", {}))})


class Store(ABC):
    """Cases and how to read them, wherever their voxels lie.

    Args:
        folder: what messages name.
        cases: ordered by patient_id.
    """

    def __init__(self, folder: Path | str, cases: Sequence[StoredCase]) -> None:
        self.folder, self.cases = Path(folder), list(cases)
        self.xray_ranges = xray_ranges(self.split("train"))

    def split(self, name: str) -> list[StoredCase]:
        """The cases of "train", "val" or "test"."""
        if name not in SPLITS:
            raise UserError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
        return [case for case in self.cases if case.split == name]

    def cases_of(self, split: str) -> list[StoredCase]:
        """As `split`, and UserError where there are none."""
        cases = self.split(split)
        if not cases:
            raise UserError(f"{self.folder} has no cases in split {split!r}; {TO_SPLIT_ANEW}")
        return cases

    def read_hu(self, case: StoredCase, start: Triple, size: Triple) -> np.ndarray:
        """The box of `size` voxels (d, h, w) from `start`, int16; it must lie inside the volume."""
        if any(s < 0 or n < 1 or s + n > total for s, n, total in zip(start, size, case.shape, strict=True)):
            raise ValueError(f"box from {start} of size {size} is not inside {case.name} of {case.shape}")
        return self._volume(case)[slices(start, size)]

    def read_xray(
        self, case: StoredCase, ranges: Mapping[str, tuple[float, float]] | None = None, view: str = ""
    ) -> np.ndarray:
        """float32 (512, 512) in [0, 1], scaled by the intensity range of the training X-rays of its kind; by its own
        percentiles, if there were none.

        Args:
            ranges: (low, high) by kind, of the X-rays that a model was trained with; None: this store's own.
            view: name of a further X-ray; empty: the frontal one.
        """
        ends = range_of(xray_of(case, view), self.xray_ranges if ranges is None else ranges)
        return scale_xray(unquantised(self._square(case, view)), ends)

    @abstractmethod
    def _volume(self, case: StoredCase) -> blosc2.NDArray | np.ndarray:
        """HU (D, H, W), indexed by boxes."""

    @abstractmethod
    def _square(self, case: StoredCase, view: str) -> np.ndarray:
        """An X-ray, uint16 (512, 512)."""


class VolumeStore(Store):
    """Reads a prepared data set. Cheap to make and to send to loader processes: files open when first read.

    Cases that are added to the data set meanwhile change nothing for it; a case that is prepared anew is refused
    when it is read next.

    Args:
        folder: the store.

    Raises:
        FileNotFoundError: no manifest there. ValueError: a damaged manifest.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder, read_manifest(Path(folder)))
        self._open: Recent[blosc2.NDArray] = Recent(_OPEN_VOLUMES)

    def _volume(self, case: StoredCase) -> blosc2.NDArray:
        return self._open.get(case.name, lambda: _open_volume(self.folder, case))

    def _square(self, case: StoredCase, view: str) -> np.ndarray:
        path = xray_path(self.folder, case.name, view)
        return _of_shape(open_array(path, case.source_hash), (XRAY_SIZE, XRAY_SIZE), path)[:]


def volume_path(folder: Path, name: str) -> Path:
    return folder / "volumes" / f"{name}.b2nd"


def xray_path(folder: Path, name: str, view: str = "") -> Path:
    return folder / (f"views/{view}" if view else "xrays") / f"{name}.b2nd"


def read_manifest(folder: Path) -> list[StoredCase]:
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no prepared data in {folder} ({MANIFEST} is missing). Run prepare_data.py first.")
    try:
        return [StoredCase.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a manifest of this version ({type(error).__name__}: {error}). Run prepare_data.py again."
        ) from error


def write_manifest(folder: Path, cases: Iterable[StoredCase]) -> None:
    ordered = sorted(cases, key=lambda case: case.name)
    write_text(folder / MANIFEST, "".join(json.dumps(asdict(case)) + "\n" for case in ordered))


def write_volume(folder: Path, name: str, hu: np.ndarray, source_hash: str) -> None:
    """Store int16 HU (D, H, W), for the case of this hash. OSError if there is no room for it."""
    write_array(volume_path(folder, name), hu, source_hash, _CHUNK)


def write_square_xray(folder: Path, name: str, image: np.ndarray, source_hash: str, view: str = "") -> None:
    """Store an image (512, 512) in [0, 1] as uint16, for the case of this hash. OSError if there is no room for it."""
    write_array(xray_path(folder, name, view), quantised(image), source_hash, XRAY_SIZE)


def quantised(image: np.ndarray) -> np.ndarray:
    """An image in [0, 1] as the store keeps it, uint16."""
    return np.rint(image * _XRAY_FULL_SCALE).astype(np.uint16)


def unquantised(stored: np.ndarray) -> np.ndarray:
    """The image of `quantised`, float32."""
    return stored.astype(np.float32) / _XRAY_FULL_SCALE


def _open_volume(folder: Path, case: StoredCase) -> blosc2.NDArray:
    path = volume_path(folder, case.name)
    return _of_shape(open_array(path, case.source_hash), case.shape, path)


def _of_shape(array: blosc2.NDArray, wanted: tuple[int, ...], path: Path) -> blosc2.NDArray:
    if array.shape != wanted:
        raise UserError(f"{path}: the manifest says {wanted}, found {array.shape}. Run prepare_data.py again.")
    return array
