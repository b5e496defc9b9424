"""Small CT and X-ray pairs on disk."""

import numpy as np

from dataset.scans.camera import PARALLEL
from dataset.scans.volume_io import write_ct
from dataset.scans.xray_io import write_xray

AFFINE = np.diag([-4.0, -4.0, 5.0, 1.0])
SHAPE = (20, 24, 28)


def thorax(seed):
    """A block of tissue with two lungs in air, with noise."""
    hu = np.full(SHAPE, -1000.0)
    hu[:, 4:20, 3:25] = 40
    hu[2:18, 7:17, 5:12] = -850
    hu[2:18, 7:17, 16:23] = -850
    return (hu + np.random.default_rng(seed).normal(0, 10, SHAPE)).astype(np.int16)


def add_ct(root, name, hu, affine=AFFINE, axes="LPS"):
    write_ct(root / name / f"{name}.nii.gz", hu, affine, axes)


def add_case(root, name, seed, axes="LPS"):
    add_ct(root, name, thorax(seed), axes=axes)
    image = np.random.default_rng(seed).random((80, 96))
    write_xray(root / name / "x_pa_drr.png", image, PARALLEL.square(96, 400), synthetic=True)
