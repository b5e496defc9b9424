"""Does the phantom look like a chest? A real CT and phantoms side by side, each with its X-ray: one PNG.

`python -m benchmarks.phantom_figure out=FIGURE.png`; the last line printed is a JSON object with the time a phantom
takes. The real CT is that of ../shared/data; without it the figure shows phantoms only.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.options import own, reports_mistakes
from common.planes import planes_at
from common.voxel_file import box_of
from dataset.phantom.thorax import Phantom, make_phantom
from dataset.scans.drr import frontal_drr, to_intensity
from dataset.scans.volume_io import read_ct
from evaluation.pictures import save_png, to_grey

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "lidc_idri_0001" / "ct.nii.gz"
OUTPUT = ROOT / "docs" / "phantom_vs_lidc.png"
REAL_LEVELS = (0.46, 0.60, 0.50, 0.40, 0.47)  # of the LIDC scan: shares of D, D, D, H, W, as in `Levels`
FINE = (150, 150, 165), (2.2, 2.2, 2.2)
DEMO = (70, 66, 74), (4.75, 4.9, 4.9)
SEED = 7
SIZE, LABEL = 220, 18  # pixels
XRAY_RANGE = (0.05, 0.65)


@dataclass(frozen=True)
class Levels:
    """Indices of the slices shown: axial through the heart, the great vessels and the lungs; coronal; sagittal."""

    heart: int
    vessels: int
    lungs: int
    coronal: int
    sagittal: int


@dataclass(frozen=True)
class Row:
    """One CT (D, H, W) in HU with its spacing (d, h, w) in mm."""

    title: str
    hu: np.ndarray
    spacing: tuple[float, float, float]
    levels: Levels


def real_row() -> Row:
    volume = read_ct(REAL)
    d, h, w = volume.hu.shape
    levels = (int(share * n) for share, n in zip(REAL_LEVELS, (d, d, d, h, w), strict=True))
    return Row("real CT (LIDC-IDRI-0001, CC BY 3.0)", volume.hu, volume.spacing, Levels(*levels))


def phantom_row(title: str, phantom: Phantom) -> Row:
    """Slices through the middles of the organs that the truth names."""

    def middle(organ: str, axis: int) -> int:
        return int(np.median(np.nonzero(phantom.masks[organ])[axis]))

    arteries = phantom.masks["pulmonary_artery"].sum((1, 2))
    levels = Levels(
        heart=middle("heart", 0),
        vessels=int(arteries.argmax()),
        lungs=middle("lung_right", 0),
        coronal=middle("airways", 1),
        sagittal=middle("spine", 2),
    )
    return Row(title, phantom.hu, phantom.spacing, levels)


def panels(row: Row) -> list[tuple[str, np.ndarray, tuple[float, float]]]:
    """(label, grey picture, mm per row and column of it) of a CT, head and front up, and of its X-ray."""
    (d, h, w), at = row.spacing, row.levels
    planes = planes_at(box_of(row.hu), row.hu.shape, (at.heart, at.coronal, at.sagittal))
    integrals, _ = frontal_drr(row.hu, row.spacing, 2 * SIZE)
    low, high = XRAY_RANGE
    xray = np.clip((to_intensity(integrals) - low) / (high - low), 0, 1)
    pixel = max(row.hu.shape[0] * d, row.hu.shape[2] * w) / (2 * SIZE)
    return [
        ("heart", to_grey(planes["axial"], "mediastinal"), (h, w)),
        ("great vessels", to_grey(row.hu[at.vessels], "ctpa"), (h, w)),
        ("lungs", to_grey(row.hu[at.lungs], "lung"), (h, w)),
        ("coronal, soft tissue", to_grey(planes["coronal"], "mediastinal"), (d, w)),
        ("coronal, lung", to_grey(planes["coronal"], "lung"), (d, w)),
        ("sagittal, soft tissue", to_grey(planes["sagittal"], "mediastinal"), (d, h)),
        ("X-ray from the CT", np.round(255 * xray).astype(np.uint8), (pixel, pixel)),
    ]


def draw(rows: Sequence[Row]) -> Image.Image:
    """A page with one row per CT, all pictures at the same scale in mm."""
    extent = max(n * s for row in rows for n, s in zip(row.hu.shape, row.spacing, strict=True))
    page = Image.new("L", (7 * (SIZE + 2), len(rows) * (SIZE + 2 * LABEL)), 255)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for i, row in enumerate(rows):
        top = i * (SIZE + 2 * LABEL)
        shape, spacing = " x ".join(map(str, row.hu.shape)), " x ".join(f"{s:.2g}" for s in row.spacing)
        pen.text((4, top + 1), f"{row.title}: {shape} voxels of {spacing} mm", 0, font)
        for k, (label, grey, (high, wide)) in enumerate(panels(row)):
            pen.text((k * (SIZE + 2) + 4, top + LABEL), label, 90, font)
            picture = Image.fromarray(grey)
            size = [max(1, round(n * mm * SIZE / extent)) for n, mm in zip(grey.shape[::-1], (wide, high), strict=True)]
            small = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
            panel = Image.new("L", (SIZE, SIZE), 0)
            panel.paste(small, ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
            page.paste(panel, (k * (SIZE + 2), top + 2 * LABEL))
    return page


def seconds_per_phantom(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> float:
    """Processor time of one phantom, the median of five patients."""
    times = []
    for seed in range(5):
        begin = time.process_time()
        make_phantom(seed, shape, spacing)
        times.append(time.process_time() - begin)
    return round(float(np.median(times)), 3)


@reports_mistakes("train_ddpm")
def main() -> None:
    output = Path(own(sys.argv[1:], {"out": str(OUTPUT)})["out"])
    rows = [real_row()] if REAL.is_file() else []
    rows.append(phantom_row("phantom", make_phantom(SEED, *FINE)))
    rows.append(phantom_row("the same patient at the demo's resolution", make_phantom(SEED, *DEMO)))
    save_png(draw(rows), output)
    result = {
        "figure": str(output),
        "kilobytes": output.stat().st_size // 1000,
        "seconds_64": seconds_per_phantom((64, 64, 64), (5.0, 5.0, 5.0)),
        "seconds_128": seconds_per_phantom((128, 128, 128), (2.6, 2.6, 2.6)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
