"""Body outline, lungs and diaphragm; fluid and dense areas in the lungs."""

from dataclasses import dataclass

import numpy as np

from dataset.phantom_anatomy import Anatomy
from dataset.phantom_canvas import LABEL_ID, Canvas, smooth_step
from dataset.phantom_wall import ANGLES, Surface, Wall, spine_y

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
    # Two sheets of fat part the muscle layers: around the ribs' outside, and half way to the skin.
    share = canvas.cover(np.abs(muscle + cavity) - 1.2) * canvas.cover(muscle + 5)
    canvas.paint(canvas.whole, share * np.float32(0.8), anatomy.fat_hu)
    canvas.paint(canvas.whole, canvas.cover(cavity + 1), anatomy.fat_hu, "mediastinum")
    return cavity


def diaphragm(anatomy: Anatomy, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Height (mm) of the diaphragm over columns (y, x), arrays that broadcast."""
    return sum(  # type: ignore[return-value]
        share * _dome(anatomy, side, y, x)
        for side, share in ((-1, smooth_step(x, 25, -25)), (1, smooth_step(x, -25, 25)))
    )


def _dome(anatomy: Anatomy, side: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    top = (anatomy.dome_right if side < 0 else anatomy.dome_left) + anatomy.breath_lift
    sideways = (x * side / anatomy.width_scale - 55) / 72
    lateral, medial = np.clip(sideways, 0, None), np.clip(-sideways, 0, None)
    backward = (y / anatomy.depth_scale + 95) / 105
    behind, before = np.clip(backward, 0, None), np.clip(-backward, 0, None)
    drop = 62 * lateral**2.6 + 16 * medial**2 + 78 * behind**2.2 + 42 * (before * 1.25) ** 2.4
    return top - drop


def mediastinum_edge(anatomy: Anatomy, side: int, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance (mm) of a lung's medial surface from the midline at (z, y), arrays that broadcast."""
    z_ref = z / anatomy.height_scale
    spine = spine_y(z, anatomy).astype(np.float32)
    front = np.float32(-166 * anatomy.depth_scale) + 24 * smooth_step(z_ref, 0, 75) + 20 * smooth_step(z_ref, 70, 130)
    place = (y - front) / (spine - front)  # 0 behind the sternum, 1 at the vertebral bodies
    middle = smooth_step(place, 0.1, 0.45) * (22 + 7 * smooth_step(z_ref, 60, 115))
    recess = -6 * np.exp(-(((place - 0.75) / 0.16) ** 2)) * smooth_step(z_ref, 40, 0)
    spinal = 3 * smooth_step(place, 0.8, 1.05)
    fat_pads = 16 * smooth_step(z_ref, 10, -50) * smooth_step(place, 0.55, 0.2)
    thymus = 9 * smooth_step(z_ref, 30, 100) * smooth_step(place, 0.4, 0.05)
    soft = (middle * (1 - 0.25 * spinal / 3) + recess + fat_pads + thymus) * anatomy.mediastinum_scale
    knob = 6 * np.exp(-(((z_ref - 62) / 16) ** 2)) * smooth_step(place, 0.5, 0.75) if side > 0 else 0.0
    return 6 + soft + spinal + knob + side * (anatomy.mediastinum_shift + anatomy.sway(z))


def lung_distance(
    anatomy: Anatomy, side: int, cavity: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray
) -> np.ndarray:
    """Approximate signed distance (mm) to one lung; `cavity` is the distance beyond the pleura."""
    apex = (anatomy.apex_right if side < 0 else anatomy.apex_left) * anatomy.height_scale
    off_x = (x * side / anatomy.width_scale - 48) / 50
    off_y = (y / anatomy.depth_scale + 78) / 50
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
    low = (anatomy.dome_right if side < 0 else anatomy.dome_left) + anatomy.breath_lift
    centre = anatomy.place([low + height * (anatomy.apex_right - low), rng.uniform(-120, -40), side * 70])
    box = canvas.box(centre - 1.5 * radius, centre + 1.5 * radius)
    if box is None:
        return
    z, y, x = canvas.grid(box)
    off = [axis - np.float32(c) for axis, c in zip((z, y, x), centre, strict=True)]
    waves = np.sin(off[0] / 5 + 1) * np.sin(off[1] / 6) + np.sin(off[2] / 4.5) * np.cos(off[0] / 7)
    distance = np.sqrt(off[0] ** 2 + off[1] ** 2 + off[2] ** 2) - np.float32(radius) + 4.5 * waves
    share = np.clip(0.5 - distance / np.float32(max(9.0, canvas.edge)), 0, 1) * lung[box]
    canvas.paint(box, share * np.float32(0.92), 35, "consolidation")


def lung_regions(canvas: Canvas) -> dict[str, np.ndarray]:
    """Aerated lungs as painted so far, bool (D, H, W) per side; call before vessels are drawn into them."""
    return {f"lung_{side}": canvas.labels == LABEL_ID[f"lung_{side}"] for side in SIDES}
