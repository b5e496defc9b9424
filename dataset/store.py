"""The prepared data set: what `prepare_data.py` writes and training reads.

STORE/manifest.jsonl    one StoredCase a line, ordered by patient_id
STORE/volumes/ID.b2nd   blosc2 array int16 (D, H, W), HU, canonical frame
STORE/xrays/ID.npy      uint16 (512, 512), the X-ray padded to a square, 0 to 65535
STORE/cases/ID.json     how the preparation of a case went (dataset/records.py)
STORE/report.txt        every problem of the data set; report.html shows pictures (thumbnails/ID.png) besides
STORE/splits.json       every patient's split, once and for all
STORE/conversion.json   spacing and crop of the stored arrays; spacing.json the median spacing, if it was asked for
"""

import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import blosc2
import numpy as np

from dataset.atomic import replacing, write_text
from dataset.measure import Triple
from dataset.split import SPLITS
from dataset.xray_io import scale_xray

MANIFEST = "manifest.jsonl"
XRAY_SIZE = 512
_XRAY_FULL_SCALE = 65535
_OPEN_VOLUMES = 8  # each open array keeps its pages and index in memory
_CHUNK = 64
_BLOCK = 32

Matrix = tuple[tuple[float, ...], ...]
Box = tuple[Triple, Triple]


@dataclass(frozen=True)
class StoredCase:
    """One line of the manifest. Millimetres, HU, voxels; (d, h, w) order unless an affine says otherwise.

    shape, spacing, affine ((4, 4), voxel (w, h, d) -> RAS mm): of the stored array, which may be resampled or cropped.
    source_axes, source_affine: those of the file it came from.
    hu_percentiles: at measure.HU_PERCENTILES. body_box: first and one-past-last voxel of the body.
    ct_source, xray_source: paths relative to the data set's root; xray_source is empty if the X-ray was projected
        from the CT. source_hash: SHA-256 over both contents, and over what preparing changed, if anything.
    xray_percentiles: (0.5, 99.5) of the X-ray's values in [0, 1]. xray_affine: (2, 3) of the square X-ray.
    """

    patient_id: str
    split: str
    target: float | None
    shape: Triple
    spacing: tuple[float, float, float]
    affine: Matrix
    source_axes: str
    source_affine: Matrix
    hu_percentiles: tuple[float, ...]
    body_box: Box
    ct_source: str
    xray_source: str
    source_hash: str
    xray_kind: str
    xray_percentiles: tuple[float, float]
    xray_affine: Matrix | None
    xray_synthetic: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "StoredCase":
        return cls(**{field.name: as_tuples(content[field.name]) for field in fields(cls)})


class VolumeStore:
    """Reads a prepared data set. Cheap to make and to send to loader processes: files open when first read.

    Args:
        folder: the store.

    Raises:
        FileNotFoundError: no manifest there. ValueError: a damaged manifest.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.cases = read_manifest(self.folder)
        self.xray_ranges = xray_ranges(self.split("train"))
        self._open: OrderedDict[str, blosc2.NDArray] = OrderedDict()
        self._owner = os.getpid()

    def split(self, name: str) -> list[StoredCase]:
        """The cases of "train", "val" or "test"."""
        if name not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
        return [case for case in self.cases if case.split == name]

    def read_hu(self, case: StoredCase, start: Triple, size: Triple) -> np.ndarray:
        """The box of `size` voxels (d, h, w) from `start`, int16; it must lie inside the volume."""
        if any(s < 0 or n < 1 or s + n > total for s, n, total in zip(start, size, case.shape, strict=True)):
            raise ValueError(f"box from {start} of size {size} is not inside {case.patient_id} of {case.shape}")
        box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        return self._volume(case)[box]

    def read_xray(self, case: StoredCase) -> np.ndarray:
        """float32 (512, 512) in [0, 1], scaled by the intensity range of the training X-rays of its kind."""
        grey = self._square(case).astype(np.float32) / _XRAY_FULL_SCALE
        return scale_xray(grey, case.xray_kind, self.xray_ranges)

    def _square(self, case: StoredCase) -> np.ndarray:
        return np.load(xray_path(self.folder, case.patient_id), allow_pickle=False)

    def _volume(self, case: StoredCase) -> blosc2.NDArray:
        if self._owner != os.getpid():  # a forked worker must not use its parent's handles
            self._open, self._owner = OrderedDict(), os.getpid()
        if case.patient_id not in self._open:
            self._open[case.patient_id] = _open_volume(self.folder, case)
            if len(self._open) > _OPEN_VOLUMES:
                self._open.popitem(last=False)
        self._open.move_to_end(case.patient_id)
        return self._open[case.patient_id]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}


def volume_path(folder: Path, patient_id: str) -> Path:
    return folder / "volumes" / f"{patient_id}.b2nd"


def xray_path(folder: Path, patient_id: str) -> Path:
    return folder / "xrays" / f"{patient_id}.npy"


def read_manifest(folder: Path) -> list[StoredCase]:
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no prepared data in {folder} ({MANIFEST} is missing). Run prepare_data.py first.")
    try:
        return [StoredCase.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a manifest of this version ({type(error).__name__}: {error}). Run prepare_data.py again."
        ) from error


def write_manifest(folder: Path, cases: Iterable[StoredCase]) -> None:
    ordered = sorted(cases, key=lambda case: case.patient_id)
    write_text(folder / MANIFEST, "".join(json.dumps(case.to_json()) + "\n" for case in ordered))


def write_volume(folder: Path, patient_id: str, hu: np.ndarray) -> None:
    """Store int16 HU (D, H, W), losslessly compressed in chunks."""
    chunks = tuple(min(_CHUNK, n) for n in hu.shape)
    blocks = tuple(min(_BLOCK, n) for n in hu.shape)
    cparams = {"codec": blosc2.Codec.LZ4, "clevel": 5, "nthreads": 1, "filters": [blosc2.Filter.SHUFFLE]}
    with replacing(volume_path(folder, patient_id)) as temporary:
        blosc2.asarray(
            np.ascontiguousarray(hu),
            chunks=chunks,
            blocks=blocks,
            cparams=cparams,
            urlpath=str(temporary),
            mode="w",
        )


def write_square_xray(folder: Path, patient_id: str, image: np.ndarray) -> None:
    """Store an image (512, 512) in [0, 1] as uint16."""
    with replacing(xray_path(folder, patient_id)) as temporary:
        np.save(temporary, quantised(image))


def quantised(image: np.ndarray) -> np.ndarray:
    """An image in [0, 1] as the store keeps it, uint16."""
    return np.rint(image * _XRAY_FULL_SCALE).astype(np.uint16)


def _open_volume(folder: Path, case: StoredCase) -> blosc2.NDArray:
    path = volume_path(folder, case.patient_id)
    if not path.is_file():
        raise FileNotFoundError(f"{path} of the manifest is missing. Run prepare_data.py again.")
    volume = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
    if volume.shape != case.shape:
        raise ValueError(f"{path}: the manifest says {case.shape}, found {volume.shape}. Run prepare_data.py again.")
    return volume


def xray_ranges(cases: Iterable[StoredCase]) -> dict[str, tuple[float, float]]:
    """(low, high) of each kind of X-ray: the medians of its images' percentiles."""
    by_kind: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        by_kind.setdefault(case.xray_kind, []).append(case.xray_percentiles)
    return {
        kind: (median(low for low, _ in pairs), median(high for _, high in pairs))
        for kind, pairs in sorted(by_kind.items())
    }


def as_tuples(value: Any) -> Any:
    return tuple(as_tuples(item) for item in value) if isinstance(value, list) else value
