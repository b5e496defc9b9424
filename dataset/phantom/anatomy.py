"""The body of one imaginary patient: sizes, positions and HU, drawn at random from a seeded generator.

Coordinates are anatomical millimetres (z, y, x): foot -> head, front -> back, patient right -> left, with the origin
in the eighth thoracic vertebra. The reference body was measured on a chest CT of a slim adult; `Anatomy.place`
scales it to the patient.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dataset.phantom.canvas import smooth_step


@dataclass(frozen=True)
class Anatomy:
    """One patient. Lengths in mm, CT numbers in HU; `*_scale` multiplies the reference body."""

    seed: int  # of what needs no name: the vessels' courses, the heart's and the ribs' unevenness
    female: bool = False
    width_scale: float = 1.0
    depth_scale: float = 1.0
    height_scale: float = 1.0
    fat_mm: float = 10.0  # under the skin
    muscle_scale: float = 1.0
    wall_waves: tuple[float, ...] = (0.0,) * 6  # unevenness of the chest wall
    scoliosis_mm: float = 0.0  # sideways bow of the spine
    scoliosis_phase: float = 0.0
    kyphosis_scale: float = 1.0
    dome_right: float = -22.0  # height of the diaphragm
    dome_left: float = -34.0
    apex_right: float = 124.0
    apex_left: float = 128.0
    mediastinum_scale: float = 1.0
    mediastinum_shift: float = 0.0
    heart_scale: float = 1.0
    heart_tilt: float = 0.0  # degrees, positive = more upright
    heart_shift: float = 0.0  # to the patient's left
    heart_round: float = 1.0
    aorta_scale: float = 1.0
    aorta_bulge: float = 0.0  # of the arch and the descending part to the left
    aorta_top: float = 84.0
    pulmonary_scale: float = 1.0
    breath_lift: float = 0.0  # rise of the diaphragm in expiration
    effusion: tuple[float, float] = (0.0, 0.0)  # depth of fluid (right, left)
    consolidation: tuple[float, ...] = ()  # (side -1 right / +1 left, height 0..1, radius) of a dense area
    emboli: int = 0  # clots in the pulmonary arteries; the label is whether there are any
    calcified: float = 0.3  # of rib cartilage, 0..1
    table: bool = True
    table_gap: float = 6.0
    lung_hu: float = -850.0
    fat_hu: float = -95.0
    muscle_hu: float = 52.0
    pulmonary_hu: float = 400.0
    aorta_hu: float = 250.0
    spongiosa_hu: float = 230.0
    cortex_hu: float = 750.0
    noise_hu: float = 18.0
    off_centre: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the field of view (z, y, x)

    @property
    def scale(self) -> np.ndarray:
        """(z, y, x) factors from the reference body to this one."""
        return np.array([self.height_scale, self.depth_scale, self.width_scale])

    @property
    def girth(self) -> float:
        """Factor for radii of organs that grow with the body."""
        return float(np.cbrt(self.scale.prod()))

    def dome(self, side: float) -> float:
        """Height of the diaphragm on one side (-1 right, +1 left) at the patient's breath."""
        return (self.dome_right if side < 0 else self.dome_left) + self.breath_lift

    def place(self, points: Sequence | np.ndarray) -> np.ndarray:
        """Reference points (..., 3) -> this patient's mm, sideways with the spine's bow."""
        placed = np.asarray(points, np.float64) * self.scale
        placed[..., 2] += self.sway(placed[..., 0])
        return placed

    def sway(self, z: np.ndarray | float) -> np.ndarray:
        """Sideways offset (mm) of the spine at height z (mm)."""
        return self.scoliosis_mm * np.sin(np.asarray(z) / (75 * self.height_scale) + self.scoliosis_phase)

    def breathe(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) lifted with the diaphragm: all of it at the domes, nothing at the apex."""
        low, high = min(self.dome_right, self.dome_left), self.apex_right
        moved = np.array(points, np.float64)
        moved[..., 0] += self.breath_lift * smooth_step(moved[..., 0], high, low)
        return moved

    def exhaled(self, lift_mm: float) -> "Anatomy":
        """The same patient with the diaphragm higher by `lift_mm`."""
        return replace(self, breath_lift=self.breath_lift + lift_mm)


def draw_anatomy(rng: np.random.Generator, embolism: bool | None = None) -> Anatomy:
    """A random patient; `embolism` None leaves it to chance.

    Large bodies tend to have large hearts, but each organ varies on its own too. What runs front to back follows
    what a frontal X-ray shows (depth follows width, height and fat), as in people.
    """
    female = bool(rng.random() < 0.5)
    build, weight = rng.standard_normal() - 0.5 * female, rng.standard_normal()
    inspiration = 14 * rng.standard_normal()
    ill = bool(rng.random() < 0.5) if embolism is None else embolism
    return Anatomy(
        seed=int(rng.integers(2**31)),
        female=female,
        emboli=int(rng.integers(2, 8)) if ill else 0,
        **_draw_body(rng, build, weight, female),
        **_draw_lungs(rng, inspiration),
        **_draw_heart(rng, build, weight, inspiration, ill),
        **_draw_scan(rng, inspiration),
    )


def _draw_body(rng: np.random.Generator, build: float, weight: float, female: bool) -> dict[str, Any]:
    normal = rng.standard_normal
    log_width = 0.05 * build + 0.025 * weight + 0.045 * normal()
    log_depth = 0.6 * log_width + 0.03 * weight + 0.03 * normal()
    return {
        "width_scale": float(np.exp(log_width)),
        "depth_scale": float(np.exp(log_depth)),
        "height_scale": float(np.exp(0.07 * build + 0.05 * normal())),
        "fat_mm": float(np.clip(11 * np.exp(0.5 * weight + 0.3 * normal() + 0.25 * female), 3, 42)),
        "muscle_scale": float(np.exp(0.12 * normal() - 0.15 * female)),
        "wall_waves": tuple(float(v) for v in np.repeat((1.6, 1.2, 0.7), 2) * normal(6)),
        "scoliosis_mm": float(4 * normal() + _seldom(rng, 0.15, 8, 20)),
        "scoliosis_phase": float(rng.uniform(-np.pi, np.pi)),
        "kyphosis_scale": float(np.exp(0.1 * normal())),
        "mediastinum_scale": float(np.exp(0.18 * normal() + 0.1 * weight)),
        "mediastinum_shift": float(5 * normal()),
        "calcified": float(rng.beta(1, 2.5)),
    }


def _draw_lungs(rng: np.random.Generator, inspiration: float) -> dict[str, Any]:
    normal = rng.standard_normal
    right = -27 - inspiration + 7 * normal()
    left = right - 11 + 8 * normal()
    raised = _seldom(rng, 0.12, 22, 45)  # a paralysed half of the diaphragm
    raised_left = bool(rng.random() < 0.5)
    dense = (float(rng.choice((-1.0, 1.0))), float(rng.uniform(0.1, 0.85)), float(rng.uniform(12, 34)))
    return {
        "dome_right": float(right + raised * (not raised_left)),
        "dome_left": float(left + raised * raised_left),
        "apex_right": float(122 + 6 * normal()),
        "apex_left": float(125 + 6 * normal()),
        "effusion": (_seldom(rng, 0.15, 10, 60), _seldom(rng, 0.15, 10, 60)),
        "consolidation": dense if rng.random() < 0.25 else (),
    }


def _draw_heart(rng: np.random.Generator, build: float, weight: float, inspiration: float, ill: bool) -> dict[str, Any]:
    normal = rng.standard_normal
    log_size = 0.03 * build + 0.03 * weight + 0.06 * normal() + _seldom(rng, 0.22, 0.08, 0.2)
    return {
        "heart_scale": float(np.exp(log_size)),
        "heart_tilt": float(np.clip(0.5 * inspiration - 2 * weight + 8 * normal(), -25, 25)),
        "heart_shift": float(6 * normal()),
        "heart_round": float(np.exp(0.07 * normal())),
        "aorta_scale": float(np.exp(0.04 * build + 0.13 * normal())),
        "aorta_bulge": float(np.abs(8 * normal())),
        "aorta_top": float(84 + 6 * np.clip(normal(), -2, 2)),
        "pulmonary_scale": float(np.exp(0.04 * build + 0.1 * normal() + 0.1 * ill)),
    }


def _draw_scan(rng: np.random.Generator, inspiration: float) -> dict[str, Any]:
    """CT numbers, noise, table and centring."""
    normal, uniform = rng.standard_normal, rng.uniform
    return {
        "table": bool(rng.random() < 0.8),
        "table_gap": float(uniform(2, 12)),
        "lung_hu": float(np.clip(-850 - 0.8 * inspiration + 25 * normal(), -900, -800)),
        "fat_hu": float(uniform(-105, -85)),
        "muscle_hu": float(uniform(44, 60)),
        "pulmonary_hu": float(uniform(310, 500)),
        "aorta_hu": float(uniform(150, 350)),
        "spongiosa_hu": float(uniform(150, 300)),
        "cortex_hu": float(uniform(550, 950)),
        "noise_hu": float(uniform(8, 22)),
        "off_centre": (float(8 * normal()), float(2 * normal()), float(7 * normal())),
    }


def _seldom(rng: np.random.Generator, chance: float, low: float, high: float) -> float:
    """0, or with the given chance a value between low and high."""
    value = float(rng.uniform(low, high))
    return value if rng.random() < chance else 0.0
