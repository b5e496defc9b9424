"""What lies under the diaphragm: liver, spleen, stomach with its gas bubble, kidneys, bowel."""

from dataclasses import dataclass

import numpy as np

from dataset.phantom.anatomy import Anatomy
from dataset.phantom.canvas import Canvas, Point, ellipsoid
from dataset.phantom.lungs import diaphragm


@dataclass(frozen=True)
class Abdomen:
    """The space for the organs: `room` (d, H, W) in [0, 1], the lowest d slices of the canvas."""

    canvas: Canvas
    anatomy: Anatomy
    room: np.ndarray

    def paint_ellipsoid(self, centre: list[float], radii: Point, hu: float, label: str) -> None:
        """Reference `centre` (z, y, x), `radii` in mm of an average body."""
        self.paint_mm(self.anatomy.place(centre), np.array(radii) * self.anatomy.girth, hu, label)

    def paint_mm(
        self,
        centre: np.ndarray,
        radii: np.ndarray,
        hu: float,
        label: str,
        wall: float = 0.0,
        below: float | None = None,
    ) -> None:
        """Paint an ellipsoid without its outer `wall` mm, and only the part in front of y = `below`."""
        depth, height, width = self.canvas.box(centre - radii, centre + radii)
        box = (slice(depth.start, min(depth.stop, len(self.room))), height, width)
        grid = self.canvas.grid(box)
        distance = ellipsoid(grid, centre, radii) + wall
        if below is not None:
            distance = np.maximum(distance, grid[1] - np.float32(below))
        self.canvas.paint(box, self.canvas.cover(distance) * self.room[box], hu, label)


def paint_abdomen(canvas: Canvas, cavity: np.ndarray, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Everything below the diaphragm; `cavity` (D, H, W) is the distance beyond the pleura."""
    y, x = canvas.axes[1][:, None], canvas.axes[2][None]
    top = (diaphragm(anatomy, y, x) * anatomy.height_scale).astype(np.float32)
    box = canvas.box((canvas.axes[0][0], -1e4, -1e4), (float(top.max()) + 5, 1e4, 1e4))
    if box[0].stop == 0:
        return
    above = (canvas.grid(box)[0] - top) * np.float32(0.75)  # distance above the diaphragm
    inside = np.maximum(cavity[box], above)
    canvas.paint(box, canvas.cover(inside), anatomy.muscle_hu, "abdomen")
    room = canvas.cover(inside + 3.5)
    canvas.paint(box, room, anatomy.fat_hu - 5, "abdomen")
    abdomen = Abdomen(canvas, anatomy, room)
    level = anatomy.breath_lift
    _paint_bowel(abdomen, rng)
    abdomen.paint_ellipsoid([-150 + level, -52, -58], (52, 26, 28), 170, "kidneys")
    abdomen.paint_ellipsoid([-142 + level, -50, 70], (52, 26, 28), 170, "kidneys")
    abdomen.paint_ellipsoid([anatomy.dome(1) - 36, -40, 92], (42, 42, 32), 115, "spleen")
    _paint_stomach(abdomen, rng)
    _paint_liver(abdomen)


def _paint_liver(abdomen: Abdomen) -> None:
    """A right lobe that fills the right dome and a thinner left lobe before the stomach, run into each other."""
    canvas, anatomy = abdomen.canvas, abdomen.anatomy
    box = (slice(0, len(abdomen.room)), *canvas.whole[1:])
    grid = canvas.grid(box)
    dome = anatomy.dome(-1)
    right = ellipsoid(grid, anatomy.place([dome - 56, -98, -60]), np.array([98, 86, 70]) * anatomy.scale)
    left = ellipsoid(grid, anatomy.place([dome - 40, -128, 14]), np.array([36, 44, 68]) * anatomy.scale)
    blend = np.float32(20)  # mm: a smooth minimum
    distance = np.minimum(right, left)
    distance -= np.clip(blend - np.abs(right - left), 0, None) ** 2 / (4 * blend)
    canvas.paint(box, canvas.cover(distance) * abdomen.room, 105, "liver")


def _paint_stomach(abdomen: Abdomen, rng: np.random.Generator) -> None:
    """Wall, contents, and gas in front, where it rises to in a patient lying on the back."""
    anatomy = abdomen.anatomy
    centre = anatomy.place([anatomy.dome(1) - 44, -108, 60])
    radii = np.array([42, 44, 40]) * anatomy.girth
    abdomen.paint_mm(centre, radii, 70, "stomach")
    abdomen.paint_mm(centre, radii, 25, "stomach", wall=4)
    level = float(centre[1] - radii[1] * rng.uniform(-0.1, 0.6))
    abdomen.paint_mm(centre, radii, -980, "stomach", wall=4, below=level)


def _paint_bowel(abdomen: Abdomen, rng: np.random.Generator) -> None:
    """Loops of bowel below liver and stomach, some with gas."""
    lowest, highest = -240, min(abdomen.anatomy.dome_right, abdomen.anatomy.dome_left) - 45
    for _ in range(45):
        z, y, x = rng.uniform((lowest, -162, -100), (highest, -66, 112))
        wide = rng.uniform(9, 20)
        radii = wide * rng.uniform((0.8, 0.8, 1.0), (1.2, 1.2, 1.9))
        gas = rng.random() < 0.3
        centre = abdomen.anatomy.place([z + abdomen.anatomy.breath_lift, y, x])
        abdomen.paint_mm(centre, radii, 55, "bowel")
        abdomen.paint_mm(centre, radii, 20, "bowel", wall=2.5)
        if gas:
            abdomen.paint_mm(centre, radii, -950, "bowel", wall=2.5, below=float(centre[1]) - 2)
