"""A CT-like volume of full size, made in seconds: a coarse phantom, enlarged, with a scanner's noise."""

import numpy as np
from scipy.ndimage import gaussian_filter

from common.geometry import Triple
from dataset.phantom.thorax import make_phantom
from dataset.scans.resample import resample

FIELD_MM = (423.0, 358.0, 358.0)  # d, h, w: 604 slices of 0.7 mm, 512 pixels of 0.7 mm
COARSE = 4  # voxels of the volume per voxel of the phantom
NOISE_HU = 25.0  # of a CT pulmonary angiogram in thin slices
NOISE_PIXELS = 0.6  # its correlation within a slice
OUTSIDE_HU = -1024  # beyond the circle that the scanner reconstructs


def ct_like(shape: Triple, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """HU int16 (D, H, W) of a thorax with noise that a lossless codec cannot remove, and its affine."""
    small = [max(8, n // COARSE) for n in shape]
    phantom = make_phantom(seed, small, [mm / n for mm, n in zip(FIELD_MM, small, strict=True)])
    hu, affine = resample(phantom.hu, phantom.affine, [mm / n for mm, n in zip(FIELD_MM, shape, strict=True)])
    y, x = (np.linspace(-1, 1, n) for n in shape[1:])
    inside, rng = y[:, None] ** 2 + x**2 <= 1, np.random.default_rng(seed)
    for plane in hu:
        noise = gaussian_filter(rng.standard_normal(plane.shape, dtype=np.float32), NOISE_PIXELS)
        noisy = np.rint(plane + noise * (NOISE_HU / noise.std()))
        plane[:] = np.where(inside, noisy.clip(-1024, 3071), OUTSIDE_HU)
    return hu, affine
