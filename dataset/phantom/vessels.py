"""Branching trees in the lungs: pulmonary arteries, veins and airways; clots in the arteries."""

from dataclasses import dataclass

import numpy as np

from dataset.phantom.anatomy import Anatomy
from dataset.phantom.canvas import Canvas, smooth_path
from dataset.phantom.heart import GreatVessels, HeartFrame, heart_distance
from dataset.phantom.lungs import SIDES, lung_distance
from dataset.phantom.wall import Wall

_TIPS = 260  # end branches per lung and tree


@dataclass(frozen=True)
class Branch:
    """A tapered piece of a tree; `level` 1 leaves the main vessel."""

    start: np.ndarray
    end: np.ndarray
    radius_start: float
    radius_end: float
    level: int

    @property
    def segment(self) -> np.ndarray:
        return np.array([*self.start, *self.end, self.radius_start, self.radius_end])


def grow_tree(
    root: np.ndarray,
    radius: float,
    tips: np.ndarray,
    rng: np.random.Generator,
    level: int = 1,
    taper: float = 2.6,
) -> list[Branch]:
    """A tree from `root` that reaches all `tips` (n, 3), halving them at each fork.

    Radii follow Murray's law with exponent `taper`: r^taper of the parent is the sum over its children.
    """
    if len(tips) == 1:
        return [Branch(root, tips[0], radius, 0.6 * radius, level)]
    spread = tips - tips.sum(0) / len(tips)
    main = np.linalg.eigh(spread.T @ spread)[1][:, -1]
    order = np.argsort(spread @ main)
    cut = int(np.clip(round(len(tips) * rng.uniform(0.35, 0.65)), 1, len(tips) - 1))
    branches = []
    for part in (order[:cut], order[cut:]):
        wide = radius * (len(part) / len(tips)) ** (1 / taper)
        if len(part) == 1:
            branches += grow_tree(root, wide, tips[part], rng, level, taper)
            continue
        goal = tips[part].sum(0) / len(part)
        fork = root + rng.uniform(0.34, 0.48) * (goal - root) + rng.normal(0, 1.5, 3)
        branches.append(Branch(root, fork, wide, 0.98 * wide, level))
        branches += grow_tree(fork, 0.98 * wide, tips[part], rng, level + 1, taper)
    return branches


def lung_points(
    anatomy: Anatomy, wall: Wall, side: int, count: int, margin: float, rng: np.random.Generator
) -> np.ndarray:
    """`count` evenly scattered points (n, 3) at least about `margin` mm inside one lung at full breath."""
    low = anatomy.place([-105, -172, 5 if side > 0 else -130])
    high = anatomy.place([125, 16, 130 if side > 0 else -5])
    tries = rng.uniform(np.minimum(low, high), np.maximum(low, high), (14 * count, 3))
    z, y, x = tries.T
    angle = np.arctan2(y - wall.cavity.axis[0], x - wall.cavity.axis[1])
    cavity = np.hypot(y - wall.cavity.axis[0], x - wall.cavity.axis[1]) - wall.cavity.at(z, angle)
    heart = heart_distance(HeartFrame(anatomy), (z, y, x))
    inside = np.maximum(lung_distance(anatomy, side, cavity, z, y, x), -heart) < -margin
    return _even_subset(tries[inside], count)


def _even_subset(points: np.ndarray, count: int) -> np.ndarray:
    """`count` of the points (n, 3) far from one another: always the one farthest from those chosen."""
    columns = np.ascontiguousarray(points.T, np.float32)
    chosen = [0]
    distance = np.full(len(points), np.inf, np.float32)
    for _ in range(min(count, len(points)) - 1):
        offset = columns - columns[:, chosen[-1], None]
        np.minimum(distance, np.einsum("ij,ij->j", offset, offset), out=distance)
        chosen.append(int(distance.argmax()))
    return points[chosen]


