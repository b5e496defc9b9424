import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from evaluation.common_grid import CommonGrid, choose_grid, to_grid
from evaluation.controls import finite
from evaluation.metrics import PRESETS, find_presets, hu_mae, psnr, score, slice_psnr, ssim, window_preset

WINDOW = (-1000.0, 1000.0)


def volume(seed, shape=(12, 14, 10)):
    return np.random.default_rng(seed).uniform(-1200, 1200, shape).astype(np.float32)


# --- metrics


def test_psnr_of_a_known_error():
    real = np.zeros((8, 8, 8))
    assert psnr(real + 20, real, WINDOW) == pytest.approx(20 * math.log10(2000 / 20))
    assert psnr(real + 20, real, (-200, 500)) == pytest.approx(20 * math.log10(700 / 20))
    assert hu_mae(real - 20, real, WINDOW) == pytest.approx(20)


def test_what_lies_outside_the_window_does_not_count():
    real = np.full((8, 8, 8), -1000, dtype=np.int16)
    generated = np.full((8, 8, 8), -2048, dtype=np.int16)
    assert psnr(generated, real, WINDOW) == math.inf
    assert hu_mae(generated, real, WINDOW) == 0
    assert ssim(generated, real, WINDOW) == pytest.approx(1)


def test_int16_differences_do_not_wrap():
    low, high = (np.full((8, 8, 8), v, dtype=np.int16) for v in (-32000, 32000))
    assert hu_mae(low, high, (-32000, 32000)) == pytest.approx(64000)


@pytest.mark.parametrize("depth", [7, 32, 38, 39, 75])
def test_ssim_in_slabs_is_that_of_scikit_image(depth):
    a, b = volume(0, (depth, 9, 11)), volume(1, (depth, 9, 11))
    mixed = 0.7 * a + 0.3 * b
    unit = [(np.clip(v, *WINDOW) + 1000) / 2000 for v in (a, mixed)]
    expected = structural_similarity(*unit, data_range=1.0)
    assert ssim(a, mixed, WINDOW) == pytest.approx(expected, abs=1e-5)


def test_the_x2ct_preset_adds_the_published_4_29_db():
    real = volume(0)
    generated = real + np.random.default_rng(1).normal(0, 50, real.shape)
    compat = score(generated, real, (1, 1, 1), PRESETS["x2ct_compat"])
    plain = slice_psnr(generated, real, (-1000, 1500), 2500)
    assert compat.psnr - plain == pytest.approx(20 * math.log10(4095 / 2500)) == pytest.approx(4.29, abs=0.01)


def test_slice_psnr_is_the_mean_over_slices_of_three_axes():
    real = np.zeros((40, 8, 8))
    generated = real.copy()
    generated[35] = 20  # one slice along D, one row in every slice along H and W
    hit = 20 * math.log10(2000 / 20)
    spread = 20 * math.log10(2000 / math.sqrt(20**2 / 40))
    expected = ((39 * 100 + hit) / 40 + spread + spread) / 3
    assert slice_psnr(generated, real, WINDOW, 2000) == pytest.approx(expected)


@pytest.mark.parametrize("name", PRESETS)
def test_a_record_says_what_the_numbers_depend_on(name):
    pair = (volume(seed, (12, 14, 11)) for seed in range(2))
    record = asdict(score(*pair, (2.5, 0.7, 0.7), PRESETS[name]))
    assert json.loads(json.dumps(record, allow_nan=False))["spacing"] == [2.5, 0.7, 0.7]
    assert record["preset"] == name
    assert record["ssim_window"] == ("gaussian" if "gaussian" in name else "uniform")
    assert (record["window"], record["data_range"], record["mode"]) == (
        PRESETS[name].window,
        PRESETS[name].data_range,
        PRESETS[name].mode,
    )


def test_presets_are_found_by_their_names():
    assert find_presets("ctpa700") == find_presets(["ctpa700"]) == [PRESETS["ctpa700"]]
    with pytest.raises(ValueError, match=r"some of .*'hu2000', .*'x2ct_compat'.*, got \['hu'\]"):
        find_presets(["hu2000", "hu"])


