"""Painting of soft-edged shapes into a CT, each only inside its bounding box. Millimetres; axes D, H, W."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.interpolate import CubicSpline

Box = tuple[slice, slice, slice]
Point = Sequence[float] | np.ndarray  # (z, y, x) mm
LABELS = (
    "air", "fat", "muscle", "skin", "mediastinum", "lung_right", "lung_left", "effusion", "consolidation",
    "abdomen", "liver", "spleen", "kidneys", "stomach", "bowel", "heart", "aorta", "pulmonary_artery", "emboli",
    "veins", "airways", "oesophagus", "spine", "ribs", "sternum", "clavicles", "scapulae", "humeri", "table",
)  # fmt: skip
LABEL_ID = {name: i for i, name in enumerate(LABELS)}


_BATCH_VOXELS = 1 << 19  # of capsules worked on at a time: their arrays stay in the cache


class Canvas:
    """A CT under construction: `hu` float32 (D, H, W) and the organ of each voxel, `labels` uint8 (D, H, W).

    `z`, `y`, `x` are the coordinates of the voxel centres in anatomical mm (foot -> head, front -> back,
    patient right -> left); a voxel that an organ fills in part gets that part of its HU.
    """

    def __init__(self, shape: Sequence[int], spacing: Sequence[float], centre: Point) -> None:
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

    def box(self, low: Point, high: Point) -> Box:
        """The voxels within [low, high] mm; an empty box where that misses the volume."""
        ends = zip(self.axes, low, high, strict=True)
        d, h, w = (slice(*np.searchsorted(axis, (lo - self.edge, hi + self.edge)).tolist()) for axis, lo, hi in ends)
        return (slice(0, 0),) * 3 if any(side.start == side.stop for side in (d, h, w)) else (d, h, w)

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

    def tube(
        self, points: np.ndarray, radii: np.ndarray | float, hu: float, label: str | None = None, tall: float = 1.0
    ) -> None:
        """Paint a chain of tapered capsules through `points` (n, 3) with `radii` (n,), or one, both mm."""
        wide = np.broadcast_to(radii, len(points))[:, None]
        self.capsules(np.concatenate([points[:-1], points[1:], wide[:-1], wide[1:]], 1), hu, label, tall)

    def capsules(self, segments: np.ndarray, hu: float, label: str | None = None, tall: float = 1.0) -> None:
        """Paint the union of tapered capsules, rows of (z, y, x of one end, of the other, radius, radius).

        `tall` times as high as thick: 1 is round.
        """
        if not len(segments):
            return
        margin = max(0.5 * self.edge, segments[:, 6:].max()) * np.array([tall, 1, 1])
        ends = segments[:, :6].reshape(-1, 3)
        box = self.box(ends.min(0) - margin, ends.max(0) + margin)
        cover = np.zeros(self.hu[box].shape, np.float32)
        for first, size, group in self._grouped(segments, box, tall):
            self._add_capsules(cover, box, first, size, group, tall)
        self.paint(box, cover, hu, label)

    def _grouped(
        self, segments: np.ndarray, outer: Box, tall: float
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Segments whose bounding boxes share a size: (first voxels (n, 3) in `outer`, size (3,), segments)."""
        reach = np.maximum(0.5 * self.edge, segments[:, 6:].max(1))[:, None] * [tall, 1, 1] + 0.5 * self.edge
        origin = [axis[side.start] for axis, side in zip(self.axes, outer, strict=True)]
        a, b = segments[:, :3], segments[:, 3:6]
        first = np.floor((np.minimum(a, b) - reach - origin) / self.spacing).astype(int)
        last = np.ceil((np.maximum(a, b) + reach - origin) / self.spacing).astype(int)
        first, last = np.maximum(first, 0), np.minimum(last, np.array(self.hu[outer].shape) - 1)
        seen = np.flatnonzero((first <= last).all(1))
        sizes = (last - first + 2) // 2 * 2  # even: fewer different ones
        for size in np.unique(sizes[seen], axis=0):
            same = seen[(sizes[seen] == size).all(1)]
            for part in np.array_split(same, -(-len(same) * int(size.prod()) // _BATCH_VOXELS)):
                yield first[part], size, segments[part]

    def _add_capsules(
        self,
        cover: np.ndarray,
        outer: Box,
        first: np.ndarray,
        size: np.ndarray,
        segments: np.ndarray,
        tall: float,
    ) -> None:
        index = [(start[:, None] + np.arange(n)) for start, n in zip(first.T, size, strict=True)]
        inside = [i < n for i, n in zip(index, cover.shape, strict=True)]
        index = [np.minimum(i, n - 1) for i, n in zip(index, cover.shape, strict=True)]
        z, y, x = (axis[side][i] for axis, side, i in zip(self.axes, outer, index, strict=True))
        squash = np.array([1 / tall, 1, 1], np.float32)  # into a space where the capsules are round
        ends = segments.astype(np.float32)
        t, distance2 = along_segments((z * squash[0], y, x), ends[:, :3] * squash, ends[:, 3:6] * squash)
        ra, rb = ends[:, 6, None, None, None], ends[:, 7, None, None, None]
        radius = ra + (rb - ra) * t
        # A tube thinner than a voxel is drawn a voxel wide, fainter by the ratio of the cross-sections.
        drawn = np.maximum(radius, np.float32(0.5 * self.edge))
        share = self.cover(np.sqrt(distance2) - drawn) * (radius / drawn) ** 2
        share *= _combined(np.multiply, inside)
        _, h, w = cover.shape
        flat = _combined(np.add, (index[0] * (h * w), index[1] * w, index[2]))
        np.maximum.at(cover.reshape(-1), flat.reshape(-1), share.reshape(-1))


def _combined(operation: np.ufunc, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Sums or products (n, d, h, w) of (n, d), (n, h) and (n, w)."""
    z, y, x = parts
    return operation(operation(z[:, :, None, None], y[:, None, :, None]), x[:, None, None, :])


def along_segments(points: Sequence[np.ndarray], a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest place on segment i to each point of its own grid.

    Args:
        points: coordinates (n, d), (n, h), (n, w) of n grids.
        a, b: ends (n, 3).

    Returns:
        t (n, d, h, w) in [0, 1] from a to b, and the squared distance to the segment there.
    """
    step = b - a
    length2 = np.maximum((step**2).sum(1), np.float32(1e-6))[:, None, None, None]
    offset = [axis - start[:, None] for axis, start in zip(points, a.T, strict=True)]
    along = [o * d[:, None] for o, d in zip(offset, step.T, strict=True)]
    dot, far = _combined(np.add, along), _combined(np.add, [o * o for o in offset])
    t = np.clip(dot / length2, 0, 1)
    return t, np.maximum(far - t * (2 * dot - t * length2), 0)


def ellipsoid(grid: Sequence[np.ndarray], centre: Point, radii: Point) -> np.ndarray:
    """Approximate signed distance (mm) of points to an ellipsoid with axes along the coordinate axes."""
    unit = sum(((axis - np.float32(c)) / np.float32(r)) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True))
    return (np.sqrt(unit) - 1) * np.float32(min(radii))


def turned_ellipsoid(grid: Sequence[np.ndarray], centre: Point, radii: Point, axes: np.ndarray) -> np.ndarray:
    """As `ellipsoid`, with `radii` along the rows of `axes` (3, 3), unit vectors (z, y, x)."""
    offsets = [axis - np.float32(c) for axis, c in zip(grid, centre, strict=True)]
    unit = sum(
        (sum(o * np.float32(c) for o, c in zip(offsets, row, strict=True)) / np.float32(r)) ** 2
        for row, r in zip(axes, radii, strict=True)
    )
    return (np.sqrt(unit) - 1) * np.float32(min(radii))


def smooth_path(knots: Sequence[Point] | np.ndarray, step: float = 8.0) -> np.ndarray:
    """Points (n, 3) about `step` mm apart on a smooth curve through the knots (k, 3)."""
    points = np.asarray(knots, np.float64)
    place = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    count = max(2, int(np.ceil(place[-1] / step)) + 1)
    return CubicSpline(place, points)(np.linspace(0, place[-1], count))


def smooth_step(value: np.ndarray | float, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high` (or the reverse if high < low), a cubic between."""
    t = np.clip((np.asarray(value) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