@dataclass(frozen=True)
class LungTrees:
    """Branches of both lungs, in mm at the patient's breath."""

    arteries: list[Branch]
    veins: list[Branch]
    airways: list[Branch]

    @staticmethod
    def of(anatomy: Anatomy, wall: Wall, vessels: GreatVessels, rng: np.random.Generator) -> "LungTrees":
        calm = anatomy.exhaled(-anatomy.breath_lift)  # targets belong to the tissue: chosen once, then moved
        heart, girth = HeartFrame(anatomy), anatomy.girth
        arteries, veins, airways = [], [], []
        for name, side in SIDES.items():
            tips = anatomy.breathe(lung_points(calm, wall, side, 2 * _TIPS, 6.0, rng))
            line, radii = vessels.right_artery if name == "right" else vessels.left_artery
            arteries += grow_tree(line[-1], 1.05 * float(radii[-1]), tips[::2], rng)
            hilum = anatomy.place([2, -74, side * 40 + 4])
            inflow = heart.at([7, -76, 10 + 20 * side])
            veins.append(Branch(inflow, hilum, 7.0 * girth, 6.5 * girth, 0))
            veins += grow_tree(hilum, 6.4 * girth, tips[1::2], rng)
            bronchus = anatomy.place(BRONCHUS[name])[-1]
            airways += grow_tree(bronchus, 5.8 * girth, tips[::8], rng, taper=2.2)
        return LungTrees(arteries, veins, airways)


BRONCHUS = {  # reference course from the tracheal fork
    "right": [[44, -72, 0], [36, -68, -18], [22, -64, -36]],
    "left": [[44, -72, 0], [36, -66, 22], [24, -60, 46]],
}


def _visible(canvas: Canvas, branches: list[Branch]) -> np.ndarray:
    """Segments (n, 8) of the branches that a grid this coarse can show (5 % of a voxel's contrast)."""
    least = 0.22 * 0.5 * canvas.edge
    return np.array([b.segment for b in branches if b.radius_start > least]).reshape(-1, 8)


def paint_trees(canvas: Canvas, anatomy: Anatomy, trees: LungTrees) -> None:
    """Veins, bronchi with their walls, arteries, then the windpipe and main bronchi."""
    canvas.capsules(_visible(canvas, trees.veins), 0.9 * anatomy.aorta_hu + 15, "veins")
    airways = _visible(canvas, [b for b in trees.airways if b.level <= 4])
    canvas.capsules(airways + np.array([0] * 6 + [1.0, 1.0]), -350)
    canvas.capsules(airways, -960, "airways")
    canvas.capsules(_visible(canvas, trees.arteries), anatomy.pulmonary_hu, "pulmonary_artery")
    _paint_windpipe(canvas, anatomy)


def _paint_windpipe(canvas: Canvas, anatomy: Anatomy) -> None:
    shift = 0.4 * anatomy.mediastinum_shift
    course = [[230, -128, 0], [150, -114, 0], [110, -100, shift - 2], [75, -84, shift - 5], [44, -72, 0]]
    windpipe = smooth_path(anatomy.place(course))
    tubes = [(windpipe, np.full(len(windpipe), 8.6 * anatomy.girth))]
    for name, wide in (("right", 7.4), ("left", 6.3)):
        line = smooth_path(anatomy.place(BRONCHUS[name]), 5)
        tubes.append((line, np.linspace(wide, 5.8, len(line)) * anatomy.girth))
    for line, radii in tubes:
        canvas.tube(line, radii + 1.6, 30)
    for line, radii in tubes:
        canvas.tube(line, radii, -985, "airways")


def paint_emboli(
    canvas: Canvas, anatomy: Anatomy, vessels: GreatVessels, trees: LungTrees, rng: np.random.Generator
) -> None:
    """Clots of 30-70 HU inside pulmonary arteries, some filling them, some lying in the stream."""
    large = [b for b in trees.arteries if b.level <= 3 and b.radius_end > 2.0]
    for _ in range(anatomy.emboli):
        hu, share = rng.uniform(30, 70), rng.uniform(0.55, 1.0)
        if rng.random() < 0.3:
            line, radii = vessels.right_artery if rng.random() < 0.5 else vessels.left_artery
            first = int(rng.integers(len(line) // 3, max(len(line) // 3 + 1, len(line) - 3)))
            part = slice(first, first + 4)
            canvas.tube(line[part], 0.7 * share * radii[part], hu, "emboli")
            continue
        b = large[int(rng.integers(len(large)))]
        begin, stop = rng.uniform(0, 0.25), rng.uniform(0.6, 1.0)
        ends = np.stack([b.start + begin * (b.end - b.start), b.start + stop * (b.end - b.start)])
        canvas.tube(ends, share * np.array([b.radius_start, b.radius_end]), hu, "emboli")
