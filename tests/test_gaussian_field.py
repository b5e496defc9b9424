"""Seams and lost variance, on a Gaussian field whose exact denoiser is known."""

import pytest
import torch

from benchmarks.gaussian_field import SIZE, STRIDE, WINDOW, Field, covariance, measure
from ddpm.windows import fused


@pytest.fixture(scope="module")
def toy():
    return measure(2048)


def test_the_exact_field_has_no_seams(toy):
    assert toy["toy_whole"] == pytest.approx(1, abs=0.02)
    assert toy["toy_whole_overlap_variance"] == pytest.approx(1, abs=0.03)


def test_independent_windows_show_seams_and_lose_variance_where_they_overlap(toy):
    assert toy["toy_independent"] > 2.5
    assert toy["toy_independent_own_noise"] > 2.5
    assert toy["toy_independent_own_noise_overlap_variance"] == pytest.approx(0.5, abs=0.05)  # a mean of two
    assert toy["toy_independent_overlap_variance"] < 0.95


def test_fused_windows_show_none(toy):
    assert toy["toy_fused"] < 1.15
    assert toy["toy_fused_overlap_variance"] > toy["toy_independent_overlap_variance"]


def test_a_whole_draw_has_the_fields_covariance():
    drawn = Field(4096).draw("whole")[:, 0, 0].double()
    found, exact = drawn.T @ drawn / len(drawn), covariance(SIZE)
    assert float((found - exact).norm() / exact.norm()) < 0.15  # 40 Euler steps smooth a little


def test_fused_windows_of_an_element_wise_denoiser_are_the_whole():
    shape, window, stride = (1, 1, SIZE), (1, 1, WINDOW), (1, 1, STRIDE)

    def element_wise(x, t, coords):
        return torch.tanh(2 * x) - 0.3 * x

    x, t = torch.randn(1, 3, *shape), torch.full((1,), 0.4)
    blended = fused(element_wise, shape, window, stride, 2)(x, t)
    torch.testing.assert_close(blended, element_wise(x, t, None), rtol=0, atol=1e-6)
