"""The heart's chambers and the great vessels in the middle of the chest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset.phantom.anatomy import Anatomy
from dataset.phantom.canvas import Canvas, smooth_path, turned_ellipsoid
from dataset.phantom.wall import spine_y

Tube = tuple[np.ndarray, np.ndarray]  # middle line (n, 3) and radii (n,)
_CENTRE = np.array([-10.0, -106.0, 33.0])  # of the heart, reference
_DOMES = -28.0  # mean reference height of the diaphragm
_LONG = np.array([-0.55, -0.42, 0.72])  # from the base to the tip


def _frame(tilt: float) -> np.ndarray:
    """Rows: the heart's long axis (tilted in the frontal plane), and two axes across it."""
    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    long = np.array([c * _LONG[0] - s * _LONG[2], _LONG[1], s * _LONG[0] + c * _LONG[2]])
    long /= np.linalg.norm(long)
    across = np.cross(long, [0.0, 1.0, 0.0])
    across /= np.linalg.norm(across)
    return np.stack([long, across, np.cross(long, across)])


@dataclass(frozen=True)
class HeartFrame:
    """Where reference points of the heart lie in a patient."""

    anatomy: Anatomy

    @property
    def centre(self) -> np.ndarray:
        a = self.anatomy
        centre = a.breathe(a.place(_CENTRE))
        lowered = 0.5 * ((a.dome_right + a.dome_left) / 2 - _DOMES)
        # A large heart grows to the left, downwards and forwards-backwards about its attachment.
        grown = (a.heart_scale - 1) * np.array([-14.0, -12.0, 22.0])
        return centre + [lowered, 0, a.heart_shift + 0.7 * a.mediastinum_shift] + grown

    @property
    def size(self) -> float:
        return 1.08 * self.anatomy.heart_scale * self.anatomy.girth

    @property
    def axes(self) -> np.ndarray:
        return _frame(self.anatomy.heart_tilt)

    def at(self, points: Sequence | np.ndarray) -> np.ndarray:
        """Reference points (..., 3) of the heart -> mm."""
        turn = self.axes.T @ _frame(0.0)
        return self.centre + self.size * (np.asarray(points, np.float64) - _CENTRE) @ turn.T


@dataclass(frozen=True)
class GreatVessels:
    """The vessels that leave the heart."""

    aorta: Tube
    trunk: Tube
    right_artery: Tube
    left_artery: Tube

    @staticmethod
    def of(anatomy: Anatomy) -> "GreatVessels":
        heart, place, g = HeartFrame(anatomy), anatomy.place, anatomy.girth
        wide = 6.0 * g * anatomy.pulmonary_scale
        aorta = _aorta(anatomy, heart)
        valve, fork = heart.at([14, -132, 27]), place([43, -99, 17 + anatomy.mediastinum_shift])
        trunk = smooth_path([valve, (valve + fork) / 2 + [4, -6, 3], fork], 5)
        right = smooth_path([fork, place([43, -91, -6]), place([37, -82, -30]), place([27, -76, -44])], 5)
        left = smooth_path([fork, place([50, -82, 34]), place([45, -66, 46]), place([30, -58, 51])], 5)
        return GreatVessels(
            aorta,
            (trunk, np.linspace(2.3 * wide, 2.1 * wide, len(trunk))),
            (right, np.linspace(1.75 * wide, 1.15 * wide, len(right))),
            (left, np.linspace(1.7 * wide, 1.15 * wide, len(left))),
        )


def _aorta(anatomy: Anatomy, heart: HeartFrame) -> Tube:
    top, out = anatomy.aorta_top, anatomy.aorta_bulge
    shift = anatomy.mediastinum_shift
    ascending = [heart.at([4, -108, 14]), heart.at([24, -114, 0])]
    arch = [[58, -117, -10 - 0.4 * out], [top - 8, -110, -3], [top, -93, 15], [top - 8, -70, 24 + 0.6 * out]]
    arch_mm = anatomy.place(np.array(arch) + [0, 0, 0.5 * shift])
    course = [(52, 25 + out), (20, 22 + out), (-20, 17 + 0.7 * out), (-70, 9), (-120, 4), (-190, 1), (-250, 0)]
    height, x = np.array(course).T * [[anatomy.height_scale], [anatomy.width_scale]]
    down = np.stack([height, spine_y(height, anatomy) - 29 * anatomy.depth_scale, x + anatomy.sway(height)], -1)
    points = smooth_path([*ascending, *arch_mm, *down], 6)
    place = np.linspace(0, 1, len(points))
    radii = np.interp(place, [0, 0.12, 0.3, 0.5, 1.0], [16, 16.5, 14.5, 12.5, 9.5])
    return points, radii * anatomy.aorta_scale * anatomy.girth


# Reference centre, radii along (long, across, third) axis: ellipsoids of the heart.
_CHAMBERS = {
    "fat": ([-10, -107, 31], (60, 45, 42)),
    "wall": ([-17, -110, 42], (52, 38, 37)),
    "right_ventricle": ([-20, -128, 24], (40, 30, 22)),
    "septum": ([-21, -110, 49], (50, 32, 31)),
    "left_ventricle": ([-20, -110, 47], (41, 22, 21)),
    "right_atrium": ([-12, -106, -14], (27, 24, 21)),
    "left_atrium": ([9, -78, 10], (23, 20, 30)),
}


