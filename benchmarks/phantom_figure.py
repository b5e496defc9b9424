"""Does the phantom look like a chest? A real CT and phantoms side by side, each with its X-ray: one PNG.

`python -m benchmarks.phantom_figure out=FIGURE.png`; the last line printed is a JSON object with the time a phantom
takes. The real CT is that of ../shared/data; without it the figure shows phantoms only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.command import benchmark
from benchmarks.measure import ROOT, seconds_per_call
from benchmarks.real_data import LIDC
from common.planes import planes_at
from common.voxel_file import box_of
from dataset.phantom.thorax import Phantom, make_phantom
from dataset.scans.drr import frontal_drr, to_intensity
from dataset.scans.volume_io import read_ct
from evaluation.pictures import fit, pictures_of, save_png

REAL_LEVELS = (0.46, 0.60, 0.50, 0.40, 0.47)  # of the LIDC scan: shares of D, D, D, H, W, as in `Row`
FINE = (150, 150, 165), (2.2, 2.2, 2.2)
DEMO = (70, 66, 74), (4.75, 4.9, 4.9)
SEED = 7
SIZE, LABEL, GAP = 220, 18, 2  # pixels
XRAY_RANGE = (0.05, 0.65)


@dataclass(frozen=True)
class Row:
    """One CT (D, H, W) in HU with its spacing (d, h, w) in mm.

    levels: the slices shown, axial through the heart, the great vessels and the lungs; coronal; sagittal.
    """

    title: str
    hu: np.ndarray
    spacing: tuple[float, float, float]
    levels: Sequence[int]


def real_row() -> Row:
    volume = read_ct(LIDC)
    d, h, w = volume.hu.shape
    levels = [int(share * n) for share, n in zip(REAL_LEVELS, (d, d, d, h, w), strict=True)]
    return Row("real CT (LIDC-IDRI-0001, CC BY 3.0)", volume.hu, volume.spacing, levels)


def phantom_row(title: str, phantom: Phantom) -> Row:
    """Slices through the middles of the organs that the truth names."""

    def middle(organ: str, axis: int) -> int:
        return int(np.median(np.nonzero(phantom.masks[organ])[axis]))

    vessels = int(phantom.masks["pulmonary_artery"].sum((1, 2)).argmax())
    levels = middle("heart", 0), vessels, middle("lung_right", 0), middle("airways", 1), middle("spine", 2)
    return Row(title, phantom.hu, phantom.spacing, levels)


def panels(row: Row, extent: float) -> dict[str, Image.Image]:
    """Pictures of a CT and of its X-ray by their labels, each `extent` mm wide and high."""
    heart, vessels, lungs, coronal, sagittal = row.levels

    def planes(level: int, window: str) -> dict[str, Image.Image]:
        slices = planes_at(box_of(row.hu), row.hu.shape, (level, coronal, sagittal))
        return pictures_of(slices, row.spacing, window, SIZE, extent)

    soft, arteries, air = planes(heart, "mediastinal"), planes(vessels, "ctpa"), planes(lungs, "lung")
    integrals, _ = frontal_drr(row.hu, row.spacing, SIZE, extent)
    low, high = XRAY_RANGE
    return {
        "heart": soft["axial"],
        "great vessels": arteries["axial"],
        "lungs": air["axial"],
        "coronal, soft tissue": soft["coronal"],
        "coronal, lung": air["coronal"],
        "sagittal, soft tissue": soft["sagittal"],
        "X-ray from the CT": fit((to_intensity(integrals) - low) / (high - low), SIZE),
    }


def draw(rows: Sequence[Row]) -> Image.Image:
    """A page with one row per CT, all pictures at the same scale in mm."""
    extent = max(float(np.multiply(row.hu.shape, row.spacing).max()) for row in rows)
    page = Image.new("L", (7 * (SIZE + GAP), len(rows) * (SIZE + 2 * LABEL)), 255)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for i, row in enumerate(rows):
        top = i * (SIZE + 2 * LABEL)
        shape, spacing = " x ".join(map(str, row.hu.shape)), " x ".join(f"{s:.2g}" for s in row.spacing)
        pen.text((4, top + 1), f"{row.title}: {shape} voxels of {spacing} mm", 0, font)
        for k, (label, picture) in enumerate(panels(row, extent).items()):
            pen.text((k * (SIZE + GAP) + 4, top + LABEL), label, 90, font)
            page.paste(picture, (k * (SIZE + GAP), top + 2 * LABEL))
    return page


def seconds_per_phantom(side: int, spacing: float) -> float:
    patients = count()
    return round(seconds_per_call(lambda: make_phantom(next(patients), (side,) * 3, (spacing,) * 3), 2), 3)


@benchmark()
def main(out: str = str(ROOT / "docs" / "phantom_vs_lidc.png")) -> dict[str, Any]:
    rows = [real_row()] if LIDC.is_file() else []
    rows.append(phantom_row("phantom", make_phantom(SEED, *FINE)))
    rows.append(phantom_row("the same patient at the demo's resolution", make_phantom(SEED, *DEMO)))
    save_png(draw(rows), Path(out))
    return {
        "figure": out,
        "kilobytes": Path(out).stat().st_size // 1000,
        "seconds_64": seconds_per_phantom(64, 5.0),
        "seconds_128": seconds_per_phantom(128, 2.6),
    }


if __name__ == "__main__":
    main()
