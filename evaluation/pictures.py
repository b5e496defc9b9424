"""Pictures of CT volumes as radiologists look at them, for reports and previews.

Volumes are HU arrays (D, H, W) running foot->head, front->back, patient right->left. Pictures follow
radiological convention, see `common.planes`. All panels of a page have one scale in millimetres.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from common.atomic import replacing
from common.notice import NOTICE
from common.planes import PLANES, planes_at
from common.voxel_file import box_of

# centre and width in HU
WINDOWS = {"lung": (-600.0, 1500.0), "mediastinal": (40.0, 400.0), "ctpa": (200.0, 700.0)}
PANEL = 176  # pixels
LABEL = 20  # height of the line of text over a panel
GAP = 4
PAPER, INK, FAINT = "#ffffff", "#000000", "#6e6e6e"
_ABOVE, _BELOW = np.array([(255, 80, 60), (70, 140, 255)], dtype=np.float32)  # colours of differences from 0
_GREYS, _SHADES = 48, 16  # in a page's file; more are hardly seen, and noise makes them cost much
_SIDES = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}


def planes(hu: NDArray, spacing: Sequence[float], window: str, size: int = PANEL) -> dict[str, Image.Image]:
    """Middle slices of HU (D, H, W) as pictures, see `pictures_of`."""
    return pictures_of(planes_at(box_of(hu), hu.shape), spacing, window, size)


def pictures_of(
    slices: Mapping[str, NDArray],
    spacing: Sequence[float],
    window: str,
    size: int = PANEL,
    extent: float | None = None,
) -> dict[str, Image.Image]:
    """Slices as grey pictures of size x size pixels, in true proportions.

    Args:
        slices: as `planes_at` gives them; `spacing` (d, h, w) of the volume in mm.
        window: a name of `WINDOWS`.
        extent: millimetres that `size` pixels show, the volume's longest side if None.
    """
    if window not in WINDOWS:
        raise ValueError(f"window must be one of {', '.join(WINDOWS)}, got {window!r}")
    d, h, w = (float(s) for s in spacing)
    steps = {"axial": (h, w), "coronal": (d, w), "sagittal": (d, h)}
    mm = {name: np.multiply(pixels.shape, steps[name]) for name, pixels in slices.items()}
    extent = extent or max(sides.max() for sides in mm.values())
    pictures = {}
    for name, pixels in slices.items():
        rows, columns = (max(1, round(side * size / extent)) for side in mm[name])
        grey = Image.fromarray(to_grey(pixels, window)).resize((columns, rows), Image.Resampling.BICUBIC)
        pictures[name] = Image.new("L", (size, size), 0)
        pictures[name].paste(grey, ((size - columns) // 2, (size - rows) // 2))
    return pictures


def to_grey(hu: NDArray, window: str) -> NDArray[np.uint8]:
    """HU -> 0..255, black at the window's lower end and below."""
    centre, width = WINDOWS[window]
    grey = (np.asarray(hu, dtype=np.float32) - (centre - width / 2)) / width
    return np.round(255 * np.clip(np.nan_to_num(grey), 0, 1)).astype(np.uint8)


def differences_of(
    real: Mapping[str, NDArray], generated: Mapping[str, NDArray], spacing: Sequence[float], window: str
) -> dict[str, Image.Image]:
    """Generated minus real slices as pictures, both clipped to the window: red above, blue below, black where equal.

    A difference of half the window's width has the full colour.
    """
    a, b = (pictures_of(slices, spacing, window) for slices in (real, generated))
    return {name: _difference(np.asarray(a[name]), np.asarray(b[name])) for name in real}


def _difference(real: NDArray[np.uint8], generated: NDArray[np.uint8]) -> Image.Image:
    by = 2 * (generated.astype(np.float32) - real)[..., None] / 255
    colours = np.clip(by, 0, 1) * _ABOVE + np.clip(-by, 0, 1) * _BELOW
    return Image.fromarray(np.round(colours).astype(np.uint8))


def case_page(
    xray: NDArray,
    real: NDArray,
    generated: NDArray,
    spacing: Sequence[float],
    title: str,
    numbers: Mapping[str, object],
) -> Image.Image:
    """One case: the X-ray and its numbers on the left; on the right real, generated CT and their difference, in three
    planes and all windows.

    Args:
        xray: (h, w) in [0, 1], head up, patient's left on the image's right.
        real, generated: HU (D, H, W) of one grid; `spacing` (d, h, w) in mm.
        numbers: what to print below the X-ray, name -> value.
    """
    pair = {name: planes_at(box_of(hu), hu.shape) for name, hu in (("real", real), ("generated", generated))}
    rows = []
    for window in WINDOWS:
        name = _window_name(window)
        rows += [(f"{who}, {name}", pictures_of(slices, spacing, window)) for who, slices in pair.items()]
        rows.append((f"difference, {name}", differences_of(pair["real"], pair["generated"], spacing, window)))
    shown = {f"{_window_name(window)} window": _ends(window) for window in WINDOWS}
    return _page(xray, rows, title, {**numbers, **shown, "difference": "generated - real"})


def page_of_planes(
    xray: NDArray, volumes: Mapping[str, Mapping[str, NDArray]], spacing: Sequence[float], title: str
) -> Image.Image:
    """Several CTs of one patient beside the X-ray, in three planes, for lungs and vessels.

    Args:
        xray: (h, w) in [0, 1]. volumes: by name their slices, HU, as `planes_at` gives them; `spacing` (d, h, w) in mm.
    """
    rows = [
        (f"{who}, {_window_name(window)}", pictures_of(slices, spacing, window))
        for window in ("lung", "ctpa")
        for who, slices in volumes.items()
    ]
    return _page(xray, rows, title, {f"{_window_name(window)} window": _ends(window) for window in ("lung", "ctpa")})