def paint_heart(canvas: Canvas, anatomy: Anatomy) -> None:
    """Pericardial fat, muscle and the contrast-filled chambers."""
    heart = HeartFrame(anatomy)
    left = 0.9 * anatomy.aorta_hu + 15
    right = 0.9 * anatomy.pulmonary_hu
    muscle = 60 + 0.18 * anatomy.aorta_hu
    paints = {
        "fat": anatomy.fat_hu, "wall": muscle, "right_ventricle": right, "septum": muscle,
        "left_ventricle": left, "right_atrium": right, "left_atrium": left,
    }  # fmt: skip
    for name, hu in paints.items():
        centre, radii = _CHAMBERS[name]
        shape = np.array(radii) * heart.size * [1 / anatomy.heart_round, 1, 1]
        grow = 1.08 if name == "fat" else 1.0
        _paint_chamber(canvas, heart, heart.at(centre), shape * grow, hu, "mediastinum" if name == "fat" else "heart")


def heart_distance(heart: HeartFrame, points: Sequence[np.ndarray]) -> np.ndarray:
    """Approximate signed distance (mm) to the heart's outside, from coordinate arrays (z, y, x)."""
    centre, radii = _CHAMBERS["fat"]
    return turned_ellipsoid(points, heart.at(centre), np.array(radii) * heart.size, heart.axes)


def _paint_chamber(
    canvas: Canvas, heart: HeartFrame, centre: np.ndarray, radii: np.ndarray, hu: float, label: str
) -> None:
    axes = heart.axes
    reach = np.sqrt(((axes * radii[:, None]) ** 2).sum(0)) + 3
    box = canvas.box(centre - reach, centre + reach)
    z, y, x = canvas.grid(box)
    # Slow waves make the chambers less than perfect ellipsoids.
    phase = np.float32(heart.anatomy.seed % 97)
    wave = 1.8 * np.sin(z / 14 + phase) * np.cos(y / 12 + x / 17 + phase)
    distance = turned_ellipsoid((z, y, x), centre, radii, axes)
    canvas.paint(box, canvas.cover(distance + wave), hu, label)


def paint_great_vessels(canvas: Canvas, anatomy: Anatomy, vessels: GreatVessels) -> None:
    """Oesophagus, venae cavae, aorta with its arch's branches, pulmonary trunk and main arteries."""
    _paint_oesophagus(canvas, anatomy)
    _paint_large_veins(canvas, anatomy)
    _paint_arch_branches(canvas, anatomy)
    canvas.tube(*vessels.aorta, anatomy.aorta_hu, "aorta")
    for part in (vessels.right_artery, vessels.left_artery, vessels.trunk):
        canvas.tube(*part, anatomy.pulmonary_hu, "pulmonary_artery")


def _paint_oesophagus(canvas: Canvas, anatomy: Anatomy) -> None:
    height, x = np.array([[170, 2], [120, 6], [70, 3], [20, 4], [-30, 12], [-70, 22]], np.float64).T
    z = height * anatomy.height_scale
    knots = np.stack([z, spine_y(z, anatomy) - 24 * anatomy.girth, x + anatomy.sway(z)], -1)
    canvas.tube(smooth_path(knots), 7.5 * anatomy.girth, 40, "oesophagus")


def _paint_large_veins(canvas: Canvas, anatomy: Anatomy) -> None:
    """Both venae cavae and the veins of the arms; contrast arrives through the right arm."""
    heart, place, g = HeartFrame(anatomy), anatomy.place, anatomy.girth
    fresh = anatomy.pulmonary_hu + 130
    fork = [80, -110, -20 + 0.5 * anatomy.mediastinum_shift]
    right = place([fork, [96, -116, -22], [112, -122, -38], [118, -132, -66], [124, -118, -105]])
    left = place([fork, [90, -120, 4], [108, -122, 30], [118, -132, 62], [124, -118, 105]])
    upper = np.stack([place(fork), place([45, -102, -22]), heart.at([4, -103, -17])])
    lower = np.concatenate([[heart.at([-32, -100, -12])], place([[-75, -92, -10], [-130, -78, -12], [-240, -75, -14]])])
    for knots, start, end, hu in (
        (lower, 11.0, 11.0, 95.0),
        (left, 7.5, 5.5, 110.0),
        (right, 7.5, 5.5, fresh),
        (upper, 9.5, 9.5, fresh),
    ):
        line = smooth_path(knots)
        canvas.tube(line, np.linspace(start, end, len(line)) * g, hu, "veins")


def _paint_arch_branches(canvas: Canvas, anatomy: Anatomy) -> None:
    """The arteries of the head and the arms, from offsets (z, y, x) to the top of the arch."""
    for course, wide in (
        ([(0, -102, -2), (16, -108, -6), (32, -104, -18), (60, -104, -28)], 6.0),
        ([(0, -92, 8), (18, -98, 12), (40, -104, 18), (70, -104, 22)], 4.0),
        ([(-2, -80, 16), (18, -82, 24), (34, -86, 36), (42, -90, 72)], 5.0),
    ):
        line = smooth_path(anatomy.place(np.array(course) + [anatomy.aorta_top, 0, 0]))
        canvas.tube(line, wide * anatomy.girth, anatomy.aorta_hu, "aorta")
