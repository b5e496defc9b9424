"""An identity for an affine, as tools write it with a bare array: sizes and directions of the voxels are lost."""

import re

import numpy as np

from common.errors import UserError

RULE = "a header tells the voxels' sizes and directions"
TO_TELL = "dataset.axes=RAS, or the column axes of pairs.csv, where that is right, else what is, as 'LPS 0.7x0.7x1.5'"
_IDENTITY, _OF_ITK = np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])  # nibabel's and SimpleITK's for a bare array
_SIZE = r"(\d+(?:\.\d+)?)"
_TOLD = re.compile(rf"([LRPASI]{{3}})(?:\s+{_SIZE}\s*x\s*{_SIZE}\s*x\s*{_SIZE})?")
_WORLD = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}  # row of RAS, and sign


def is_identity(affine: np.ndarray) -> bool:
    """Whether it says that voxels measure 1 mm from place 0 on, and that x runs to the patient's right: few do."""
    return np.array_equal(affine, _IDENTITY)


def is_lost(affine: np.ndarray) -> bool:
    """Whether it is one that tools write where they know none."""
    return is_identity(affine) or np.array_equal(affine, _OF_ITK)


def told_affine(text: str) -> np.ndarray:
    """ "LPS 0.7x0.7x1.5", where the axes (x, y, z) of a file run and the sizes in mm (1 if not told) -> (4, 4) to RAS.

    Raises:
        UserError: none of these.
    """
    found = _TOLD.fullmatch(text.strip())
    rows = [_WORLD[letter] for letter in found[1]] if found else []
    sizes = [float(size or 1) for size in found.groups()[1:]] if found else []
    if len({row for row, _ in rows}) != 3 or not all(sizes):
        rule = (
            "where the axes of a CT without a usable header run, one letter each of L/R, P/A and S/I, and sizes in mm"
        )
        raise UserError(f"dataset.axes is {rule}, as RAS or 'LPS 0.7x0.7x1.5'; got {text!r}")
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, ((row, sign), size) in enumerate(zip(rows, sizes, strict=True)):
        affine[row, axis] = sign * size
    return affine
