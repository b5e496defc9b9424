"""Spine, ribs, sternum, clavicles, shoulder blades and upper arms."""

import numpy as np

from dataset.phantom.anatomy import Anatomy
from dataset.phantom.canvas import Canvas, smooth_path, smooth_step
from dataset.phantom.lungs import PolarGrid
from dataset.phantom.wall import Wall, cavity_front, spine_y

# Heights (mm, reference) of the middles of the vertebral bodies L4, L3 ... T1, C7, C6, C5, C4.
VERTEBRAE = np.array(
    [-208, -178, -149, -121, -95, -68, -45, -23, 0, 24, 47, 68, 87, 105, 120, 135, 150, 166, 182], np.float64
)
T1 = 15  # index of the first thoracic vertebra; T12 is T1 - 11
# Fall (mm) of each rib from back to front, and the angle it reaches (degrees from the back, 180 = breastbone).
RIB_FALL = (28, 44, 60, 80, 96, 104, 106, 102, 92, 84, 60, 34)
RIB_REACH = (148, 150, 152, 153, 153, 150, 143, 131, 118, 105, 78, 50)


def paint_spine(canvas: Canvas, anatomy: Anatomy) -> None:
    """Vertebral bodies with end plates and discs, and the arches behind them."""
    z_low, z_high = canvas.axes[0][[0, -1]]
    ys = spine_y(canvas.axes[0], anatomy)
    shift = anatomy.sway(canvas.axes[0])
    half = 42 * anatomy.girth
    box = canvas.box((z_low, ys.min() - half, shift.min() - half), (z_high, ys.max() + half, shift.max() + half))
    _paint_bodies(canvas, box, anatomy)
    for number, height in enumerate(VERTEBRAE * anatomy.height_scale):
        if z_low - 40 < height < z_high + 40:
            _paint_arch(canvas, anatomy, number, float(height))


def _paint_bodies(canvas: Canvas, box: tuple[slice, slice, slice], anatomy: Anatomy) -> None:
    z, y, x = canvas.grid(box)
    flat = z[:, 0, 0].astype(np.float64)
    middle = spine_y(flat, anatomy)
    slope = (np.gradient(middle, flat) if len(flat) > 1 else np.zeros(1)).astype(np.float32)[:, None, None]
    off_y = y - middle.astype(np.float32)[:, None, None]
    off_x = x - anatomy.sway(flat).astype(np.float32)[:, None, None]
    lift = np.float32(anatomy.scoliosis_mm / 75)
    along = z + slope * off_y + lift * off_x * np.cos(z / 75 + np.float32(anatomy.scoliosis_phase))
    heights = VERTEBRAE * anatomy.height_scale
    level = np.interp(along, heights, np.arange(len(heights))).astype(np.float32)
    phase = np.abs(level - np.round(level)) * np.float32(2)  # 0 = middle of a body, 1 = middle of a disc
    gap = np.interp(along, heights[:-1], np.diff(heights)).astype(np.float32)
    grow = (1 + 0.28 * smooth_step(z, 110, -150)).astype(np.float32) * np.float32(anatomy.girth)
    waist = 1 - np.float32(0.1) * (1 - phase**2)
    radial = np.sqrt((off_x / 15.5) ** 2 + (off_y / 12.5) ** 2 + 0.25 * np.clip(off_y / 12.5, 0, None) ** 4)
    side = (radial - grow * waist) * np.float32(13)
    plate = (phase - np.float32(0.8)) * gap * np.float32(0.5)
    canvas.paint(box, canvas.cover(side), 85, "spine")  # disc everywhere, then bodies
    cortex = canvas.cover(np.maximum(side, plate))
    canvas.paint(box, cortex, anatomy.cortex_hu * 0.75, "spine")
    inner = canvas.cover(np.maximum(side + 2.2, plate + 1.8))
    canvas.paint(box, inner, anatomy.spongiosa_hu, "spine")


