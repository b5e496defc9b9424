"""A paired data set of phantoms on disk: CT, X-ray and the truth about each."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_text
from common.errors import UserError
from dataset.phantom.anatomy import draw_anatomy
from dataset.phantom.film import XraySettings, phantom_xray
from dataset.phantom.thorax import render
from dataset.prepare.cases import CASE_TABLE
from dataset.prepare.processes import results_of
from dataset.scans.camera import LATERAL
from dataset.scans.volume_io import write_ct
from dataset.scans.xray_io import write_xray

SETTINGS = "phantom_settings.json"
TRUTH_TABLE = "truth.csv"
LARGE_HEART_ML = 520  # about the median of hearts that CTs hold whole
VERSION = 2  # raise it when the same seed gives other pictures: sets made before are then refused
FILMS_VERSION = 3  # likewise, where X-rays are film-like


@dataclass(frozen=True)
class PhantomSettings:
    """What shapes the cases of a set. Keys of the phantom config.

    shape_range, spacing_range: smallest and largest (d, h, w), voxels and mm. Spacing within the slice is the same for
        rows and columns where their ranges are.
    axes: orientations of the written arrays; each case takes one.
    embolism_share: share of patients with a pulmonary embolism (`target` 1).
    xray: default: parallel rays through the CT, no faults.
    """

    seed: int = 0
    shape_range: Sequence[Sequence[int]] = ((60, 56, 64), (72, 64, 72))
    spacing_range: Sequence[Sequence[float]] = ((4.4, 4.6, 4.6), (5.2, 5.2, 5.2))
    axes: Sequence[str] = ("LPS", "LAS", "RAS", "LPI", "SAL")
    embolism_share: float = 0.5
    xray: XraySettings = XraySettings()

    def __post_init__(self) -> None:
        for name, pair in (("shape_range", self.shape_range), ("spacing_range", self.spacing_range)):
            low, high = np.asarray(pair[0]), np.asarray(pair[-1])
            if len(pair) != 2 or low.shape != (3,) or high.shape != (3,) or (low <= 0).any() or (low > high).any():
                raise UserError(f"{name} is [smallest, largest], each three positive numbers (d, h, w), got {pair}")
        if np.min(self.shape_range) < 2:
            raise UserError(f"shape_range needs at least 2 voxels along each axis, got {self.shape_range}")
        if not 0 <= self.embolism_share <= 1:
            raise UserError(f"embolism_share is a share in [0, 1], got {self.embolism_share}")
        if not self.axes:
            raise UserError("axes needs at least one orientation such as LPS, got none")

    def as_json(self) -> dict:
        """Plain data, equal after a round trip through JSON."""
        settings = asdict(self)
        if not self.xray.lateral:  # sets that were made before there were any still fit
            del settings["xray"]["lateral"]
        return json.loads(json.dumps({"version": FILMS_VERSION if self.xray.is_film else VERSION, **settings}))


def make_phantom_data(root: Path | str, num_cases: int, num_workers: int = 0, **settings: Any) -> Path:
    """Write `root/pairs.csv` with a CT, an X-ray and labels per case, and `root/truth.csv` with organ volumes in ml.

    Case i depends on (seed, i) alone: the same call writes nothing anew, a larger `num_cases` adds cases.

    Args:
        root: folder, made if missing.
        num_workers: processes; 0 works in this one.
        settings: those of `PhantomSettings`; `xray` may be a mapping, too.

    Returns:
        The path of pairs.csv.

    Raises:
        ValueError: bad settings, or `root` holds a set made with others; a process was killed.
    """
    if num_cases < 1:
        raise UserError(f"num_cases must be at least 1, got {num_cases}")
    wanted = PhantomSettings(**settings | {"xray": XraySettings.of(settings.get("xray"))})
    root = Path(root)
    _claim(root, wanted)
    missing = [i for i in range(num_cases) if not _truth_path(root, i).is_file()]
    for _ in results_of(partial(write_case, root=root, settings=wanted), missing, num_workers, "phantom CTs: %d of %d"):
        pass
    return _write_tables(root, num_cases)


def _write_tables(root: Path, num_cases: int) -> Path:
    truths = [json.loads(_truth_path(root, i).read_text(encoding="utf-8")) for i in range(num_cases)]
    _write_table(root / TRUTH_TABLE, [{"patient_id": t["patient_id"], **t["volumes_ml"]} for t in truths])
    columns = [key for key in ("patient_id", "ct", "xray", LATERAL, "target") if key in truths[0]]
    pairs = [
        {k: t[k] for k in columns} | {"large_heart": int(t["volumes_ml"].get("heart", 0) > LARGE_HEART_ML)}
        for t in truths
    ]
    _write_table(root / CASE_TABLE, pairs)
    return root / CASE_TABLE


def _claim(root: Path, settings: PhantomSettings) -> None:
    """Make sure that all cases in a folder are made with the same settings."""
    path = root / SETTINGS
    new = settings.as_json()
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        changed = [f"{k}={old.get(k)} there, {v} asked for" for k, v in new.items() if old.get(k) != v]
        if changed:
            raise UserError(
                f"{root} holds phantoms made with other settings: {'; '.join(changed)}."
                " Choose another folder, or remove this one."
            )
    elif (root / CASE_TABLE).exists():
        raise UserError(f"{root} holds a data set that is not of phantoms. Choose another folder.")
    else:
        write_text(path, json.dumps(new, indent=1) + "\n")


def case_id(index: int) -> str:
    """The patient_id of a case."""
    return f"phantom{index:04d}"


def _truth_path(root: Path, index: int) -> Path:
    return root / case_id(index) / f"{case_id(index)}_truth.json"


def write_case(index: int, root: Path, settings: PhantomSettings) -> None:
    """Make and write one case; its truth is written last and means that the case is finished."""
    rng = np.random.default_rng((settings.seed, index))
    anatomy = draw_anatomy(rng, embolism=bool(rng.random() < settings.embolism_share))
    shape, spacing = _draw_grid(settings, rng)
    axes = str(rng.choice(list(settings.axes)))
    ct = render(anatomy, shape, spacing)
    film = phantom_xray(anatomy, ct, settings.xray, rng)
    name = case_id(index)
    files = {"ct": f"{name}/{name}.nii.gz", "xray": f"{name}/{name}_pa_drr.png"}
    write_ct(root / files["ct"], ct.hu, ct.affine, axes, "synthetic phantom, not a patient")
    write_xray(root / files["xray"], film.image, film.declared, synthetic=not settings.xray.is_film)
    cameras = {"xray_camera": film.true.tolist()}
    if settings.xray.lateral:
        side = phantom_xray(anatomy, ct, replace(settings.xray, view="ll"), rng)
        files[LATERAL], cameras["lateral_camera"] = f"{name}/{LATERAL}.png", side.true.tolist()
        write_xray(root / files[LATERAL], side.image, side.declared, synthetic=not settings.xray.is_film)
    volumes = {organ: round(ml, 2) for organ, ml in sorted(ct.volumes_ml.items())}
    truth = {"patient_id": name, **files, "target": ct.target, "axes": axes, "volumes_ml": volumes}
    write_text(_truth_path(root, index), json.dumps(truth | cameras, indent=1) + "\n")


def _draw_grid(
    settings: PhantomSettings, rng: np.random.Generator
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    low, high = np.asarray(settings.shape_range)
    d, h, w = (int(n) for n in rng.integers(low, high + 1))
    small, large = np.asarray(settings.spacing_range, float)
    slices, pixels = rng.random(2)  # one share for rows and columns: square pixels
    sd, sh, sw = np.round(small + (large - small) * [slices, pixels, pixels], 3)
    return (d, h, w), (float(sd), float(sh), float(sw))


def _write_table(path: Path, rows: list[dict]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval=0, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if not path.is_file() or path.read_text(encoding="utf-8") != text.getvalue():
        write_text(path, text.getvalue())
