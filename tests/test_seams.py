"""Seams and lost variance, on a Gaussian field whose exact denoiser is known; and the measures of them."""

import pytest
import torch

from benchmarks.gaussian_field import SIZE, STRIDE, WINDOW, Field, covariance, measure
from benchmarks.seam_index import overlap_variance, seam_index, times_covered, window_planes
from common.patches import grid_coords
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


def test_planes_lie_where_windows_begin_and_end():
    assert window_planes(128, 32, 24) == [24, 32, 48, 56, 72, 80, 96, 104]
    assert window_planes(16, 12, 9) == [4, 12]
    assert window_planes(10, 12, 9) == []


def test_the_index_of_a_step_at_the_seams_is_its_height_over_the_slope_elsewhere():
    ramp = torch.arange(32.0).repeat(4, 4, 1)
    assert seam_index(ramp, [[], [], [8, 16]]) == pytest.approx(1)
    stepped = ramp + 2.0 * (torch.arange(32) >= 8) + 2.0 * (torch.arange(32) >= 16)
    assert seam_index(stepped, [[], [], [8, 16]]) == pytest.approx(3)
    along_both = torch.stack([stepped] * 2).transpose(-1, -2)
    assert seam_index(along_both, [[], [8, 16], []]) == pytest.approx(3)


def test_a_pattern_of_the_decoder_is_no_seam():
    blocks = (torch.arange(32) // 4).float().repeat(4, 4, 1)  # steps between latent voxels only
    assert seam_index(blocks + 0.1 * torch.arange(32), [[], [], [8, 16]]) > 2
    assert seam_index(blocks, [[], [], [8, 16]], step=4) == pytest.approx(1)


def test_a_volume_of_one_window_cannot_be_measured():
    with pytest.raises(ValueError, match="one window holds it"):
        seam_index(torch.zeros(4, 4, 4), [[], [], []])


def test_voxels_know_how_often_they_are_drawn():
    shape, window, stride = (7, 4, 9), (4, 4, 4), (2, 3, 4)
    expected = torch.zeros(shape)
    for d, h, w in grid_coords(shape, window, stride).tolist():
        expected[d : d + 4, h : h + 4, w : w + 4] += 1
    assert torch.equal(times_covered(shape, window, stride), expected)


def test_overlap_variance_is_a_ratio_of_variances():
    draws = torch.randn(4000, 1, 1, 6, generator=torch.Generator().manual_seed(0))
    covered = torch.tensor([1, 1, 2, 2, 4, 1]).view(1, 1, 6)
    assert overlap_variance(draws * torch.where(covered > 1, 0.5, 2.0), covered) == pytest.approx(1 / 16, rel=0.1)
