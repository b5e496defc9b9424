"""The measures of seams: known answers on ramps, steps and noise."""

import numpy as np
import pytest

from common.patches import grid_coords
from evaluation.seams import overlap_variance, seam_index, times_covered, window_planes


def along_w(values):
    """A volume (4, 4, W) that varies along its last axis alone."""
    return np.broadcast_to(np.asarray(values, dtype=np.float32), (4, 4, len(values)))


def test_planes_lie_where_windows_begin_and_end():
    assert window_planes(128, 32, 24) == [24, 32, 48, 56, 72, 80, 96, 104]
    assert window_planes(16, 12, 9) == [4, 12]
    assert window_planes(10, 12, 9) == []


def test_the_index_of_a_step_at_the_seams_is_its_height_over_the_slope_elsewhere():
    place = np.arange(32)
    ramp, stepped = along_w(place), along_w(place + 2 * (place >= 8) + 2 * (place >= 16))
    assert seam_index(ramp, [[], [], [8, 16]]) == pytest.approx(1)
    assert seam_index(stepped, [[], [], [8, 16]]) == pytest.approx(3)
    assert seam_index(np.stack([stepped] * 2).swapaxes(-1, -2), [[], [8, 16], []]) == pytest.approx(3)


def test_a_pattern_of_the_decoder_is_no_seam():
    blocks = np.arange(32) // 4  # steps between latent voxels only
    assert seam_index(along_w(blocks + 0.1 * np.arange(32)), [[], [], [8, 16]]) > 2
    assert seam_index(along_w(blocks), [[], [], [8, 16]], step=4) == pytest.approx(1)


def test_a_volume_of_one_window_cannot_be_measured():
    with pytest.raises(ValueError, match="one window holds it"):
        seam_index(np.zeros((4, 4, 4)), [[], [], []])


def test_voxels_know_how_often_they_are_drawn():
    shape, window, stride = (7, 4, 9), (4, 4, 4), (2, 3, 4)
    expected = np.zeros(shape)
    for d, h, w in grid_coords(shape, window, stride).tolist():
        expected[d : d + 4, h : h + 4, w : w + 4] += 1
    np.testing.assert_array_equal(times_covered(shape, window, stride), expected)


def test_overlap_variance_is_a_ratio_of_variances():
    draws = np.random.default_rng(0).standard_normal((4000, 1, 1, 6))
    covered = np.array([1, 1, 2, 2, 4, 1]).reshape(1, 1, 6)
    assert overlap_variance(draws * np.where(covered > 1, 0.5, 2.0), covered) == pytest.approx(1 / 16, rel=0.1)
