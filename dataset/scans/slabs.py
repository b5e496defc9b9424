"""A CT as a few thick slabs across the rays: a projection for each camera that a search tries, in milliseconds.

Inside a slab all voxels are seen as if they lay in its middle plane, which a camera maps to pixels by a homography:
28 mm thick, 3° aside, that is at most 0.7 mm off. The CT may also be seen at another breath: heights move with the
diaphragm, from nothing at the apices, and nothing at the spine.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.geometry import Spacing, centres, lengths
from dataset.scans.camera import Matrix, ray_to_source
from dataset.scans.drr import attenuation

_THICK_MM = 28.0
_HELD_MM = np.array([40.0, 60.0])  # from the spine's middle, sideways and front to back: there breath begins
_BONE_HU, _LUNG_HU = 200, (-960, -500)

Image = NDArray[np.float32]
Pixels = NDArray[np.float32]  # (3, n): column, row, 1


def pixels_of(shape: tuple[int, int]) -> Pixels:
    """All pixels (3, h * w) of an image (h, w), row after row: column, row, 1."""
    rows, columns = np.indices(shape).reshape(2, -1).astype(np.float32)
    return np.stack([columns, rows, np.ones_like(rows)])


@dataclass(frozen=True)
class Slabs:
    """Line integrals through slabs, each (D, W) or, of lateral rays, (D, H).

    axis: 1 where rays run front to back, 0 where they run from side to side. places: middles of the slabs along it;
    faces: where the CT ends. half_mm: half the CT's height and width. spine: mm across and along. apex, base: heights
    between which the lungs lie. Lengths in mm from the CT's middle.
    """

    integrals: list[Image]
    places: list[float]
    spacing: tuple[float, float]
    axis: int
    faces: tuple[float, float]
    spine: tuple[float, float]
    apex: float
    base: float

    @classmethod
    def of(cls, hu: np.ndarray, spacing: Spacing, camera: Matrix) -> "Slabs":
        """hu: int16 (D, H, W). ValueError where the camera looks along the body."""
        steps = lengths(spacing)
        source, _ = ray_to_source(camera)
        axis = int(np.argmax(np.abs(source)))
        if axis == 2:
            raise ValueError("a camera that looks along the body, from head or foot, has no frontal or lateral slabs")
        along = 2 - axis
        count = max(1, round(hu.shape[along] * steps[along] / _THICK_MM))
        ends = np.round(np.linspace(0, hu.shape[along], count + 1)).astype(int)
        at = centres(hu.shape[along], steps[along])
        dense = attenuation(np.moveaxis(hu, along, 1)) * np.float32(steps[along])
        parts = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True) if b > a]
        spine = _spine(hu, steps)
        base, apex = _lung_heights(hu, steps)
        return cls(
            integrals=[dense[:, part].sum(1) for part in parts],
            places=[float(at[part].mean()) for part in parts],
            spacing=(steps[0], steps[3 - along]),
            axis=axis,
            faces=(float(at[0] - steps[along] / 2), float(at[-1] + steps[along] / 2)),
            spine=spine if axis == 1 else (spine[1], spine[0]),
            apex=apex,
            base=base,
        )

    def seen(
        self, camera: Matrix, shape: tuple[int, int], pixels: Pixels, breath_mm: float, margin_mm: float
    ) -> tuple[Image, NDArray[np.bool_]]:
        """Line integrals (h, w), and which rays stay `margin_mm` inside the CT from its one face to the other.

        pixels: as `pixels_of(shape)` gives them. breath_mm: by how much the diaphragm stands higher than in the CT.
        """
        size = np.array(self.integrals[0].shape)
        half = size * self.spacing / 2 - margin_mm
        total, inside = np.zeros(pixels.shape[1], np.float32), np.ones(pixels.shape[1], bool)
        for face in self.faces:
            across, height = self._crossed(camera, face, pixels)
            inside &= (np.abs(height) < half[0]) & (np.abs(across) < half[1])
        for plane, place in zip(self.integrals, self.places, strict=True):
            across, height = self._crossed(camera, place, pixels)
            if breath_mm:
                height = height - np.float32(breath_mm) * self._lifted(across, height, place)
            index = [height / self.spacing[0] + (size[0] - 1) / 2, across / self.spacing[1] + (size[1] - 1) / 2]
            total += ndimage.map_coordinates(plane, index, order=1, mode="nearest", prefilter=False)
        return total.reshape(shape), inside.reshape(shape)

    def _crossed(self, camera: Matrix, place: float, pixels: Pixels) -> tuple[Image, Image]:
        """Where the rays of pixels cross a plane: mm across and up."""
        columns = camera[:, [1 - self.axis, 2]]
        to_plane = np.linalg.inv(np.column_stack([columns, camera[:, self.axis] * place + camera[:, 3]]))
        across, height, weight = to_plane.astype(np.float32) @ pixels
        return across / weight, height / weight

    def _lifted(self, across: Image, height: Image, place: float) -> Image:
        """Share of the diaphragm's motion that places of a slab take part in."""
        sideways, deep = _HELD_MM if self.axis == 1 else _HELD_MM[::-1]
        held = np.exp(-(((across - self.spine[0]) / sideways) ** 2) - ((place - self.spine[1]) / deep) ** 2)
        return np.clip((self.apex - height) / max(self.apex - self.base, 1.0), 0, 1) * (1 - held)


def _spine(hu: np.ndarray, spacing: Spacing) -> tuple[float, float]:
    """x and y in mm of the middle of the bone in the back three fifths, between the sides."""
    d, h, w = hu.shape
    rows, columns = slice(2 * h // 5, h), slice(w // 4, max(w // 4 + 1, w - w // 4))
    bone = (hu[d // 3 : max(d // 3 + 1, d - d // 3), rows, columns] > _BONE_HU).sum(0) + 1e-6
    x, y = centres(w, spacing[2])[columns], centres(h, spacing[1])[rows]
    return float(np.average(x, weights=bone.sum(0))), float(np.average(y, weights=bone.sum(1)))


def _lung_heights(hu: np.ndarray, spacing: Spacing) -> tuple[float, float]:
    """Heights in mm below and above which little of the lungs lies; of the whole CT where it holds none."""
    z = centres(hu.shape[0], spacing[0])
    air = ((hu > _LUNG_HU[0]) & (hu < _LUNG_HU[1])).sum((1, 2))
    if not air.any():
        return float(z[0]), float(z[-1])
    base, apex = np.interp((0.12, 0.985), np.cumsum(air) / air.sum(), z)
    return float(base), float(apex)
