"""Small CT and X-ray pairs on disk."""

import numpy as np

from dataset.scans.camera import PARALLEL
from dataset.scans.volume_io import write_ct
from dataset.scans.xray_io import write_xray

AFFINE = np.diag([-4.0, -4.0, 5.0, 1.0])
SHAPE = (20, 24, 28)


def thorax(seed):
    """A block of tissue with two lungs in air, with noise; no two are of one shape."""
    rng = np.random.default_rng(seed)
    hu = np.full(SHAPE, -1000.0)
    hu[:, 4:20, 3:25] = 40
    for left, right in ((5, 13), (15, 23)):
        bottom, top, front, back = rng.integers((5, 15, 6, 13), (11, 18, 10, 18))
        hu[bottom:top, front:back, left + rng.integers(4) : right - rng.integers(4)] = -850
    return (hu + rng.normal(0, 10, SHAPE)).astype(np.int16)


def add_ct(root, name, hu, affine=AFFINE, axes="LPS"):
    write_ct(root / name / f"{name}.nii.gz", hu, affine, axes)


def add_case(root, name, seed, axes="LPS"):
    add_ct(root, name, thorax(seed), axes=axes)
    image = np.random.default_rng(seed).random((80, 96))
    write_xray(root / name / "x_pa_drr.png", image, PARALLEL.square(96, 400), synthetic=True)
