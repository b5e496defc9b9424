"""The measures of seams: known answers on ramps, steps and noise."""

import numpy as np
import pytest
from scipy import ndimage

from common.patches import grid_coords
from evaluation.seams import (
    block_index,
    gradient_energy,
    lattice_index,
    overlap_variance,
    plane_gradients,
    seam_index,
    times_covered,
    window_planes,
)


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


def test_gradients_are_means_over_planes_of_clipped_values_however_deep_the_volume():
    hu = np.random.default_rng(0).normal(0, 800, (131, 5, 6)).astype(np.int16)
    clipped = np.clip(hu.astype(float), -1000, 1000)
    for axis, found in enumerate(plane_gradients(hu, (-1000, 1000))):
        others = tuple({0, 1, 2} - {axis})
        np.testing.assert_allclose(found, np.abs(np.diff(clipped, axis=axis)).mean(others), rtol=1e-5)


def test_the_block_index_of_steps_between_latent_voxels_is_their_height_over_the_slope_elsewhere():
    place = np.arange(32)
    ramp, blocks = along_w(place), along_w(place + 2 * (place // 4))
    assert block_index(plane_gradients(ramp)) == pytest.approx(1)
    assert block_index(plane_gradients(blocks)) == pytest.approx(3)
    assert block_index(plane_gradients(blocks.swapaxes(-1, -2))) == pytest.approx(3)
    in_all = np.add.outer(np.add.outer(blocks[0, 0], place), place)  # the mean of 3, 1 and 1
    assert block_index(plane_gradients(in_all)) == pytest.approx(5 / 3)


def test_noise_has_no_blocks_and_averaging_takes_energy_from_it():
    draws = np.random.default_rng(0).normal(0, 100, (16, 40, 40, 40))
    one, mean = plane_gradients(draws[0]), plane_gradients(draws.mean(0))
    assert block_index(one) == pytest.approx(1, abs=0.01)
    assert gradient_energy(mean, one) == pytest.approx(1 / 4, rel=0.02)
    assert gradient_energy(one, one) == 1


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


def test_a_lattice_with_the_period_of_a_latent_voxel_is_seen_and_other_detail_is_not():
    rng, window = np.random.default_rng(0), (-1000.0, 1000.0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(48, 48, 48)), 1.5)
    tissue = 300 * smooth / smooth.std()
    period = np.tile([1.0, 0.0, -1.0, 0.0], 12)
    lattice = period[:, None, None] * period[:, None] * period
    assert lattice_index(tissue, window) == pytest.approx(0, abs=0.02)
    assert lattice_index(50 * lattice, window) > 0.9
    assert lattice_index(tissue + 120 * lattice, window) > 0.05
    odd = np.resize([1.0, 0.0, -1.0], 48)
    assert lattice_index(tissue + 120 * odd[:, None, None] * odd[:, None] * odd, window) < 0.05


def test_a_lattice_is_told_where_half_of_the_volume_is_empty():
    volume = np.full((40, 40, 40), -1000.0)
    volume[:20] = np.random.default_rng(0).normal(0, 400, (20, 40, 40))
    assert lattice_index(volume, (-1000.0, 1000.0)) == pytest.approx(0, abs=0.02)
