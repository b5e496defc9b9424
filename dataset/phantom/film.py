"""X-rays of a phantom as a film shows them: the projection, a real film's faults, a real patient's stance."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from common.errors import UserError
from dataset.phantom.anatomy import Anatomy
from dataset.phantom.thorax import Phantom, render
from dataset.scans.drr import frontal_drr, to_intensity


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

    def __post_init__(self) -> None:
        if self.spacing is not None and self.spacing <= 0:
            raise UserError(f"spacing is a length in mm or null, got {self.spacing}")
        if min(self.rotation_deg, self.shift_mm, self.breath_mm) < 0 or self.magnification < 1:
            raise UserError(
                "rotation_deg, shift_mm and breath_mm must be 0 or more and magnification 1 or more, got"
                f" {self.rotation_deg}, {self.shift_mm}, {self.breath_mm}, {self.magnification}"
            )

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


def phantom_xray(
    anatomy: Anatomy, ct: Phantom, settings: XraySettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The frontal X-ray that belongs to a phantom's CT.

    Returns:
        (size, size) float32 in [0, 1], bright = dense, and its camera (3, 4) as the
        geometry says, without misalignment.
    """
    extent = np.multiply(ct.hu.shape, ct.spacing)
    if settings.spacing is not None or settings.breath_mm > 0:
        step = np.array(ct.spacing if settings.spacing is None else (settings.spacing,) * 3)
        shape = np.maximum(2, np.round(extent / step).astype(int))
        lift = float(rng.uniform(-settings.breath_mm, settings.breath_mm))
        ct = render(anatomy.exhaled(lift), shape.tolist(), (extent / shape).tolist())
    fov = float(max(extent[0], extent[2]))
    integrals, camera = frontal_drr(ct.hu, ct.spacing, settings.size, fov, settings.source_mm, settings.view)
    image = to_intensity(integrals)
    if settings.rotation_deg or settings.shift_mm or settings.magnification > 1:
        image = misalign(image, fov / settings.size, settings, rng)
    if settings.degrade:
        image = degrade(image, rng)
    return image, camera


def misalign(image: np.ndarray, pixel_mm: float, settings: XraySettings, rng: np.random.Generator) -> np.ndarray:
    """Turn, shift and magnify a square picture about its middle at random; what comes in from outside is 0."""
    angle = np.radians(rng.uniform(-1, 1) * settings.rotation_deg)
    shift = rng.uniform(-1, 1, 2) * settings.shift_mm / pixel_mm
    zoom = rng.uniform(1, settings.magnification)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    middle = (np.array(image.shape) - 1) / 2
    return np.clip(affine_transform(image, turn, middle - turn @ (middle + shift), order=1), 0, 1)


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The faults of a film, on (size, size) in [0, 1]: contrast curve, focal blur, noise, collimator, marker."""
    size = image.shape[0]
    film = np.clip(image, 0, 1) ** rng.uniform(0.7, 1.4)
    film = gaussian_filter(film, rng.uniform(0.2, 1.6) * size / 512)
    grain = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(0.3, 1.0))
    film = film + rng.uniform(0.003, 0.02) * grain / grain.std()
    if rng.random() < 0.5:
        low, high = rng.uniform(0, 0.07, 2), 1 - rng.uniform(0, 0.07, 2)
        rows, columns = (np.round(np.array([low[i], high[i]]) * size).astype(int) for i in (0, 1))
        open_field = np.zeros(image.shape, bool)
        open_field[rows[0] : rows[1], columns[0] : columns[1]] = True
        film = np.where(open_field, film, 0.02)
    if rng.random() < 0.5:
        _add_marker(film, rng)
    return np.clip(film, 0, 1).astype(np.float32)


def _add_marker(film: np.ndarray, rng: np.random.Generator) -> None:
    """A lead letter L at the top, on the patient's left."""
    size = film.shape[0]
    height, stroke = max(4, size // 18), max(1, size // 110)
    row = int(size * rng.uniform(0.04, 0.12))
    column = int(size * rng.uniform(0.86, 0.94))
    film[row : row + height, column : column + stroke] = 1
    film[row + height - stroke : row + height, column : column + height // 2] = 1
