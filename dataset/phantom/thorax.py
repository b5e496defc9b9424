"""A phantom thorax: CTs of imaginary patients with known organs, on any grid.

`draw_anatomy` makes a patient, `render` a CT of it. Axes (D, H, W) run foot -> head, front -> back, patient
right -> left; lengths in mm, intensities in HU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from dataset.phantom.abdomen import paint_abdomen
from dataset.phantom.anatomy import Anatomy, draw_anatomy
from dataset.phantom.bones import paint_ribs, paint_shoulders, paint_spine, paint_sternum
from dataset.phantom.canvas import LABEL_ID, Canvas
from dataset.phantom.heart import GreatVessels, paint_great_vessels, paint_heart
from dataset.phantom.lungs import PolarGrid, lung_regions, paint_body, paint_lungs
from dataset.phantom.vessels import LungTrees, paint_emboli, paint_trees
from dataset.phantom.wall import Wall, build_wall


@dataclass(frozen=True)
class Phantom:
    """A CT and the truth about it.

    Attributes:
        hu: int16 (D, H, W).
        spacing: (d, h, w) in mm.
        affine: (4, 4), voxel (w, h, d) -> RAS mm.
        masks: organ -> bool (D, H, W). `lung_right` and `lung_left` are the air-holding lungs with the
            vessels and airways inside them; the others do not overlap.
        volumes_ml: organ -> volume of its mask; `lung` is both lungs.
        target: 1 if there is a pulmonary embolism in the patient, else 0.
    """

    hu: np.ndarray
    spacing: tuple[float, float, float]
    affine: np.ndarray
    masks: dict[str, np.ndarray]
    volumes_ml: dict[str, float]
    target: int


def make_phantom(
    seed: int | Sequence[int],
    shape: Sequence[int] = (128, 128, 128),
    spacing: Sequence[float] = (2.5, 2.5, 2.5),
    embolism: bool | None = None,
) -> Phantom:
    """The CT of a random patient; the same arguments give the same CT. `embolism` None leaves it to chance."""
    return render(draw_anatomy(np.random.default_rng(seed), embolism), shape, spacing)


def render(anatomy: Anatomy, shape: Sequence[int], spacing: Sequence[float]) -> Phantom:
    """A CT of a patient, lungs in the middle of the field of view up to `anatomy.off_centre`.

    Args:
        anatomy: the patient.
        shape: (D, H, W) in voxels.
        spacing: (d, h, w) in mm.
    """
    if len(shape) != 3 or min(shape) < 2:
        raise ValueError(f"shape must be three sizes (D, H, W) of at least 2 voxels, got {tuple(shape)}")
    if len(spacing) != 3 or min(spacing) <= 0:
        raise ValueError(f"spacing must be three positive lengths (d, h, w) in mm, got {tuple(spacing)}")
    wall = build_wall(anatomy)
    canvas = Canvas(shape, spacing, view_centre(anatomy, wall, shape[0] * spacing[0]))
    course, organs, grain = (np.random.default_rng((anatomy.seed, n)) for n in range(3))
    vessels = GreatVessels.of(anatomy)
    trees = LungTrees.of(anatomy, wall, vessels, course)
    polar = PolarGrid.of(canvas, wall.cavity)
    cavity = paint_body(canvas, wall, polar, anatomy)
    paint_lungs(canvas, cavity, anatomy, organs)
    paint_abdomen(canvas, cavity, anatomy, organs)
    del cavity
    paint_heart(canvas, anatomy)
    paint_great_vessels(canvas, anatomy, vessels)
    paint_spine(canvas, anatomy)
    lungs = lung_regions(canvas)
    paint_trees(canvas, anatomy, trees)
    paint_emboli(canvas, anatomy, vessels, trees, course)
    paint_ribs(canvas, anatomy, wall)
    paint_sternum(canvas, anatomy)
    paint_shoulders(canvas, anatomy, wall, polar)
    if anatomy.table:
        _paint_table(canvas, anatomy, wall)
    _add_noise(canvas, anatomy, grain)
    return _finish(canvas, lungs, anatomy)


def view_centre(anatomy: Anatomy, wall: Wall, height_mm: float) -> np.ndarray:
    """(z, y, x) anatomical mm of the middle of a field of view of this height, from just above the lungs."""
    back, front = (float(wall.skin.at(np.zeros(1), np.array([a]))[0]) for a in (np.pi / 2, -np.pi / 2))
    top = max(anatomy.apex_right, anatomy.apex_left) * anatomy.height_scale + 28
    middle = np.array([top - height_mm / 2, wall.skin.axis[0] + (back - front) / 2, 0.0])
    return middle + anatomy.off_centre


def _paint_table(canvas: Canvas, anatomy: Anatomy, wall: Wall) -> None:
    """A curved shell under the back."""
    back = wall.skin.axis[0] + float(wall.skin.radius[:, 180].max()) + anatomy.table_gap
    z, y, x = canvas.grid(canvas.whole)
    middle = back + 6 - x**2 / np.float32(1300)
    shell = np.maximum(np.abs(y - middle) - 2, np.abs(x) - 210) + 0 * z
    air = canvas.labels == LABEL_ID["air"]
    canvas.paint(canvas.whole, canvas.cover(shell) * air, -150, "table")


def _add_noise(canvas: Canvas, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """Scanner noise: correlated within a slice over about a millimetre, independent between slices."""
    noise = rng.standard_normal(canvas.hu.shape, dtype=np.float32)
    for axis in (1, 2):
        sigma = 0.8 / canvas.spacing[axis]
        if sigma > 0.15:
            noise = gaussian_filter1d(noise, sigma, axis, mode="wrap", truncate=3)
    noise *= np.float32(anatomy.noise_hu) / max(float(noise.std()), 1e-6)
    canvas.hu += noise


def _finish(canvas: Canvas, lungs: dict[str, np.ndarray], anatomy: Anatomy) -> Phantom:
    d, h, w = canvas.spacing
    affine = np.diag([-w, -h, d, 1.0])  # columns run to the patient's left, rows to the back
    size = np.array(canvas.hu.shape)[::-1]
    affine[:3, 3] = -affine[:3, :3] @ ((size - 1) / 2)
    present = np.unique(canvas.labels)
    masks = {name: canvas.labels == i for name, i in LABEL_ID.items() if i in present}
    masks.update(lungs)
    voxel_ml = d * h * w / 1000
    volumes = {name: float(mask.sum()) * voxel_ml for name, mask in masks.items()}
    volumes["lung"] = volumes["lung_right"] + volumes["lung_left"]
    hu = np.clip(np.round(canvas.hu), -1024, 3071).astype(np.int16)
    return Phantom(hu, (d, h, w), affine, masks, volumes, int(anatomy.emboli > 0))