def _paint_arch(canvas: Canvas, anatomy: Anatomy, number: int, height: float) -> None:
    """Pedicles, laminae, transverse and spinous process around the canal of one vertebra."""
    g = anatomy.girth * (1.12 if number < T1 - 11 else 1.0)
    y, x = float(spine_y(height, anatomy)), float(anatomy.sway(height))
    thoracic = T1 - 12 < number <= T1
    reach = (36 if thoracic else 40) * anatomy.width_scale
    down = 22 if thoracic else 4

    def at(dz: float, dy: float, dx: float) -> np.ndarray:
        return np.array([height + dz, y + dy * g, x + dx])

    canal = np.stack([at(-16, 19.5, 0), at(16, 19.5, 0)])
    canvas.tube(canal, 8.5 * g, 15)  # cord and fluid
    pieces = []
    for side in (-1, 1):
        joint = at(2, 20, side * 13 * g)
        pieces += [
            (at(3, 9, side * 10.5 * g), joint, 4.5, 4.0),  # pedicle
            (joint, at(-3, 31, 0), 4.2, 3.5),  # lamina
            (joint, at(4, 24, side * reach), 4.6, 4.0),  # transverse process
            (at(10, 21, side * 13 * g), at(-12, 23, side * 12 * g), 4.5, 4.5),  # joints above and below
        ]
    pieces.append((at(-3, 30, 0), at(-down, 47, 0), 3.6, 3.0))
    segments = np.array([[*a, *b, ra, rb] for a, b, ra, rb in pieces])
    canvas.capsules(segments, anatomy.cortex_hu * 0.62, "spine")


def rib_path(anatomy: Anatomy, wall: Wall, number: int, side: int) -> np.ndarray:
    """Middle line (n, 3) of rib `number` (1-12) from its vertebra to its cartilage; side -1 = right."""
    start = float(VERTEBRAE[T1 + 1 - number]) + 6
    reach = np.radians(RIB_REACH[number - 1])
    t = np.linspace(0, 1, max(8, int(reach * 11)))
    from_back = np.radians(17) + (reach - np.radians(17)) * t
    z = (start - RIB_FALL[number - 1] * (0.12 * t + 0.88 * t**1.15)) * anatomy.height_scale
    path = wall.ribs.point(z, np.pi / 2 - side * from_back)
    g = anatomy.girth
    spine = [z[0] + 1, float(spine_y(z[0], anatomy)) + 8 * g, anatomy.sway(z[0]) + side * 17 * g]
    return np.concatenate([[spine], path])


def paint_ribs(canvas: Canvas, anatomy: Anatomy, wall: Wall) -> None:
    """Twelve sloping pairs, cortex around marrow, and the cartilage to the breastbone."""
    for side in (-1, 1):
        for number in range(1, 13):
            path = rib_path(anatomy, wall, number, side)
            wide = (4.4 if number < 11 else 3.6) * anatomy.girth
            radii = np.full(len(path), wide)
            radii[0], radii[-1] = 0.9 * wide, wide * 1.1
            canvas.tube(path, radii, anatomy.cortex_hu * 0.9, "ribs", tall=1.55)
            canvas.tube(path, radii - 1.7, anatomy.spongiosa_hu * 0.7, "ribs", tall=1.7)
            if number <= 10:
                _paint_cartilage(canvas, anatomy, wall, path[-1], number, side)


def _paint_cartilage(canvas: Canvas, anatomy: Anatomy, wall: Wall, end: np.ndarray, number: int, side: int) -> None:
    upward = 6.0 * max(0, number - 4) ** 1.35
    z = np.array([end[0], end[0] - 4 + 0.3 * upward, min(end[0] - 2 + upward, 118) * 1.0])
    start = np.arctan2(end[1] - wall.ribs.axis[0], end[2] - wall.ribs.axis[1])
    middle = -np.pi / 2 + side * 0.17
    if side < 0:
        start, middle = start % (2 * np.pi), middle % (2 * np.pi)
    angle = np.array([start, 0.5 * (start + middle), middle])
    canvas.tube(wall.ribs.point(z, angle), 4.2 * anatomy.girth, 80 + 170 * anatomy.calcified, "ribs")


