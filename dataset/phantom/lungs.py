"""Body outline, lungs and diaphragm; fluid and dense areas in the lungs."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RectBivariateSpline

from dataset.phantom.anatomy import Anatomy
from dataset.phantom.canvas import LABEL_ID, Canvas, smooth_step
from dataset.phantom.wall import ANGLES, Surface, Wall, cavity_front, spine_y

SIDES = {"right": -1, "left": 1}


@dataclass(frozen=True)
class PolarGrid:
    """The columns of a canvas around the wall's axis: distance (H, W) in mm and table column (H, W)."""

    radius: np.ndarray
    column: np.ndarray

    @staticmethod
    def of(canvas: Canvas, surface: Surface) -> "PolarGrid":
        y = canvas.axes[1][:, None] - np.float32(surface.axis[0])
        x = canvas.axes[2][None] - np.float32(surface.axis[1])
        column = np.round(np.arctan2(y, x) * np.float32(ANGLES / (2 * np.pi))).astype(np.int32) % ANGLES
        return PolarGrid(np.hypot(y, x), column)

    def outside(self, surface: Surface, z: np.ndarray) -> np.ndarray:
        """Distance (D, H, W) beyond the surface, negative inside, along the radius."""
        return self.radius - surface.rows(z)[:, self.column]


def paint_body(canvas: Canvas, wall: Wall, polar: PolarGrid, anatomy: Anatomy) -> np.ndarray:
    """Skin, fat and muscle around a cavity filled with mediastinal fat.

    Returns:
        (D, H, W) distance beyond the pleura, negative inside the cavity.
    """
    z = canvas.axes[0]
    skin = polar.outside(wall.skin, z)
    canvas.paint(canvas.whole, canvas.cover(skin), 30, "skin")
    canvas.paint(canvas.whole, canvas.cover(skin + 2), anatomy.fat_hu, "fat")
    del skin
    muscle = polar.outside(wall.muscle, z)
    canvas.paint(canvas.whole, canvas.cover(muscle), anatomy.muscle_hu, "muscle")
    cavity = polar.outside(wall.cavity, z)
    # A sheet of fat, here thick and there thin, parts the muscle layers half way to the ribs.
    turn = np.arctan2(canvas.axes[1] - wall.cavity.axis[0], np.float32(60))[:, None] * 5 + canvas.axes[2] / 23
    sheet = 1.3 + np.sin(turn + z[:, None, None] / 19)
    share = canvas.cover(np.abs(muscle + cavity) - sheet.astype(np.float32)) * canvas.cover(muscle + 4)
    canvas.paint(canvas.whole, share, anatomy.fat_hu)
    canvas.paint(canvas.whole, canvas.cover(cavity + 1), anatomy.fat_hu, "mediastinum")
    return cavity


