"""Projections of known bodies land where and as bright as geometry says."""

import numpy as np
import pytest

from dataset.scans.camera import pixels
from dataset.scans.drr import FULL_SCALE, WATER_PER_MM, frontal_drr, to_intensity

SPACING = (3.0, 2.0, 1.5)


def air(shape=(20, 24, 30)):
    return np.full(shape, -1000, np.int16)


def mm_of(index, shape, spacing):
    return [(i - (n - 1) / 2) * s for i, n, s in zip(index, shape, spacing, strict=True)]


def centroid(image):
    rows, columns = np.indices(image.shape)
    return (columns * image).sum() / image.sum(), (rows * image).sum() / image.sum()


def spread(image):
    rows, columns = np.indices(image.shape)
    column, row = centroid(image)
    return [
        ((columns - column) ** 2 * image).sum() / image.sum(),
        ((rows - row) ** 2 * image).sum() / image.sum(),
    ]


def test_water_attenuates_by_its_thickness():
    ct = air()
    ct[:, 4:14] = 0
    integrals, _ = frontal_drr(ct, SPACING, size=40)
    inside = integrals[integrals > 0]
    np.testing.assert_allclose(inside, WATER_PER_MM * 10 * SPACING[1], rtol=1e-5)


def test_hu_outside_the_scale_is_clipped():
    ct = air()
    ct[5, 5, 5], ct[5, 6, 5] = 3000, -2048
    above = ct.copy()
    above[5, 5, 5] = 9000
    np.testing.assert_array_equal(frontal_drr(ct, SPACING, 40)[0], frontal_drr(above, SPACING, 40)[0])


@pytest.mark.parametrize("source_mm", [None, 600.0])
@pytest.mark.parametrize("index", [(3, 12, 5), (16, 20, 26)])
def test_the_camera_says_where_a_voxel_lands(index, source_mm):
    shape = (20, 25, 30)
    ct = air(shape)
    ct[index] = 1000
    integrals, camera = frontal_drr(ct, SPACING, size=200, source_mm=source_mm)
    np.testing.assert_allclose(centroid(integrals), pixels(camera, mm_of(index, shape, SPACING)[::-1]), atol=0.6)


def test_head_is_up_and_patient_left_is_on_the_right():
    ct = air()
    ct[-2, 5, -2] = 1000
    column, row = centroid(frontal_drr(ct, SPACING, size=60)[0])
    assert column > 40
    assert row < 20


def test_a_ball_in_flat_voxels_is_round():
    spacing = (4.0, 2.0, 1.0)
    z, y, x = np.ogrid[-40:41:4, -40:41:2, -40:41:1]
    ct = np.where(z**2 + y**2 + x**2 < 30**2, 0, -1000)
    across, along = spread(frontal_drr(ct, spacing, size=128)[0])
    assert across == pytest.approx(along, rel=0.03)  # interpolation blurs the coarser axis more


@pytest.mark.parametrize(("view", "sign"), [("pa", 1), ("ap", -1)])
def test_what_is_near_the_source_is_magnified(view, sign):
    shape, source = (21, 41, 61), 300.0
    for row in (5, 35):
        ct = air(shape)
        ct[10, row, 50] = 1000
        y = mm_of((10, row, 50), shape, SPACING)[1]
        integrals, _ = frontal_drr(ct, SPACING, 300, source_mm=source, view=view)
        parallel, _ = frontal_drr(ct, SPACING, 300)
        grows = source / (source - sign * y)  # "pa": the source is behind, where y is positive
        middle = (300 - 1) / 2
        assert centroid(integrals)[0] - middle == pytest.approx(grows * (centroid(parallel)[0] - middle), abs=0.6)


def test_a_far_source_gives_parallel_rays():
    ct = np.random.default_rng(0).integers(-1000, 1000, (12, 14, 16))
    parallel = frontal_drr(ct, SPACING, 32)[0]
    np.testing.assert_allclose(frontal_drr(ct, SPACING, 32, source_mm=1e6)[0], parallel, rtol=5e-3, atol=1e-3)


def test_the_field_of_view_is_kept_in_millimetres():
    ct = np.zeros((20, 20, 20), np.int16)
    small, large = (frontal_drr(ct, (2, 2, 2), 100, fov_mm=f)[0] for f in (80, 160))
    assert (small > 0).mean() == pytest.approx(0.25, abs=0.02)
    assert (large > 0).mean() == pytest.approx(0.0625, abs=0.01)


def test_one_scale_for_all_cases():
    np.testing.assert_allclose(to_intensity(np.array([0, FULL_SCALE / 4, FULL_SCALE, 99])), [0, 0.25, 1, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing": (1, 0, 1)}, "three lengths > 0"),
        ({"spacing": (1, 1, 1), "source_mm": 5}, "outside the volume: beyond 12 mm"),
        ({"view": "lateral"}, "view must be"),
        ({"size": 1}, "at least 2 pixels"),
        ({"hu": np.zeros((4, 4))}, r"\(D, H, W\)"),
        ({"hu": air()}, "empty"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"hu": np.zeros((20, 24, 30)), "spacing": SPACING, "size": 16} | change
    with pytest.raises(ValueError, match=message):
        frontal_drr(**arguments)
