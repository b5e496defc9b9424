"""Right X-rays against wrong ones, the mean volume and the codec."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from evaluation.controls import bootstrap_interval, compare_with_controls, correlation, finite, right_and_shuffled
from evaluation.metrics import psnr, ssim
from tests.test_metrics import WINDOW, volume


def made_cases(n=5):
    real = [volume(i) for i in range(n)]
    generated = [0.8 * c + 0.2 * volume(10 + i) for i, c in enumerate(real)]
    codec = [0.95 * c for c in real]
    return generated, real, np.mean(real, axis=0), codec


def test_controls_are_means_over_the_right_pairings():
    generated, real, mean, codec = made_cases()
    controls = compare_with_controls(generated, real, mean, codec, WINDOW)
    pairs = [[psnr(g, c, WINDOW) for c in real] for g in generated]
    assert controls.psnr.right == pytest.approx(np.mean([pairs[i][i] for i in range(5)]))
    off = [pairs[i][j] for i in range(5) for j in range(5) if i != j]
    assert controls.psnr.shuffled == pytest.approx(np.mean(off))
    assert controls.psnr.mean_volume == pytest.approx(np.mean([psnr(mean, c, WINDOW) for c in real]))
    assert controls.psnr.codec == pytest.approx(np.mean([psnr(r, c, WINDOW) for r, c in zip(codec, real, strict=True)]))
    assert controls.ssim.matrix[1][2] == pytest.approx(ssim(generated[1], real[2], WINDOW))
    assert controls.psnr.low <= controls.psnr.difference <= controls.psnr.high
    json.dumps(finite(asdict(controls)), allow_nan=False)


def test_a_model_that_ignores_the_xray_shows_no_difference():
    _, real, mean, codec = made_cases()
    controls = compare_with_controls([mean] * 5, real, mean, codec, WINDOW)
    assert controls.psnr.difference == pytest.approx(0, abs=1e-9)
    assert controls.psnr.right == pytest.approx(controls.psnr.mean_volume)


def test_the_interval_is_the_same_with_the_same_seed_and_narrows_with_more_cases():
    rng = np.random.default_rng(0)

    def matrix(n):
        return rng.normal(16, 1, (n, n)) + np.diag(rng.normal(4, 1, n))

    few, many = matrix(6), matrix(60)
    assert bootstrap_interval(few, seed=3) == bootstrap_interval(few, seed=3)
    assert bootstrap_interval(few, seed=3) != bootstrap_interval(few, seed=4)
    widths = [high - low for low, high in (bootstrap_interval(few, 0), bootstrap_interval(many, 0))]
    assert widths[1] < 0.6 * widths[0]
    low, high = bootstrap_interval(many, 0)
    assert low < 4 < high


def test_a_redrawn_case_is_not_paired_with_its_copy():
    matrix = np.array([[20.0, 10.0, 11.0], [12.0, 22.0, 13.0], [14.0, 15.0, 24.0]])
    right, wrong = right_and_shuffled(matrix, np.array([[2.0, 1.0, 0.0]]))
    assert right[0] == pytest.approx((20 + 20 + 22) / 3)
    assert wrong[0] == pytest.approx((10 + 12) / 2)


@pytest.mark.parametrize("n", [2, 4])
def test_few_cases_give_a_difference_without_an_interval_and_one_is_refused(n):
    generated, real, mean, codec = made_cases()
    few = compare_with_controls(generated[:n], real[:n], mean, codec[:n], WINDOW)
    assert math.isfinite(few.psnr.difference)
    assert (few.psnr.low, few.psnr.high, few.ssim.low) == (None, None, None)
    with pytest.raises(ValueError, match="two or more cases"):
        compare_with_controls(generated[:1], real[:1], mean, codec[:1], WINDOW)


def test_without_training_cases_there_is_no_mean_volume():
    generated, real, _, codec = made_cases(2)
    controls = compare_with_controls(generated, real, None, codec, WINDOW)
    assert (controls.psnr.mean_volume, controls.ssim.mean_volume) == (None, None)
    assert math.isfinite(controls.psnr.right)


def test_correlation_of_volumes():
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert correlation([1, 1, 1], [1, 2, 3]) is None
    assert correlation([1, 2], [1, 2]) is None
    with pytest.raises(ValueError, match="one length"):
        correlation([1, 2, 3], [1, 2])