def test_equal_volumes_make_valid_json():
    same = volume(0)
    record = finite(asdict(score(same, same, (1, 1, 1), window_preset(WINDOW))))
    assert record["psnr"] is None
    assert record["ssim"] == pytest.approx(1)
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("metric", [psnr, ssim, hu_mae])
def test_volumes_of_two_shapes_are_refused(metric):
    with pytest.raises(ValueError, match="one shape.*to_grid"):
        metric(volume(0), volume(0, (12, 14, 11)), WINDOW)


def test_a_volume_too_small_for_ssim_is_refused():
    with pytest.raises(ValueError, match=r"at least 7 voxels.*\(6, 9, 9\)"):
        ssim(volume(0, (6, 9, 9)), volume(0, (6, 9, 9)), WINDOW)


def test_an_empty_window_is_refused():
    with pytest.raises(ValueError, match="low < high, got 500 and -200"):
        psnr(volume(0), volume(1), (500, -200))


# --- common grid


def test_a_volume_on_its_own_grid_stays_as_it_is():
    hu = volume(0)
    same = to_grid(hu, (2.0, 0.7, 0.9), CommonGrid(hu.shape, (2.0, 0.7, 0.9)), WINDOW)
    np.testing.assert_allclose(same, np.clip(hu, *WINDOW), atol=1e-3)


@pytest.mark.parametrize("step", [0.8, 2.0, 5.0])
def test_positions_in_millimetres_are_kept(step):
    """A linear ramp over millimetres from the centre reads the same on every grid, away from the border."""
    shape, spacing = (20, 30, 26), (2.5, 1.5, 1.1)
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    grid = CommonGrid((5, 5, 5), (step, step, step))
    out = to_grid(10 * z + 4 * y - 7 * x, spacing, grid, (-2000.0, 2000.0))
    points = (np.arange(5) - 2) * step
    z, y, x = np.meshgrid(points, points, points, indexing="ij")
    inside = (abs(z) <= 25 - step) & (abs(y) <= 22 - step) & (abs(x) <= 14 - step)
    assert inside.sum() > 20
    np.testing.assert_allclose(out[inside], (10 * z + 4 * y - 7 * x)[inside], atol=step)


def test_outside_the_volume_lies_the_windows_floor():
    grid = CommonGrid((20, 10, 10), (1.0, 1.0, 1.0))
    out = to_grid(np.full((10, 10, 10), 300), (1.0, 1.0, 1.0), grid, WINDOW)
    np.testing.assert_allclose(out[5:15], 300, atol=1e-3)
    assert (out[:5] == -1000).all()
    assert (out[15:] == -1000).all()


def test_coarsening_averages_rather_than_picks():
    stripes = np.zeros((64, 8, 8))
    stripes[::2] = 1000
    out = to_grid(stripes, (1.0, 1.0, 1.0), CommonGrid((8, 8, 8), (8.0, 1.0, 1.0)), WINDOW)
    np.testing.assert_allclose(out, 500, atol=40)


def test_the_grid_holds_every_case_in_cubic_voxels():
    grid = choose_grid([((133, 512, 512), (2.5, 0.7, 0.7)), ((191, 167, 233), (1.5, 1.5, 1.5))] * 2)
    assert len(set(grid.spacing)) == 1
    assert grid.spacing[0] == pytest.approx((512 * 0.7 + 233 * 1.5) / 2 / 96)  # the median extent has 96 voxels
    extent = np.array([133 * 2.5, 512 * 0.7, 512 * 0.7])
    held = np.multiply(grid.shape, grid.spacing)
    assert ((extent <= held + 1e-6) & (held < extent + grid.spacing[0])).all()


def test_a_coarse_data_set_is_not_made_finer():
    assert choose_grid([((64, 64, 64), (5.0, 5.0, 5.0))]) == CommonGrid((64, 64, 64), (5.0, 5.0, 5.0))


def test_a_grid_of_no_case_is_refused():
    with pytest.raises(ValueError, match="at least one case"):
        choose_grid([])