def paint_sternum(canvas: Canvas, anatomy: Anatomy) -> None:
    """Manubrium, body and xiphoid: a rounded slab in front of the midline, wide at the top."""
    h, d = anatomy.height_scale, anatomy.depth_scale
    box = canvas.box((-48 * h, -190 * d, -50), (122 * h, -118 * d, 50))
    z, y, x = canvas.grid(box)
    height = z[:, 0, 0] / h
    course = np.minimum(np.interp(height, [-48, 20, 60, 90, 120], [-180, -178, -170, -157, -141]) * d,
                        cavity_front(z[:, 0, 0], anatomy) - 8)  # fmt: skip
    wide = np.interp(height, [-48, -30, 0, 60, 78, 95, 112, 122], [1, 7, 15, 13, 10, 19, 24, 20]) * anatomy.girth
    behind = np.abs(y - course.astype(np.float32)[:, None, None])
    sideways = np.abs(x - anatomy.sway(z).astype(np.float32) * 0.4) - wide.astype(np.float32)[:, None, None]
    slab = np.hypot(np.clip(behind - 1.5, 0, None), np.clip(sideways + 4.5, 0, None)) - np.float32(4.5)
    canvas.paint(box, canvas.cover(slab), anatomy.cortex_hu * 0.65, "sternum")
    canvas.paint(box, canvas.cover(slab + 2), anatomy.spongiosa_hu * 0.75, "sternum")


def paint_shoulders(canvas: Canvas, anatomy: Anatomy, wall: Wall, polar: PolarGrid) -> None:
    """Collar bones, shoulder blades and the heads of the upper arms (arms raised, as in the scanner)."""
    for side in (-1, 1):
        collar = anatomy.place(
            [[112, -138, side * 20], [119, -138, side * 45], [131, -118, side * 80], [142, -88, side * 118]]
        )
        line = smooth_path(collar, 8)
        canvas.tube(line, 6.2, anatomy.cortex_hu * 0.85, "clavicles")
        canvas.tube(line, 3.6, anatomy.spongiosa_hu, "clavicles")
        head, shaft = anatomy.place([[140, -68, side * 138], [196, -72, side * 158]])
        canvas.tube(np.stack([head, head + 1]), 22.0, anatomy.cortex_hu * 0.6, "humeri")
        canvas.tube(np.stack([head, shaft]), np.array([14.0, 11.0]), anatomy.cortex_hu * 0.9, "humeri")
        canvas.tube(np.stack([head, head + 1]), 19.0, anatomy.spongiosa_hu * 0.8, "humeri")
        heights = np.array([100, 108, 116]) * anatomy.height_scale
        spine = wall.ribs.point(heights, np.pi / 2 - side * np.array([0.6, 0.85, 1.1]), 24.0)
        ridge = smooth_path([*spine, anatomy.place([138, -52, side * 128])])
        canvas.tube(ridge, 4.5, anatomy.cortex_hu * 0.8, "scapulae")
    _paint_blades(canvas, anatomy, wall, polar)


def _paint_blades(canvas: Canvas, anatomy: Anatomy, wall: Wall, polar: PolarGrid) -> None:
    """The shoulder blades' plates: triangles on a surface outside the ribs, point down."""
    h = anatomy.height_scale
    z_low, z_high = -5 * h, 134 * h
    reach = wall.ribs.radius.max() + 60
    box = canvas.box((z_low, -80, -reach), (z_high, 60, reach))
    z, y, x = canvas.grid(box)
    columns = PolarGrid(polar.radius[box[1:]], polar.column[box[1:]])
    out = columns.outside(wall.ribs, z[:, 0, 0]) - (14 + 9 * smooth_step(z / h, 30, 120).astype(np.float32))
    from_back = np.abs(np.arctan2(np.abs(x), y - np.float32(wall.ribs.axis[0]))).astype(np.float32)
    up = (z / np.float32(h) + 5) / 139  # 0 at the lower point, 1 at the upper edge
    inner, outer = 0.62 - 0.1 * up, 0.70 + 0.62 * np.sqrt(np.clip(up, 0, 1))
    arc = np.float32(110)  # mm per radian, about
    sides = np.maximum((inner - from_back) * arc, (from_back - outer) * arc)
    edge = np.maximum(sides, np.maximum(z_low - z, z - z_high))
    plate = np.maximum(np.abs(out) - np.float32(2.2), edge)
    canvas.paint(box, canvas.cover(plate), anatomy.cortex_hu * 0.8, "scapulae")
    rim = np.sqrt(out**2 + np.clip(np.abs(from_back - outer) * arc, 0, 50) ** 2) + 50 * (edge > canvas.edge)
    canvas.paint(box, canvas.cover(rim - np.float32(4.5)), anatomy.cortex_hu * 0.7, "scapulae")
