"""Slices of a volume as radiologists look at them: the patient's right on the image's left, the head and front up."""

from collections.abc import Sequence

from numpy.typing import NDArray

from common.geometry import Triple, triple
from common.voxel_file import ReadBox

PLANES = ("axial", "coronal", "sagittal")


def planes_at(read: ReadBox, shape: Sequence[int], at: Triple | None = None) -> dict[str, NDArray]:
    """The slices through one voxel by the names of their planes, rows downwards; in sagittal ones the front is left.

    Args:
        read: boxes of a volume (D, H, W) of `shape`, which need not be in memory.
        at: (d, h, w) of the voxel; the middle if None.
    """
    depth, height, width = triple(shape, "shape")
    d, h, w = at or (depth // 2, height // 2, width // 2)
    return {
        "axial": read((d, 0, 0), (1, height, width))[0],
        "coronal": read((0, h, 0), (depth, 1, width))[::-1, 0],
        "sagittal": read((0, 0, w), (depth, height, 1))[::-1, :, 0],
    }