def preview(
    xray: NDArray, slices: Mapping[str, NDArray], shape: Sequence[int], spacing: Sequence[float], path: Path
) -> None:
    """Write a PNG of a generated volume: three planes in three windows beside the X-ray it was made from.

    Args:
        xray: (h, w) in [0, 1]. slices: HU, as `planes_at` gives them.
        shape, spacing: of the volume, voxels and mm (d, h, w).
    """
    rows = [(f"{_window_name(name)} {_ends(name)}", pictures_of(slices, spacing, name)) for name in WINDOWS]
    low, high = min(p.min() for p in slices.values()), max(p.max() for p in slices.values())
    numbers = {
        "voxels (D, H, W)": " x ".join(str(n) for n in shape),
        "spacing": " x ".join(f"{s:.3g}" for s in spacing) + " mm",
        "HU shown": f"{low:.0f} to {high:.0f}",
    }
    save_png(_page(xray, rows, "Generated CT", numbers), path)


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all; a page takes the few colours of `_with_palette`, a quarter of the bytes."""
    if picture.mode == "RGB":
        picture = _with_palette(np.asarray(picture).astype(np.float32))
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def _with_palette(colours: NDArray[np.float32]) -> Image.Image:
    """(h, w, 3) in 0..255 as the nearest of the greys and of the shades that differences have."""
    red, green, blue = np.moveaxis(colours, -1, 0)
    strength = np.maximum(red, blue) / 255
    shade = np.round(_SHADES * strength)
    coloured = ((red != green) | (green != blue)) & (shade > 0)
    shade += np.where(red > blue, 0, _SHADES)
    index = np.where(coloured, _GREYS - 1 + shade, np.round((_GREYS - 1) * strength))
    greys = np.linspace(0, 255, _GREYS)[:, None].repeat(3, axis=1)
    shades = np.arange(1, _SHADES + 1)[:, None] / _SHADES
    picture = Image.fromarray(index.astype(np.uint8)).convert("P")
    picture.putpalette(np.round(np.concatenate([greys, shades * _ABOVE, shades * _BELOW])).astype(np.uint8).tobytes())
    return picture


def fit(pixels: NDArray, size: int) -> Image.Image:
    """A picture (h, w) in [0, 1] in the middle of a black square, never squeezed."""
    grey = Image.fromarray(np.round(255 * np.clip(np.nan_to_num(pixels), 0, 1)).astype(np.uint8))
    return ImageOps.pad(grey, (size, size), Image.Resampling.BICUBIC)


def _window_name(window: str) -> str:
    return "CTPA" if window == "ctpa" else window


def _ends(window: str) -> str:
    centre, width = WINDOWS[window]
    return f"{centre - width / 2:.0f} to {centre + width / 2:.0f} HU"


def _page(
    xray: NDArray,
    rows: Sequence[tuple[str, Mapping[str, Image.Image]]],
    title: str,
    numbers: Mapping[str, object],
) -> Image.Image:
    xray_size = 2 * PANEL + GAP
    left, top = xray_size + 3 * GAP, 2 * LABEL
    width = left + len(PLANES) * (PANEL + GAP) + GAP
    height = top + max(len(rows) * (PANEL + LABEL), LABEL + xray_size + LABEL * (len(numbers) + 2)) + GAP
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    room = width - 8 * GAP - round(_font(15).getlength(NOTICE))
    draw.text((2 * GAP, LABEL + GAP), title, INK, _fitting(title, room, 22), anchor="ls")
    draw.text((width - 2 * GAP, LABEL + GAP), NOTICE, FAINT, _font(15), anchor="rs")
    _panel(page, fit(xray, xray_size), (GAP, top), "X-ray", ("R", "L"))
    _numbers(draw, numbers, (2 * GAP, top + LABEL + xray_size + LABEL), xray_size - 2 * GAP)
    for i, (text, pictures) in enumerate(rows):
        for k, name in enumerate(PLANES):
            corner = (left + k * (PANEL + GAP), top + i * (PANEL + LABEL))
            _panel(page, pictures[name], corner, f"{name}, {text}", _SIDES[name])
    return page


def _panel(
    page: Image.Image, picture: Image.Image, corner: tuple[int, int], label: str, sides: tuple[str, str]
) -> None:
    """Put a picture with a label over it and the names of its sides at its left and right edge."""
    x, y = corner
    draw = ImageDraw.Draw(page)
    draw.text((x, y + LABEL - 4), label, INK, _fitting(label, picture.width, 13), anchor="ls")
    page.paste(picture, (x, y + LABEL))
    middle = y + LABEL + picture.height // 2
    for text, place, anchor in ((sides[0], x + 4, "lm"), (sides[1], x + picture.width - 4, "rm")):
        draw.text((place, middle), text, "white", _font(15), anchor=anchor, stroke_width=2, stroke_fill="black")


def _numbers(draw: ImageDraw.ImageDraw, numbers: Mapping[str, object], corner: tuple[int, int], width: int) -> None:
    x, y = corner
    for i, (name, value) in enumerate(numbers.items()):
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        draw.text((x, y + i * LABEL), name, FAINT, _font(15))
        draw.text((x + width, y + i * LABEL), text, INK, _font(15), anchor="ra")


def _fitting(text: str, width: int, largest: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest font, up to a size, in which a text is no wider."""
    return next(font for size in range(largest, 0, -1) if (font := _font(size)).getlength(text) <= width or size == 1)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # comes with Pillow, so pages look alike on every machine
