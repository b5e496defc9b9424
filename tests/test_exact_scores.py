"""Scores equal scikit-image's and MONAI's on a real scan, and worsen with every step of damage."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from scipy import ndimage
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from dataset.scans.volume_io import read_ct
from evaluation.anatomy import compare_masks
from evaluation.metrics import PRESETS, hu_mae, psnr, score, slice_psnr, slice_ssim, ssim, window_preset
from evaluation.regions import regions_of

WINDOW = (-1000.0, 1000.0)


@pytest.fixture(scope="module")
def scan(shared_data):
    """A real chest, a part of it in every third voxel, and the same as something drawn might be."""
    ct = read_ct(shared_data / "lidc_idri_0001" / "ct.nii.gz")
    hu = np.ascontiguousarray(ct.hu[:, 60:-60:3, 60:-60:3])[10:90]
    return hu, damaged(hu, "noise", 80.0), (ct.spacing[0], 3 * ct.spacing[1], 3 * ct.spacing[2])


def damaged(hu, how, by):
    if how == "noise":
        return (hu + by * np.random.default_rng(0).standard_normal(hu.shape)).round().astype(np.int16)
    if how == "blur":
        return ndimage.gaussian_filter(hu.astype(np.float32), by)
    return ndimage.shift(hu.astype(np.float32), (0, by, by), order=1, mode="nearest")


def unit(hu, window=WINDOW):
    return (np.clip(hu.astype(np.float64), *window) - window[0]) / (window[1] - window[0])


@pytest.mark.parametrize("window", [WINDOW, (-200.0, 500.0)])
def test_errors_are_those_of_scikit_image(scan, window):
    hu, drawn, _ = scan
    a, b = (np.clip(v.astype(np.float64), *window) for v in (hu, drawn))
    expected = peak_signal_noise_ratio(a, b, data_range=window[1] - window[0])
    assert psnr(drawn, hu, window) == pytest.approx(expected, abs=1e-6)
    assert hu_mae(drawn, hu, window) == pytest.approx(np.abs(a - b).mean(), abs=1e-6)


def test_both_definitions_of_ssim_are_those_of_scikit_image(scan):
    hu, drawn, _ = scan
    a, b = unit(hu), unit(drawn)
    uniform = structural_similarity(a, b, win_size=7, data_range=1.0)
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    gaussian = structural_similarity(a, b, data_range=1.0, **how)
    assert ssim(drawn, hu, WINDOW) == pytest.approx(uniform, abs=1e-6)
    assert ssim(drawn, hu, WINDOW, "gaussian") == pytest.approx(gaussian, abs=1e-6)
    assert abs(uniform - gaussian) > 1e-3


def test_scores_of_slices_are_those_of_scikit_image(scan):
    hu, drawn, spacing = scan
    window = PRESETS["x2ct_compat"].window
    a, b = (np.clip(v.astype(np.float64), *window) for v in (hu, drawn))
    planes = [list(zip(np.moveaxis(a, k, 0), np.moveaxis(b, k, 0), strict=True)) for k in range(3)]
    of_slice = [[100.0 if (x == y).all() else _psnr(x, y) for x, y in axis] for axis in planes]
    assert slice_psnr(drawn, hu, window, 4095) == pytest.approx(np.mean([np.mean(p) for p in of_slice]), abs=1e-6)
    small, smaller = (unit(v, window) for v in (hu, drawn))
    of_axes = [
        np.mean([structural_similarity(x, y, win_size=7, data_range=1.0) for x, y in zip(*pair, strict=True)])
        for pair in ([np.moveaxis(v, k, 0) for v in (small, smaller)] for k in range(3))
    ]
    assert slice_ssim(drawn, hu, window) == pytest.approx(np.mean(of_axes), abs=1e-6)
    added = score(drawn, hu, spacing, PRESETS["x2ct_compat"]).psnr - slice_psnr(drawn, hu, window, 2500)
    assert added == pytest.approx(20 * math.log10(4095 / 2500), abs=1e-9)


def _psnr(a, b):
    return 10 * math.log10(4095**2 / mean_squared_error(a, b))


def test_regions_score_as_monai_says(scan):
    hu, _, spacing = scan
    moved = damaged(hu, "shift", 2)
    masks, real = regions_of(moved, spacing), regions_of(hu, spacing)
    found = compare_masks(moved, hu, masks, real, spacing)
    for name in ("lung", "body", "bone"):
        a, b = (torch.from_numpy(m[name])[None, None] for m in (masks, real))
        assert found[name]["dice"] == pytest.approx(float(compute_dice(a, b)), abs=1e-6)
        theirs = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=list(spacing))
        assert found[name]["hd95_mm"] == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("how", ["noise", "blur", "shift"])
def test_every_score_worsens_with_every_step_of_damage(scan, how):
    hu, _, spacing = scan
    steps = (20, 60, 180) if how == "noise" else (0.5, 1, 2)
    for preset in (window_preset(WINDOW), PRESETS["hu2000_gaussian"], PRESETS["x2ct_compat"]):
        same = score(hu, hu, spacing, preset)
        assert (same.hu_mae, same.ssim) == (0, pytest.approx(1, abs=1e-6))
        assert same.psnr == (100 if preset.mode == "slices" else math.inf)
        rows = [same, *(score(damaged(hu, how, by), hu, spacing, preset) for by in steps)]
        for name, sign in (("psnr", -1), ("ssim", -1), ("hu_mae", 1)):
            values = [sign * getattr(row, name) for row in rows]
            assert all(a < b for a, b in zip(values, values[1:], strict=False)), (preset.name, name)
