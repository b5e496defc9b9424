"""X-rays of a phantom as a film shows them: the projection, a real film's faults, a real patient's stance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from common.errors import UserError
from dataset.phantom.anatomy import Anatomy
from dataset.phantom.thorax import Phantom, render
from dataset.scans import camera as cam
from dataset.scans.camera import Film, Matrix
from dataset.scans.drr import project, to_intensity
from dataset.scans.film_variants import degrade

AROUND_MM = np.array([45.0, 30.0, 60.0])  # of body that a film may show beyond each end of the CT (z, y, x)


@dataclass(frozen=True)
class XraySettings:
    """How the X-rays of a phantom data set are made.

    Args:
        size: rows and columns.
        spacing: mm of the CT they are projected from; None: the case's own CT.
        source_mm: distance of the source from the volume's middle, None for parallel rays.
        view: "pa" or "ap", for a point source.
        degrade: gamma, blur, noise, and now and then collimation and a side marker.
        rotation_deg, shift_mm: largest rotation and shift of the film, either way; its recorded geometry does
            not know them.
        magnification: largest magnification, at least 1, likewise unknown.
        breath_mm: the diaphragm stands up to so much higher or lower in the X-ray than in the CT.
        lateral: make a left lateral as well, likewise, with faults, stance and breath of its own.
    """

    size: int = 512
    spacing: float | None = None
    source_mm: float | None = None
    view: str = "pa"
    degrade: bool = False
    rotation_deg: float = 0.0
    shift_mm: float = 0.0
    magnification: float = 1.0
    breath_mm: float = 0.0
    lateral: bool = False

    def __post_init__(self) -> None:
        if self.spacing is not None and self.spacing <= 0:
            raise UserError(f"spacing is a length in mm or null, got {self.spacing}")
        if min(self.rotation_deg, self.shift_mm, self.breath_mm) < 0 or self.magnification < 1:
            raise UserError(
                "rotation_deg, shift_mm and breath_mm must be 0 or more and magnification 1 or more, got"
                f" {self.rotation_deg}, {self.shift_mm}, {self.breath_mm}, {self.magnification}"
            )

    @property
    def is_film(self) -> bool:
        """Whether the X-ray differs from the CT's own projection, as real films do."""
        return self.degrade or self.magnification > 1 or max(self.rotation_deg, self.shift_mm, self.breath_mm) > 0

    @staticmethod
    def of(values: "XraySettings | Mapping[str, Any] | None") -> "XraySettings":
        """Settings from a config's keys; what is not given keeps its default."""
        if isinstance(values, XraySettings):
            return values
        known = [field.name for field in fields(XraySettings)]
        unknown = sorted(set(values or {}) - set(known))
        if unknown:
            raise UserError(f"X-ray settings are {', '.join(known)}; got {', '.join(unknown)}")
        return XraySettings(**(values or {}))


@dataclass(frozen=True)
class PhantomFilm:
    """image: (size, size) float32 in [0, 1], bright = dense. declared, true: cameras (3, 4), as recorded and as was."""

    image: np.ndarray
    declared: Matrix
    true: Matrix


def phantom_xray(anatomy: Anatomy, ct: Phantom, settings: XraySettings, rng: np.random.Generator) -> PhantomFilm:
    """The X-ray that belongs to a phantom's CT; a film shows more of the body than the CT's field of view."""
    extent = np.multiply(ct.hu.shape, ct.spacing)
    step = np.array(ct.spacing if settings.spacing is None else (settings.spacing,) * 3)
    if settings.is_film:
        lift = float(rng.uniform(-settings.breath_mm, settings.breath_mm)) if settings.breath_mm else 0.0
        ct = body_around(anatomy.exhaled(lift), extent, step)
    elif settings.spacing is not None:
        shape = np.maximum(2, np.round(extent / step).astype(int))
        ct = render(anatomy, shape.tolist(), (extent / shape).tolist())
    across = extent[1 if settings.view in ("ll", "rl") else 2]
    fov, shape = float(max(extent[0], across)), (settings.size, settings.size)
    declared = true = Film(settings.view, settings.source_mm, patient_mm=0.0).square(settings.size, fov)
    if settings.rotation_deg or settings.shift_mm or settings.magnification > 1:
        true = cam.of_pixels(misalignment(settings, fov / settings.size, rng), declared)
    image = to_intensity(project(ct.hu, ct.spacing, true, shape))
    return PhantomFilm(degrade(image, rng) if settings.degrade else image, declared, true)


def body_around(anatomy: Anatomy, extent_mm: np.ndarray, step_mm: Sequence[float] | np.ndarray) -> Phantom:
    """A body with what lies around a CT of this extent (d, h, w), on voxels (d, h, w) and around the same centre."""
    shape = np.round((extent_mm + 2 * AROUND_MM) / step_mm).astype(int)
    above = float(shape[0] * step_mm[0] - extent_mm[0]) / 2  # a phantom's centre lies half a height below its top
    z, y, x = anatomy.off_centre
    return render(replace(anatomy, off_centre=(z + above, y, x)), shape.tolist(), [float(s) for s in step_mm])


def misalignment(settings: XraySettings, pixel_mm: float, rng: np.random.Generator) -> np.ndarray:
    """A random change (3, 3) of pixels: turn and magnification about a square picture's middle, and shift."""
    angle = np.radians(rng.uniform(-1, 1) * settings.rotation_deg)
    shift = rng.uniform(-1, 1, 2) * settings.shift_mm / pixel_mm
    zoom = rng.uniform(1, settings.magnification)
    change, middle = np.eye(3), np.full(2, (settings.size - 1) / 2)
    change[:2, :2] = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    change[:2, 2] = middle + shift - change[:2, :2] @ middle
    return change
