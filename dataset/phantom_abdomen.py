"""What lies under the diaphragm: liver, spleen, stomach with its gas bubble, kidneys, bowel."""

import numpy as np

from dataset.phantom_anatomy import Anatomy
from dataset.phantom_canvas import Box, Canvas, ellipsoid
from dataset.phantom_lungs import diaphragm


def paint_abdomen(canvas: Canvas, cavity: np.ndarray, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Everything below the diaphragm; `cavity` (D, H, W) is the distance beyond the pleura."""
    y, x = canvas.axes[1][:, None], canvas.axes[2][None]
    top = (diaphragm(anatomy, y, x) * anatomy.height_scale).astype(np.float32)
    highest = float(top.max()) + 5
    box = canvas.box((canvas.axes[0][0], -1e3, -1e3), (highest, 1e3, 1e3))
    if box is None:
        return
    z = canvas.grid(box)[0]
    above = (z - top) * np.float32(0.75)  # distance above the diaphragm
    inside = np.maximum(cavity[box], above)
    canvas.paint(box, canvas.cover(inside), anatomy.muscle_hu, "abdomen")
    canvas.paint(box, canvas.cover(inside + 3.5), anatomy.fat_hu - 5, "abdomen")
    room = canvas.cover(inside + 3.5)
    level = anatomy.breath_lift
    _paint_bowel(canvas, box, room, anatomy, rng)
    _paint_in(canvas, box, room, anatomy, [-150 + level, -52, -58], [52, 26, 28], 170, "kidneys")
    _paint_in(canvas, box, room, anatomy, [-142 + level, -50, 70], [52, 26, 28], 170, "kidneys")
    dome = anatomy.dome_left + level
    _paint_in(canvas, box, room, anatomy, [dome - 36, -40, 92], [42, 42, 32], 115, "spleen")
    _paint_stomach(canvas, box, room, anatomy, rng)
    _paint_liver(canvas, box, room, anatomy)


def _paint_in(
    canvas: Canvas, box: Box, room: np.ndarray, anatomy: Anatomy,
    centre: list[float], radii: list[float], hu: float, label: str,
) -> None:  # fmt: skip
    distance = ellipsoid(canvas.grid(box), anatomy.place(centre), np.array(radii) * anatomy.girth)
    canvas.paint(box, canvas.cover(distance) * room, hu, label)


def _paint_liver(canvas: Canvas, box: Box, room: np.ndarray, anatomy: Anatomy) -> None:
    """A right lobe that fills the right dome and a thinner left lobe before the stomach, run into each other."""
    grid = canvas.grid(box)
    dome = anatomy.dome_right + anatomy.breath_lift
    right = ellipsoid(grid, anatomy.place([dome - 58, -98, -62]), np.array([96, 82, 66]) * anatomy.scale)
    left = ellipsoid(grid, anatomy.place([dome - 42, -132, 12]), np.array([36, 40, 66]) * anatomy.scale)
    blend = np.float32(14)  # mm: a smooth minimum
    distance = np.minimum(right, left)
    distance -= np.clip(blend - np.abs(right - left), 0, None) ** 2 / (4 * blend)
    canvas.paint(box, canvas.cover(distance) * room, 105, "liver")


def _paint_stomach(
    canvas: Canvas, box: Box, room: np.ndarray, anatomy: Anatomy, rng: np.random.Generator
) -> None:
    """Wall, contents, and gas in front, where it rises to in a patient lying on the back."""
    grid = canvas.grid(box)
    dome = anatomy.dome_left + anatomy.breath_lift
    centre = anatomy.place([dome - 44, -108, 60])
    radii = np.array([42, 44, 40]) * anatomy.girth
    hollow = ellipsoid(grid, centre, radii)
    canvas.paint(box, canvas.cover(hollow) * room, 70, "stomach")
    canvas.paint(box, canvas.cover(hollow + 4) * room, 25, "stomach")
    level = np.float32(centre[1] - radii[1] * rng.uniform(-0.1, 0.6))
    gas = np.maximum(hollow + 4, grid[1] - level)
    canvas.paint(box, canvas.cover(gas) * room, -980, "stomach")


def _paint_bowel(
    canvas: Canvas, box: Box, room: np.ndarray, anatomy: Anatomy, rng: np.random.Generator
) -> None:
    """Loops of bowel below the liver, some with gas."""
    grid = canvas.grid(box)
    for _ in range(12):
        z, y, x = rng.uniform((-225, -160, -95), (-110, -75, 110))
        wide = rng.uniform(13, 24)
        centre = anatomy.place([z + anatomy.breath_lift, y, x])
        loop = ellipsoid(grid, centre, [wide, wide * rng.uniform(0.8, 1.2), wide * rng.uniform(1.0, 1.8)])
        canvas.paint(box, canvas.cover(loop) * room, 40, "bowel")
        if rng.random() < 0.6:
            canvas.paint(
                box, canvas.cover(np.maximum(loop + 4, grid[1] - centre[1] + 3)) * room, -950, "bowel"
            )
