import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import watershed

from common.organs import averaged, lung_mask, lung_volume_ml, pockets_of
from evaluation.controls import correlation
from evaluation.summary import Findings


def chest(left_edge):
    """Water with two lungs of 10x12x8 voxels in a field of view that ends at `left_edge`, air before and behind."""
    hu = np.full((16, 28, 40), -1000, dtype=np.int16)
    hu[:, 5:-5] = 40
    hu[3:13, 8:20, 6:14] = hu[3:13, 8:20, 26:34] = -850
    return hu[:, :, :left_edge]


@pytest.mark.parametrize("left_edge", [40, 34, 30])
def test_a_lung_that_the_field_of_view_touches_or_cuts_counts(left_edge):
    hu = chest(left_edge)
    voxels = (hu == -850).sum()
    assert lung_volume_ml(hu, (2.0, 2.0, 2.0)) == pytest.approx(voxels * 8 / 1000, rel=0.02)


def test_fine_voxels_give_the_volume_of_coarse_ones():
    fine = chest(40).repeat(3, 0).repeat(3, 1).repeat(2, 2)
    noise = np.random.default_rng(0).normal(0, 60, fine.shape)
    expected = lung_volume_ml(chest(40), (2.1, 2.4, 2.0))
    for volume in (fine, (fine + noise).astype(np.int16), fine[1:, :-1]):  # of the last, blocks at the ends are cut
        assert lung_volume_ml(volume, (0.7, 0.8, 1.0)) == pytest.approx(expected, rel=0.15)
    assert lung_volume_ml(fine, (0.7, 0.8, 1.0)) == pytest.approx(expected)


def test_the_air_around_the_body_does_not_count():
    assert not lung_mask(chest(40), (2.0, 2.0, 2.0))[:, :4].any()


@pytest.mark.parametrize(
    "hole", [(slice(6, 10), slice(5, 8), slice(30, 34)), (slice(3, 13), slice(0, 20), slice(-2, None))]
)
def test_a_gap_in_the_wall_or_a_film_of_air_on_a_side_joins_no_lung_to_the_air_outside(hole):
    hu = chest(36)
    whole = lung_volume_ml(hu, (2.0, 2.0, 2.0))
    hu[hole] = -1000
    found = lung_volume_ml(hu, (2.0, 2.0, 2.0))
    assert 0.95 * whole < found < 1.25 * whole  # a film counts where it lies on the lung


def test_lungs_that_the_field_of_view_cuts_wide_open_cannot_be_measured():
    hu = chest(40)
    inner = hu[2:-2, 9:19, 8:32]  # within the body: both lungs end at the field's front and back
    assert np.isnan(lung_volume_ml(inner, (2.0, 2.0, 2.0)))
    assert np.isnan(lung_volume_ml(inner[:, :, :12], (2.0, 2.0, 2.0)))
    assert lung_volume_ml(hu, (2.0, 2.0, 2.0)) > 0


@pytest.mark.parametrize("lost", ["drawn", "real"])
def test_lungs_that_cannot_be_measured_enter_no_correlation(lost):
    volumes = {"drawn": [4000.0, 5000.0, 4500.0, 6000.0], "real": [4200.0, 4900.0, 4700.0, 5500.0]}
    expected = correlation(volumes["drawn"][:3], volumes["real"][:3], ["a", "b", "c"])
    volumes[lost][3] = np.nan
    score = {"preset": "hu", "psnr": 20.0, "ssim": 0.5, "hu_mae": 50.0}
    cases = [[{"of": "right", "lung_ml": drawn, "scores": [score]}] for drawn in volumes["drawn"]]
    found = Findings.of(cases, [{"lung_ml_real": real} for real in volumes["real"]], ["a", "b", "c", "d"], seed=0)
    assert found.lungs["right"] == expected


def test_pockets_are_those_of_cores_that_grow_over_all_air_at_once():
    air = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(30, 50, 60)), 2) > 0.02
    cores, _ = ndimage.label(ndimage.binary_erosion(air, iterations=2, border_value=1))
    expected = watershed(np.zeros(air.shape, np.uint8), cores, mask=air)
    found = pockets_of(air, (2.0, 2.0, 2.0))
    assert expected.max() > 10
    assert np.array_equal(found > 0, expected > 0)
    assert (found != expected).mean() < 1e-3  # voxels as far from one core as from another


def test_blocks_have_their_means_also_the_last_ones():
    hu = np.random.default_rng(0).normal(0, 300, (7, 6, 5)).astype(np.float32)
    found, edges = averaged(hu, (1.0, 0.6, 2.0))
    assert edges == pytest.approx((2.0, 1.8, 2.0))
    assert found.shape == (4, 2, 5)
    np.testing.assert_allclose(found[1, 1], hu[2:4, 3:6].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found[3, 0], hu[6, :3].mean(0), rtol=1e-5)