def diaphragm(anatomy: Anatomy, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Height (mm) of the diaphragm over columns (y, x), arrays that broadcast."""
    return sum(
        share * _dome(anatomy, side, y, x)
        for side, share in ((-1, smooth_step(x, 25, -25)), (1, smooth_step(x, -25, 25)))
    )


def _dome(anatomy: Anatomy, side: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    top = anatomy.dome(side)
    sideways = (x * side / anatomy.width_scale - 55) / 72
    lateral, medial = np.clip(sideways, 0, None), np.clip(-sideways, 0, None)
    backward = (y / anatomy.depth_scale + 95) / 105
    behind, before = np.clip(backward, 0, None), np.clip(-backward, 0, None)
    before = 1.2 * before
    drop = 62 * lateral**2 + 16 * medial**2 + 84 * behind**2 + 42 * before**2
    return top - drop * (lateral**2 + medial**2 + behind**2 + before**2) ** 0.2


# Distance (mm) of the lungs' medial surfaces from the midline: rows by height, columns from the breastbone (0) to
# the vertebral bodies (1). The heart and the great vessels displace the lungs beyond this.
_EDGE_Z = (-50, -10, 10, 25, 40, 55, 70, 85, 100, 120)
_EDGE_PLACE = (0.0, 0.13, 0.25, 0.4, 0.53, 0.65, 0.75, 0.85, 0.95, 1.04, 1.16)
_EDGE = {
    "right": [
        [20, 16, 12, 10, 8, -2, -6, 3, 14, 20, 30],
        [4, 3, 10, 17, 16, 12, -4, -3, 14, 20, 33],
        [5, 1, 10, 19, 30, 30, -3, -4, 14, 19, 30],
        [5, 2, 12, 24, 34, 27, -3, -4, 12, 18, 31],
        [5, 2, 12, 27, 32, 22, 0, -2, 12, 18, 30],
        [4, 0, 10, 25, 25, 14, 2, 2, 12, 18, 26],
        [5, 1, 9, 22, 20, 9, 0, 4, 12, 18, 27],
        [28, 18, 15, 20, 17, 10, 3, 8, 16, 21, 25],
        [32, 30, 28, 19, 14, 11, 10, 14, 20, 24, 28],
        [34, 34, 34, 32, 20, 19, 24, 26, 28, 30, 34],
    ],
    "left": [
        [20, 18, 18, 20, 20, 24, 30, 35, 33, 26, 33],
        [7, 9, 15, 22, 25, 26, 28, 32, 32, 26, 31],
        [7, 10, 18, 28, 30, 32, 32, 32, 32, 22, 27],
        [7, 11, 19, 30, 34, 37, 37, 31, 31, 20, 26],
        [6, 10, 19, 32, 36, 38, 37, 32, 28, 18, 25],
        [6, 9, 18, 30, 36, 37, 31, 31, 22, 18, 27],
        [7, 10, 18, 26, 29, 31, 30, 25, 18, 20, 29],
        [26, 17, 22, 24, 24, 25, 22, 17, 17, 21, 27],
        [30, 34, 25, 22, 20, 14, 12, 16, 18, 23, 32],
        [30, 30, 30, 31, 24, 16, 16, 20, 26, 30, 34],
    ],
}  # fmt: skip
_EDGE_CURVE = {
    side: RectBivariateSpline(_EDGE_Z, _EDGE_PLACE, np.array(table, float), kx=2, ky=2, s=0)
    for side, table in _EDGE.items()
}


def mediastinum_edge(anatomy: Anatomy, side: int, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance (mm) of a lung's medial surface from the midline at (z, y), arrays that broadcast."""
    front, spine = cavity_front(z, anatomy), spine_y(z, anatomy)
    place = (y - front) / (spine - front)
    flat_z = np.broadcast_to(z / anatomy.height_scale, place.shape)
    edge = _EDGE_CURVE["right" if side < 0 else "left"].ev(flat_z, place)
    soft = 1 + (anatomy.mediastinum_scale - 1) * smooth_step(place, 0.95, 0.7)
    drift = smooth_step(place, 1.0, 0.6) * anatomy.mediastinum_shift + anatomy.sway(z)
    return edge * soft * anatomy.width_scale + side * drift


def lung_distance(
    anatomy: Anatomy, side: int, cavity: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """Approximate signed distance (mm) to one lung; `cavity` is the distance beyond the pleura."""
    apex = (anatomy.apex_right if side < 0 else anatomy.apex_left) * anatomy.height_scale
    off_x = (x * side / anatomy.width_scale - 48) / 50
    off_y = (y / anatomy.depth_scale + 66) / 50
    top = apex - 20 * (off_x**2 + off_y**2)
    medial = mediastinum_edge(anatomy, side, z, y).astype(np.float32) - x * np.float32(side)
    lower = (diaphragm(anatomy, y, x) * anatomy.height_scale).astype(np.float32)
    distance = np.maximum(cavity, medial)
    np.maximum(distance, (z - top.astype(np.float32)) * np.float32(0.7), out=distance)
    return np.maximum(distance, (lower - z) * np.float32(0.7), out=distance)


def paint_lungs(canvas: Canvas, cavity: np.ndarray, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Both lungs, denser towards the back, with fluid or dense areas where the patient has them."""
    z, y, x = canvas.grid(canvas.whole)
    gravity = (y / anatomy.depth_scale + 80) * np.float32(0.22)
    texture = np.float32(anatomy.lung_hu) + gravity + _clouds(z, y, x, rng)
    for name, side in SIDES.items():
        distance = lung_distance(anatomy, side, cavity, z, y, x)
        cover = canvas.cover(distance)
        canvas.paint(canvas.whole, cover, texture, f"lung_{name}")
        fluid = anatomy.effusion[0 if side < 0 else 1]
        if fluid > 0:
            _paint_effusion(canvas, cover, anatomy, fluid)
        if anatomy.consolidation and anatomy.consolidation[0] == side:
            _paint_consolidation(canvas, cover, anatomy, rng)


def _clouds(z: np.ndarray, y: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uneven ventilation: a few slow waves of some HU."""
    total = np.zeros((), np.float32)
    for _ in range(3):
        kz, ky, kx = rng.normal(0, 0.035, 3)
        phase = np.float32(rng.uniform(0, 2 * np.pi))
        total = total + np.float32(8) * np.sin(np.float32(kz) * z + phase) * np.sin(
            np.float32(ky) * y + phase
        ) * np.cos(np.float32(kx) * x)
    return total


def _paint_effusion(canvas: Canvas, lung: np.ndarray, anatomy: Anatomy, depth: float) -> None:
    """Fluid in the back and at the base: a crescent below a slanted surface."""
    z, y, x = canvas.grid(canvas.whole)
    floor = (diaphragm(anatomy, y, x) * anatomy.height_scale).astype(np.float32)
    back = np.float32(22 * anatomy.depth_scale)
    surface = 0.9 * (back - y) + 0.55 * (z - floor) - np.float32(1.25 * depth)
    canvas.paint(canvas.whole, canvas.cover(surface) * lung, 12, "effusion")


def _paint_consolidation(canvas: Canvas, lung: np.ndarray, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """A dense area with an uneven border inside one lung."""
    side, height, radius = anatomy.consolidation
    low = anatomy.dome(side)
    centre = anatomy.place([low + height * (anatomy.apex_right - low), rng.uniform(-120, -40), side * 70])
    box = canvas.box(centre - 1.5 * radius, centre + 1.5 * radius)
    z, y, x = canvas.grid(box)
    off = [axis - np.float32(c) for axis, c in zip((z, y, x), centre, strict=True)]
    waves = np.sin(off[0] / 5 + 1) * np.sin(off[1] / 6) + np.sin(off[2] / 4.5) * np.cos(off[0] / 7)
    distance = np.sqrt(off[0] ** 2 + off[1] ** 2 + off[2] ** 2) - np.float32(radius) + 4.5 * waves
    share = np.clip(0.5 - distance / np.float32(max(9.0, canvas.edge)), 0, 1) * lung[box]
    canvas.paint(box, share * np.float32(0.92), 35, "consolidation")


def lung_regions(canvas: Canvas) -> dict[str, np.ndarray]:
    """Aerated lungs as painted so far, bool (D, H, W) per side; call before vessels are drawn into them."""
    return {f"lung_{side}": canvas.labels == LABEL_ID[f"lung_{side}"] for side in SIDES}
