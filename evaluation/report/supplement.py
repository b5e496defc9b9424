"""An evaluation's cases for a paper's supplement: `python -m evaluation.report.supplement outputs/evaluation`.

supplement.pdf holds the page of every case. Of each case whose CTs the report embeds, flight_ID.gif goes through the
real and the drawn one side by side, from foot to head.
"""

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from common.atomic import replacing
from common.notice import NOTICE
from evaluation.pictures import FAINT, GAP, INK, LABEL, PAPER, pictures_of
from evaluation.report.volumes import embedded, embedded_pair

log = logging.getLogger(__name__)
PDF = "supplement.pdf"
_DPI = 150
_WINDOWS = ("lung", "ctpa")
_SIDE = 224  # pixels of a slice
_MOST_FRAMES, _FRAME_MS = 64, 120
_GREYS = 32  # more are hardly seen, and noise makes them cost much


def write_pages(folder: Path) -> list[Path]:
    """The pages of all cases, ID.png, as one PDF; nothing where an evaluation has none, as that of files."""
    names = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["scores"]
    pages = [path for name in names if (path := folder / f"{name}.png").is_file()]
    if not pages:
        return []
    with replacing(folder / PDF) as temporary:
        for i, page in enumerate(pages):  # one in memory at a time
            with Image.open(page) as picture:
                about = {"title": "Drawn beside real CTs", "resolution": _DPI, "quality": 90}
                picture.convert("RGB").save(temporary, "PDF", append=i > 0, **about)
    return [folder / PDF]


def write_flights(folder: Path) -> list[Path]:
    """A flight through each case whose CTs are embedded in the report."""
    paths = []
    for name in embedded(folder):
        frames = flight(*embedded_pair(folder, name), name)
        paths.append(folder / f"flight_{name}.gif")
        with replacing(paths[-1]) as temporary:
            first = next(frames)
            first.save(temporary, "GIF", save_all=True, append_images=frames, duration=_FRAME_MS, loop=0)
    return paths


def flight(pair: Mapping[str, NDArray], spacing: Sequence[float], title: str) -> Iterator[Image.Image]:
    """Axial slices from foot to head, one picture each: a column for each CT, a row for each window.

    Args:
        pair: CTs of one grid by name, HU (D, H, W). spacing: (d, h, w) in mm.
    """
    depth = len(next(iter(pair.values())))
    for k in np.unique(np.linspace(0, depth - 1, min(depth, _MOST_FRAMES)).round().astype(int)):
        width, height = len(pair) * (_SIDE + GAP) + GAP, len(_WINDOWS) * (_SIDE + GAP) + 3 * LABEL
        frame = Image.new("L", (width, height), PAPER)
        draw, font = ImageDraw.Draw(frame), ImageFont.load_default(12)
        draw.text((GAP, LABEL - GAP), f"{title}, {k * spacing[0]:.0f} mm", INK, font, anchor="ls")
        draw.text((GAP, height - GAP), NOTICE, FAINT, font, anchor="ls")
        for column, (name, hu) in enumerate(pair.items()):
            x = GAP + column * (_SIDE + GAP)
            draw.text((x, 2 * LABEL - GAP), name, INK, font, anchor="ls")
            for row, window in enumerate(_WINDOWS):
                picture = pictures_of({"axial": hu[k]}, spacing, window, _SIDE)["axial"]
                frame.paste(picture, (x, 2 * LABEL + row * (_SIDE + GAP)))
        yield frame.point([round(grey / 255 * (_GREYS - 1)) * 255 // (_GREYS - 1) for grey in range(256)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, metavar="REPORT", help="the run_dir of an evaluation")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = parser.parse_args().report
    try:
        written = write_pages(folder) + write_flights(folder)
    except OSError as error:
        parser.error(str(error))
    for path in written:
        log.info("%s", path)
    if not written:
        parser.error(f"{folder} has no pictures: an evaluation of files draws none")


if __name__ == "__main__":
    main()
