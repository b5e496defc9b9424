"""What preparing changes of a case on its way into the store; as it stands, nothing."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from common.atomic import write_text
from common.errors import UserError
from common.geometry import Spacing, lengths
from common.json_file import read_json
from common.locks import exclusive
from dataset.scans import camera as cam
from dataset.scans.camera import Film
from dataset.scans.measure import body_of
from dataset.scans.reading import PLAIN, Reading
from dataset.scans.resample import cropped_affine, resample
from dataset.scans.volume_io import Volume, ct_spacing
from dataset.scans.xray_io import Xray
from dataset.store.case import Case

MEDIAN = "median"
HU_WINDOW = (-1000.0, 1000.0)
FILM = "film"
REPORT, REFUSE, OFF = "report", "refuse", "off"
MEDIAN_FILE = "spacing.json"  # the median that was chosen: later cases do not move it
_MEDIAN_LOCK = ".spacing.lock"
_SAME = 1e-4  # relative; headers round

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """The user's wishes.

    spacing: voxel size (d, h, w) in mm to resample to, "median" for the data set's, None to keep each case's own.
    crop_to_body: store the box around the patient's body only.
    make_xray: project an X-ray from a CT that has none; "film": as a film would show it.
    xray_source_mm: distance of its point source from the volume's centre; None for parallel rays.
    film: how X-rays were taken whose files do not tell; xray_fov_mm: what they show in the patient's middle, likewise.
    register_films: find the cameras of X-rays that were not projected from a CT on the CT of their pair.
    pair_check: what becomes of pairs that do not fit: reported ("report"), left out ("refuse"), not looked for ("off").
    reading: how CTs are read whose files leave a choice.
    hu_window: lowest and highest HU that trainings will keep; what CTs were clipped to may lie around it.
    """

    spacing: Spacing | str | None = None
    crop_to_body: bool = False
    make_xray: bool | str = False
    xray_source_mm: float | None = None
    film: Film = Film()
    xray_fov_mm: float = 400.0
    register_films: bool = False
    pair_check: str = OFF
    reading: Reading = PLAIN
    hu_window: tuple[float, float] = HU_WINDOW

    def __post_init__(self) -> None:
        if isinstance(self.spacing, str) and self.spacing != MEDIAN:
            raise UserError(f"dataset.spacing is null, one or three lengths in mm, or {MEDIAN}, got {self.spacing!r}")
        if self.pair_check not in (REPORT, REFUSE, OFF):
            raise UserError(f"dataset.pair_check is {REPORT}, {REFUSE} or {OFF}, got {self.pair_check!r}")
        if self.xray_source_mm is not None and not 0 < self.xray_source_mm < np.inf:
            raise UserError(
                "dataset.make_xray_source_mm is a distance in mm (a film is taken from about 1700),"
                f" or null for parallel rays; got {self.xray_source_mm}"
            )

    def reading_of(self, case: Case) -> Reading:
        """With what `case` says for itself."""
        offset = self.reading.hu_offset if case.hu_offset is None else case.hu_offset
        series, axes = case.series or self.reading.series, case.axes or self.reading.axes
        return replace(self.reading, series=series, hu_offset=offset, axes=axes)

    def recipe(self, case: Case) -> str:
        """What of this shapes the entry of `case` and its stored form, as text to compare."""
        found = self.register_films, self.pair_check
        film = None if not case.xrays else [asdict(self.film), self.xray_fov_mm, *found]
        views = [{name: path.name for name, path in case.views.items()}] if case.views else []
        window = [] if self.hu_window == HU_WINDOW else [list(self.hu_window)]
        return json.dumps([self._shaping(case), film, *views, *window])

    def stored_hash(self, case: Case, content: str) -> str:
        """What tells the stored form of `case` from others: the hash of its sources alone, if nothing is changed."""
        recipe = self._shaping(case)
        plain = recipe == Conversion()._shaping(replace(case, series=None, hu_offset=None, axes=None))
        return content if plain else hashlib.sha256((content + recipe).encode()).hexdigest()

    def _shaping(self, case: Case) -> str:
        """What of this shapes the stored arrays."""
        film = {"film": True} if self.make_xray == FILM else {}  # apart, so that stores made before still fit
        made = {"source_mm": self.xray_source_mm} | film if case.xray is None else None
        read = asdict(self.reading_of(case))
        if read["axes"] is None:
            del read["axes"]  # so that stores made before still fit
        return json.dumps({"spacing": self.spacing, "crop_to_body": self.crop_to_body, "made_xray": made, "read": read})


def parse_spacing(value: float | str | Sequence[float] | None) -> Spacing | str | None:
    """A config's value: null, a word, one length or three."""
    return value if value is None or isinstance(value, str) else lengths(value, "dataset.spacing")


def with_known_spacing(conversion: Conversion, cases: Iterable[Case], store: Path) -> Conversion:
    """The conversion with numbers for "median": per axis, over all CTs that can be read; chosen once per store."""
    if conversion.spacing != MEDIAN:
        return conversion
    path = store / MEDIAN_FILE
    with exclusive(store / _MEDIAN_LOCK):
        if not path.is_file():
            _log.info("dataset.spacing=median: reading the header of every CT")
            found = (_spacing_on_disk(case.ct, conversion.reading_of(case)) for case in cases)
            spacings = [spacing for spacing in found if spacing is not None]
            if not spacings:
                return replace(conversion, spacing=None)  # nothing can be read: every case will be reported
            chosen = [median(axis) for axis in zip(*spacings, strict=True)]
            write_text(path, json.dumps({"spacing_mm": chosen, "cases": len(spacings)}) + "\n")
        content = read_json(path, "Remove it to choose the median anew.")
    _log.info(
        "dataset.spacing=median: %s mm, of %d CTs; remove %s to choose anew",
        " x ".join(f"{size:g}" for size in content["spacing_mm"]),
        content["cases"],
        path,
    )
    return replace(conversion, spacing=parse_spacing(content["spacing_mm"]))


def convert(volume: Volume, xrays: Mapping[str, Xray], conversion: Conversion) -> tuple[Volume, dict[str, Xray]]:
    """A CT and its X-rays as they are stored: cropped, then resampled. A crop moves the centre that their millimetres
    count from.
    """
    hu, affine = volume.hu, volume.affine
    if conversion.crop_to_body:
        low, high = body_of(hu, volume.spacing)
        moved = [((a + b) - n) / 2 * s for a, b, n, s in zip(low, high, hu.shape, volume.spacing, strict=True)]
        xrays = {name: _recentred(xray, np.array(moved[::-1])) for name, xray in xrays.items()}
        hu, affine = hu[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], cropped_affine(affine, low)
    if isinstance(conversion.spacing, tuple) and not np.allclose(volume.spacing, conversion.spacing, rtol=_SAME):
        hu, affine = resample(hu, affine, conversion.spacing)
    return replace(volume, hu=hu, affine=affine), dict(xrays)


def _recentred(xray: Xray, moved: np.ndarray) -> Xray:
    """The X-ray with millimetres from a centre that lies `moved` (x, y, z) from the old one."""
    return xray if xray.camera is None else replace(xray, camera=cam.of_centre(xray.camera, moved))


def _spacing_on_disk(path: Path, reading: Reading) -> Spacing | None:
    """Voxel size (d, h, w) of a CT in the canonical frame; None if it cannot be read."""
    try:
        return ct_spacing(path, reading)
    except Exception:  # what readers raise on damaged bytes is an open list; preparing will report it
        return None
