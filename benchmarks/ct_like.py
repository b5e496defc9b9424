"""A CT-like volume of full size, made in seconds: a coarse phantom, enlarged, with a scanner's noise."""

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from common.geometry import Triple, axis_weights, centres
from dataset.phantom.thorax import make_phantom

FIELD_MM = (423.0, 358.0, 358.0)  # d, h, w: 604 slices of 0.7 mm, 512 pixels of 0.7 mm
COARSE = 4  # voxels of the volume per voxel of the phantom
NOISE_HU = 25.0  # of a CT pulmonary angiogram in thin slices
NOISE_PIXELS = 0.6  # its correlation within a slice
OUTSIDE_HU = -1024  # beyond the circle that the scanner reconstructs


def write_ct_like(path: Path, shape: Triple, seed: int = 0) -> np.ndarray:
    """Write a .nii.gz with axes (L, P, S), int16 as scanners' exports are; returns the HU (D, H, W)."""
    hu = ct_like(shape, seed)
    d, h, w = (mm / n for mm, n in zip(FIELD_MM, shape, strict=True))
    affine = np.diag([-w, -h, d, 1.0])
    nib.save(nib.Nifti1Image(hu.T, affine), path)
    return hu


def ct_like(shape: Triple, seed: int = 0) -> np.ndarray:
    """HU int16 (D, H, W) of a thorax with noise that a lossless codec cannot remove."""
    coarse_shape = tuple(max(8, n // COARSE) for n in shape)
    coarse_mm = tuple(mm / n for mm, n in zip(FIELD_MM, coarse_shape, strict=True))
    coarse = make_phantom(seed, coarse_shape, coarse_mm).hu.astype(np.float32)
    along_d, along_h, along_w = (
        axis_weights(small, mm / small, centres(n, mm / n))
        for n, small, mm in zip(shape, coarse_shape, FIELD_MM, strict=True)
    )
    rng = np.random.default_rng(seed)
    inside = _circle(shape[1:])
    out = np.empty(shape, dtype=np.int16)
    for index, weights in enumerate(along_d):
        near = np.flatnonzero(weights)
        slab = np.tensordot(weights[near], coarse[near], 1)
        noise = gaussian_filter(rng.standard_normal(shape[1:], dtype=np.float32), NOISE_PIXELS)
        plane = along_h @ slab @ along_w.T + noise * (NOISE_HU / noise.std())
        out[index] = np.where(inside, np.clip(np.rint(plane), -1024, 3071), OUTSIDE_HU)
    return out


def _circle(shape: tuple[int, int]) -> np.ndarray:
    down, across = (np.linspace(-1, 1, n)[:, None] for n in shape)
    return down**2 + across.T**2 <= 1
