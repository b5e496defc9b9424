"""Painting of soft-edged shapes into a CT, each only inside its bounding box. Millimetres; axes D, H, W."""

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import CubicSpline

Box = tuple[slice, slice, slice]
LABELS = (
    "air", "fat", "muscle", "skin", "mediastinum", "lung_right", "lung_left", "effusion", "consolidation",
    "abdomen", "liver", "spleen", "kidneys", "stomach", "bowel", "heart", "aorta", "pulmonary_artery", "emboli",
    "veins", "airways", "oesophagus", "spine", "ribs", "sternum", "clavicles", "scapulae", "humeri", "table",
)  # fmt: skip
LABEL_ID = {name: i for i, name in enumerate(LABELS)}


class Canvas:
    """A CT under construction: `hu` float32 (D, H, W) and the organ of each voxel, `labels` uint8 (D, H, W).

    `z`, `y`, `x` are the coordinates of the voxel centres in anatomical mm (foot -> head, front -> back,
    patient right -> left); a voxel that an organ fills in part gets that part of its HU.
    """

    def __init__(self, shape: Sequence[int], spacing: Sequence[float], centre: Sequence[float]) -> None:
        self.spacing = tuple(float(s) for s in spacing)
        self.axes = tuple(
            ((np.arange(n) - (n - 1) / 2) * s + c).astype(np.float32)
            for n, s, c in zip(shape, self.spacing, centre, strict=True)
        )
        self.hu = np.full(tuple(shape), -1000, np.float32)
        self.labels = np.zeros(tuple(shape), np.uint8)
        self.edge = float(np.prod(self.spacing) ** (1 / 3))  # mm over which a boundary fades

    @property
    def whole(self) -> Box:
        d, h, w = self.hu.shape
        return slice(0, d), slice(0, h), slice(0, w)

    def box(self, low: Sequence[float], high: Sequence[float]) -> Box | None:
        """The voxels within [low, high] mm, or None where that misses the volume."""
        sides = []
        for axis, lo, hi in zip(self.axes, low, high, strict=True):
            first, last = np.searchsorted(axis, (lo - self.edge, hi + self.edge))
            if first == last:
                return None
            sides.append(slice(int(first), int(last)))
        return sides[0], sides[1], sides[2]

    def grid(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(z, y, x) of a box, shaped to broadcast: (d, 1, 1), (1, h, 1), (1, 1, w)."""
        z, y, x = (axis[side] for axis, side in zip(self.axes, box, strict=True))
        return z[:, None, None], y[None, :, None], x[None, None, :]

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """Share of each voxel inside a shape, from the signed distance to its surface (mm, negative inside)."""
        return np.clip(np.float32(0.5) - distance * np.float32(1 / self.edge), 0, 1, dtype=np.float32)

    def paint(self, box: Box, cover: np.ndarray, hu: float | np.ndarray, label: str | None = None) -> None:
        """Mix `hu` into a box by `cover` in [0, 1]; voxels more than half covered get the label."""
        view = self.hu[box]
        view += cover * (hu - view)
        if label is not None:
            self.labels[box][cover > 0.5] = LABEL_ID[label]

    def blob(self, centre: Sequence[float], radii: Sequence[float], hu: float, label: str | None = None) -> None:
        """Paint an ellipsoid with axes along the volume's; `centre` and `radii` are (z, y, x) mm."""
        low, high = np.subtract(centre, radii), np.add(centre, radii)
        box = self.box(low, high)
        if box is not None:
            self.paint(box, self.cover(ellipsoid(self.grid(box), centre, radii)), hu, label)

    def tube(self, points: np.ndarray, radii: np.ndarray, hu: float, label: str | None = None) -> None:
        """Paint a chain of tapered capsules through `points` (n, 3) with `radii` (n,), both mm."""
        segments = np.concatenate([points[:-1], points[1:], radii[:-1, None], radii[1:, None]], 1)
        self.capsules(segments, hu, label)

    def capsules(self, segments: np.ndarray, hu: float, label: str | None = None) -> None:
        """Paint the union of tapered capsules, rows of (z, y, x of one end, of the other, radius, radius)."""
        margin = segments[:, 6:].max()
        ends = segments[:, :6].reshape(-1, 3)
        box = self.box(ends.min(0) - margin, ends.max(0) + margin)
        if box is None:
            return
        cover = np.zeros(self.hu[box].shape, np.float32)
        for segment in segments:
            self._add_capsule(cover, box, segment)
        self.paint(box, cover, hu, label)

    def _add_capsule(self, cover: np.ndarray, outer: Box, segment: np.ndarray) -> None:
        a, b, ra, rb = segment[:3], segment[3:6], float(segment[6]), float(segment[7])
        thin = max(0.5 * self.edge, ra, rb)
        box = self.box(np.minimum(a, b) - thin, np.maximum(a, b) + thin)
        if box is None:
            return
        t, distance2 = along_segment(self.grid(box), a, b)
        radius = ra + (rb - ra) * t
        # A tube thinner than a voxel is drawn a voxel wide, fainter by the ratio of the cross-sections.
        drawn = np.maximum(radius, 0.5 * self.edge)
        share = self.cover(np.sqrt(distance2) - drawn) * (radius / drawn) ** 2
        inner = tuple(
            slice(i.start - o.start, i.stop - o.start) for i, o in zip(box, outer, strict=True)
        )
        np.maximum(cover[inner], share, out=cover[inner])


def along_segment(
    grid: tuple[np.ndarray, np.ndarray, np.ndarray], a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Place t in [0, 1] on the segment a-b nearest to each point, and the squared distance to it, (d, h, w)."""
    direction = np.asarray(b - a, np.float32)
    length2 = np.float32(max(float(direction @ direction), 1e-6))
    offsets = [axis - np.float32(start) for axis, start in zip(grid, a, strict=True)]
    along = sum(offset * d for offset, d in zip(offsets, direction, strict=True))
    t = np.clip(along / length2, 0, 1)
    distance2 = sum((offset - t * d) ** 2 for offset, d in zip(offsets, direction, strict=True))
    return t, distance2


def ellipsoid(grid: Sequence[np.ndarray], centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Approximate signed distance (mm) of points to an ellipsoid with axes along the coordinate axes."""
    unit = sum(
        ((axis - np.float32(c)) / np.float32(r)) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True)
    )
    return (np.sqrt(unit) - 1) * np.float32(min(radii))


def turned_ellipsoid(
    grid: Sequence[np.ndarray], centre: Sequence[float], radii: Sequence[float], axes: np.ndarray
) -> np.ndarray:
    """As `ellipsoid`, with `radii` along the rows of `axes` (3, 3), unit vectors (z, y, x)."""
    offsets = [axis - np.float32(c) for axis, c in zip(grid, centre, strict=True)]
    unit = sum(
        (sum(o * np.float32(c) for o, c in zip(offsets, row, strict=True)) / np.float32(r)) ** 2
        for row, r in zip(axes, radii, strict=True)
    )
    return (np.sqrt(unit) - 1) * np.float32(min(radii))


def smooth_path(knots: Sequence[Sequence[float]], step: float = 8.0) -> np.ndarray:
    """Points (n, 3) about `step` mm apart on a smooth curve through the knots (k, 3)."""
    points = np.asarray(knots, np.float64)
    place = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    count = max(2, int(np.ceil(place[-1] / step)) + 1)
    return CubicSpline(place, points)(np.linspace(0, place[-1], count))


def smooth_step(value: np.ndarray | float, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high` (or the reverse if high < low), a cubic between."""
    t = np.clip((np.asarray(value) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
