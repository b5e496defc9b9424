import numpy as np
import pytest

from dataset.scans.resample import cropped_affine, resample, resampled_shape

SPACING = np.array([2.0, 1.5, 0.8])  # d, h, w
SLOPE = np.array([1.7, -2.3, 3.1])  # HU per mm along R, A, S


def oblique(spacing):
    """An affine of a volume that is turned by some degrees and lies off the origin."""
    a, b = np.radians([7, -4])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ tilt @ np.diag([-1, -1, 1]) * spacing[::-1]
    affine[:3, 3] = (31, -12, 205)
    return affine


def world(affine, shape):
    """RAS mm of every voxel, (D, H, W, 3)."""
    d, h, w = np.indices(shape)
    return np.stack([w, h, d], -1) @ affine[:3, :3].T + affine[:3, 3]


def ramp(affine, shape):
    places = world(affine, shape)
    return ((places - places.reshape(-1, 3).mean(0)) @ SLOPE).round().astype(np.int16)


@pytest.mark.parametrize("wanted", [(1.0, 1.0, 1.0), (3.1, 2.9, 2.4), (2.0, 0.7, 1.9)])
def test_a_ramp_stays_the_same_ramp_in_millimetres(wanted):
    affine, shape = oblique(SPACING), (40, 46, 60)
    hu, new = resample(ramp(affine, shape), affine, wanted)
    expected = (world(new, hu.shape) - world(affine, shape).reshape(-1, 3).mean(0)) @ SLOPE
    inner = (slice(5, -5),) * 3  # beyond the outer voxel centres the volume goes on with their values
    assert np.abs(hu - expected)[inner].max() < 1.5  # the ramp's own rounding, and ours
    assert hu.dtype == np.int16


@pytest.mark.parametrize("wanted", [(1.0, 1.0, 1.0), (3.1, 2.9, 2.4)])
def test_the_centre_stays_where_it_is_and_voxels_get_the_wanted_size(wanted):
    affine, shape = oblique(SPACING), (40, 46, 60)
    hu, new = resample(ramp(affine, shape), affine, wanted)
    np.testing.assert_allclose(np.linalg.norm(new[:3, :3], axis=0)[::-1], wanted)
    np.testing.assert_allclose(world(new, hu.shape).mean((0, 1, 2)), world(affine, shape).mean((0, 1, 2)))
    assert hu.shape == resampled_shape(shape, SPACING.tolist(), wanted)
    extent = np.abs(np.array(hu.shape) * wanted - np.array(shape) * SPACING)
    assert (extent <= np.array(wanted) / 2).all()


def test_its_own_spacing_leaves_a_volume_as_it_is():
    hu = np.random.default_rng(0).integers(-1000, 3000, (20, 12, 9)).astype(np.int16)
    again, new = resample(hu, oblique(SPACING), SPACING)
    np.testing.assert_array_equal(again, hu)
    np.testing.assert_allclose(new, oblique(SPACING), atol=1e-12)


def test_fine_stripes_turn_grey_where_voxels_become_coarser():
    hu = np.zeros((30, 40, 40), np.int16)
    hu[:, :, ::2] = 1000  # period 2 mm; 4 mm voxels that were only picked would be all 0 or all 1000
    coarse, _ = resample(hu, np.diag([-1.0, -1, 1, 1]), (4, 4, 4))
    assert np.abs(coarse[:, :, 1:-1].astype(int) - 500).max() < 60


def test_a_blob_keeps_its_place_in_an_odd_ratio():
    affine = np.diag([-1.0, -1, 1, 1])
    centre = np.array([-37.5, -25.2, 14.8])
    distance = ((world(affine, (50, 50, 50)) - centre) ** 2).sum(-1)
    hu = (2000 * np.exp(-distance / (2 * 4**2)) - 1000).round().astype(np.int16)
    coarse, new = resample(hu, affine, (1.7, 1.9, 2.3))
    weight = (coarse.astype(float) + 1000)[..., None]
    found = (world(new, coarse.shape) * weight).sum((0, 1, 2)) / weight.sum()
    np.testing.assert_allclose(found, centre, atol=0.03)


def test_padding_outside_the_scan_does_not_bleed_into_it():
    hu = np.full((12, 12, 12), 40, np.int16)
    hu[:, :, :4] = -3024
    finer, _ = resample(hu, np.diag([-1.0, -1, 1, 1]), (1, 1, 0.5))
    assert finer.min() == -1024


def test_a_crop_keeps_the_world_position_of_its_voxels():
    affine, start = oblique(SPACING), (3, 5, 7)
    expected = world(affine, (20, 20, 20))[3:, 5:, 7:]
    np.testing.assert_allclose(world(cropped_affine(affine, start), (17, 15, 13)), expected)
