"""The chest wall as nested surfaces around one axis: cavity (pleura), ribs, muscle, fat, skin."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from dataset.phantom.anatomy import Anatomy
from dataset.phantom.canvas import smooth_step

AXIS_Y = -80.0  # mm, reference: every axial outline is star-shaped about (AXIS_Y, 0)
ANGLES = 720  # table columns; angle 0 = patient left, pi/2 = back
_HEIGHTS = np.arange(-260.0, 261.0, 5.0)  # table rows, mm in the reference body

# Reference half width, front and back of the thoracic cavity at given heights.
_Z = [-260, -200, -150, -100, -50, 0, 40, 75, 100, 120, 138, 160, 260]
_HALF_WIDTH = [112, 114, 120, 128, 128.5, 124, 117, 105, 93, 76, 58, 48, 44]
_FRONT = [-165, -167, -171, -174, -172, -168, -164, -154, -134, -112, -100, -96, -96]
_SPINE_Z = [-260, -200, -150, -121, -95, -68, -45, -23, 0, 24, 47, 68, 87, 105, 120, 134, 150, 175, 260]
_SPINE_Y = [-62, -62, -52, -42, -32, -24, -18, -15, -13, -13, -17, -24, -34, -46, -60, -74, -88, -100, -100]
_SPINE_CURVE = PchipInterpolator(_SPINE_Z, _SPINE_Y)
_FRONT_CURVE = PchipInterpolator(_Z, _FRONT)


@dataclass(frozen=True)
class Surface:
    """A closed tube around the vertical axis: radius (mm) by height and angle."""

    heights: np.ndarray  # (n,) mm, ascending, even
    radius: np.ndarray  # (n, ANGLES) mm, float32
    axis: tuple[float, float]  # (y, x) mm

    def rows(self, z: np.ndarray) -> np.ndarray:
        """Radius tables (k, ANGLES) at heights z (k,)."""
        low, share = self._row(z)
        return self.radius[low] * (1 - share[:, None]) + self.radius[low + 1] * share[:, None]

    def _row(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Table row below each height, and the share of the next row."""
        step = self.heights[1] - self.heights[0]
        place = np.clip((z - self.heights[0]) / step, 0, len(self.heights) - 1.001)
        low = place.astype(int)
        return low, (place - low).astype(np.float32)

    def at(self, z: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Radius at heights and angles (rad) of the same shape (k,)."""
        column = np.round(np.asarray(angle) / (2 * np.pi) * ANGLES).astype(int) % ANGLES
        low, share = self._row(np.asarray(z, np.float64))
        return self.radius[low, column] * (1 - share) + self.radius[low + 1, column] * share

    def point(self, z: np.ndarray, angle: np.ndarray, outward: float | np.ndarray = 0.0) -> np.ndarray:
        """Points (k, 3) `outward` mm outside the surface."""
        r = self.at(z, angle) + outward
        return np.stack([z, self.axis[0] + r * np.sin(angle), self.axis[1] + r * np.cos(angle)], -1)

    def grown(self, thickness: np.ndarray) -> "Surface":
        """The surface `thickness` (n, ANGLES) mm further out."""
        return Surface(self.heights, (self.radius + thickness).astype(np.float32), self.axis)


@dataclass(frozen=True)
class Wall:
    """Surfaces from inside out."""

    cavity: Surface
    ribs: Surface  # middle of the ribs
    muscle: Surface
    skin: Surface  # the body's outline


def spine_y(z: np.ndarray | float, anatomy: Anatomy) -> np.ndarray:
    """y (mm) of the vertebral bodies' middle at height z (mm)."""
    reference = _SPINE_CURVE(np.asarray(z) / anatomy.height_scale)
    return (anatomy.kyphosis_scale * (reference + 13) - 13) * anatomy.depth_scale


def cavity_front(z: np.ndarray | float, anatomy: Anatomy) -> np.ndarray:
    """y (mm) of the cavity's most anterior point at height z (mm)."""
    return _FRONT_CURVE(np.asarray(z) / anatomy.height_scale) * anatomy.depth_scale


def build_wall(anatomy: Anatomy) -> Wall:
    """The chest wall of a patient."""
    heights = _HEIGHTS * anatomy.height_scale
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    cavity = _cavity(anatomy, heights, angle)
    z, side = _HEIGHTS[:, None], np.abs(np.cos(angle))[None]
    front, back = np.clip(-np.sin(angle), 0, 1)[None], np.clip(np.sin(angle), 0, 1)[None]
    ribs = cavity.grown(np.full(cavity.radius.shape, 5.0))
    pectoral = 15 * smooth_step(z, -10, 50) * smooth_step(front, 0.25, 0.5) * smooth_step(front, 0.99, 0.8)
    lateral = 8 * side**2 * smooth_step(z, -160, -40)
    paraspinal = 10 * smooth_step(back, 0.65, 0.97) * smooth_step(z, 130, 30) + 3 * back
    girdle = smooth_step(z, 15, 120) * smooth_step(back + 0.35, 0.0, 0.6) * smooth_step(back, 1.0, 0.8)
    shoulder = 75 * smooth_step(z, 15, 150) ** 1.5 * side**3
    muscles = anatomy.muscle_scale * (pectoral + lateral + paraspinal + 24 * girdle + shoulder) + 12
    muscles = muscles + 24 * smooth_step(front, 0.6, 0.95) * smooth_step(z, 60, 118)  # breastbone, throat
    muscle = cavity.grown(muscles)
    belly = 1 + 0.5 * front * smooth_step(z, -40, -150) + 0.25 * side * smooth_step(z, 0, -120)
    fat = anatomy.fat_mm * (belly + 0.2 * back) * (0.75 + 0.25 * smooth_step(z, 160, 100)) + 2
    return Wall(cavity, ribs, muscle, muscle.grown(fat + _breasts(anatomy, z, angle[None])))


def _breasts(anatomy: Anatomy, z: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Thickness (n, ANGLES) that breasts add to the fat."""
    size = (18 + 0.8 * anatomy.fat_mm) if anatomy.female else 0.25 * anatomy.fat_mm
    off_middle = np.abs(angle - 1.5 * np.pi)
    return size * np.exp(-(((off_middle - 0.62) / 0.33) ** 2) - ((z + 5) / 42) ** 2)


def _cavity(anatomy: Anatomy, heights: np.ndarray, angle: np.ndarray) -> Surface:
    """Superellipses between the sternum and the gutters beside the spine, seen from the axis."""
    z = _HEIGHTS
    half = PchipInterpolator(_Z, _HALF_WIDTH)(z) * anatomy.width_scale
    front = cavity_front(heights, anatomy)
    # The gutters reach further behind the spine, the higher up.
    back = spine_y(heights, anatomy) + (27 + 13 * smooth_step(z, 0, 110)) * anatomy.depth_scale
    middle, depth = (front + back) / 2, (back - front) / 2
    shift = anatomy.sway(heights) * 0.7
    axis = (AXIS_Y * anatomy.depth_scale, 0.0)
    phi = np.linspace(0, 2 * np.pi, 1440, endpoint=False)
    power = 2 / (2.3 + 0.25 * np.sin(phi))  # rounder in front, squarer in the gutters behind
    unit_y = np.sign(np.sin(phi)) * np.abs(np.sin(phi)) ** power
    unit_x = np.sign(np.cos(phi)) * np.abs(np.cos(phi)) ** power
    unit_x *= 1 + 0.05 * unit_y - 0.06 * np.clip(-unit_y, 0, 1) ** 2
    table = np.empty((len(z), ANGLES), np.float32)
    for row in range(len(z)):
        y = middle[row] + depth[row] * unit_y - axis[0]
        x = half[row] * unit_x + shift[row]
        seen = np.arctan2(y, x) % (2 * np.pi)
        order = np.argsort(seen)
        table[row] = np.interp(angle, seen[order], np.hypot(x, y)[order], period=2 * np.pi)
    waves = zip(anatomy.wall_waves[::2], anatomy.wall_waves[1::2], strict=True)
    for number, (cosine, sine) in enumerate(waves, start=2):
        table += cosine * np.cos(number * angle) + sine * np.sin(number * angle)
    return Surface(heights, table, axis)
