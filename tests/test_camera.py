"""Cameras against rays computed by hand."""

import numpy as np
import pytest

from common.errors import UserError
from dataset.scans import camera as cam
from dataset.scans.camera import Film
from dataset.scans.drr import project

FILMS = [Film(view, source_mm=None) for view in cam.VIEWS] + [Film(view) for view in cam.VIEWS]
FILMS += [Film("pa", turn_deg=30.0), Film("ap", 1100.0, 90.0, turn_deg=-20.0), Film("ll", None, turn_deg=12.0)]
# where the source stands, and the image's axis across, as somebody in the room would say
BY_HAND = {"pa": ([0, 1, 0], [1, 0, 0]), "ap": ([0, -1, 0], [1, 0, 0])}
BY_HAND |= {"ll": ([-1, 0, 0], [0, 1, 0]), "rl": ([1, 0, 0], [0, -1, 0])}
SHAPE, PIXEL = (90, 120), (3.1, 2.9)


def names(film):
    return f"{film.view}{'' if film.source_mm else '-parallel'}{film.turn_deg or ''}"


def turned(vector, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(vector, dtype=float)


def by_hand(film, point):
    """Pixel of a point: the ray from the source through it meets the detector's plane."""
    to_source, across = (turned(v, film.turn_deg) for v in BY_HAND[film.view])
    if film.source_mm is None:
        hit = point
    else:
        source = to_source * (film.source_mm - film.patient_mm)
        detector = -to_source * film.patient_mm
        ray = point - source
        hit = source + ray * ((detector - source) @ to_source) / (ray @ to_source)
    return np.array([hit @ across / PIXEL[1] + (SHAPE[1] - 1) / 2, -hit[2] / PIXEL[0] + (SHAPE[0] - 1) / 2])


@pytest.mark.parametrize("film", FILMS, ids=names)
def test_a_point_is_seen_where_its_ray_meets_the_detector(film):
    points = np.random.default_rng(0).uniform(-140, 140, (40, 3))
    expected = [by_hand(film, point) for point in points]
    np.testing.assert_allclose(cam.pixels(film.camera(SHAPE, PIXEL), points), expected, atol=1e-9)


@pytest.mark.parametrize("film", FILMS, ids=names)
def test_a_bead_is_projected_to_where_the_camera_sees_it(film):
    spacing, shape = (4.0, 3.0, 3.5), (30, 44, 36)
    camera = film.camera(SHAPE, PIXEL)
    for place in [(5, 6, 4), (25, 38, 30), (14, 3, 33)]:
        hu = np.full(shape, -1000, np.int16)
        hu[place] = 2000
        integrals = project(hu, spacing, camera, SHAPE)
        centre = [(i - (n - 1) / 2) * s for i, n, s in zip(place, shape, spacing, strict=True)]
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
        found = [float((axis * integrals).sum() / integrals.sum()) for axis in (columns, rows)]
        np.testing.assert_allclose(found, cam.pixels(camera, centre[::-1]), atol=0.1)


@pytest.mark.parametrize("film", FILMS, ids=names)
def test_a_ray_through_the_middle_of_a_block_measures_its_thickness(film):
    hu = np.zeros((40, 40, 40), np.int16)  # 160 mm of water
    integrals = project(hu, (4.0, 4.0, 4.0), film.camera((41, 41), (3.0, 3.0)), (41, 41))
    thickness = 160 / np.cos(np.radians(film.turn_deg))
    assert integrals[20, 20] == pytest.approx(0.0195 * thickness, rel=0.02)


def test_a_turned_camera_agrees_with_a_turned_picture():
    rng = np.random.default_rng(1)
    hu = rng.integers(-900, 200, (24, 20, 28)).astype(np.int16)
    camera = Film("pa").camera((64, 64), (3.0, 3.0))
    quarter = np.array([[0, -1, 63], [1, 0, 0], [0, 0, 1]])  # (column, row) -> (63 - row, column)
    straight = project(hu, (5, 5, 5), camera, (64, 64))
    np.testing.assert_allclose(
        project(hu, (5, 5, 5), cam.of_pixels(quarter, camera), (64, 64)), np.rot90(straight, -1), atol=2e-3
    )


def test_pixels_follow_what_is_done_to_the_image():
    camera, point = Film("ap").camera((100, 100), (4.0, 4.0)), [30.0, -50.0, 20.0]
    column, row = cam.pixels(camera, point)
    moved = cam.of_pixels(cam.resized(0.5, (10, 20)), camera)
    np.testing.assert_allclose(cam.pixels(moved, point), [(column + 10.5) / 2 - 0.5, (row + 20.5) / 2 - 0.5])
    assert moved[2, 3] == 1


def test_points_may_count_from_another_centre():
    camera, centre = Film("ll").camera((100, 100), (4.0, 4.0)), np.array([5.0, -12.0, 33.0])
    point = np.array([30.0, -50.0, 20.0])
    np.testing.assert_allclose(cam.pixels(cam.of_centre(camera, centre), point - centre), cam.pixels(camera, point))


def test_an_affine_is_a_camera_of_parallel_rays():
    affine = np.array([[1.3, 0.1, 250.0], [-0.1, -1.2, 240.0]])
    camera = cam.from_affine(affine)
    point = np.array([40.0, 99.0, -30.0])
    np.testing.assert_allclose(cam.pixels(camera, point), affine @ [40.0, -30.0, 1])
    direction, is_point = cam.ray_to_source(camera)
    assert not is_point
    np.testing.assert_allclose(direction, [0, 1, 0], atol=1e-12)


def test_the_source_is_where_the_film_says():
    source, is_point = cam.ray_to_source(Film("pa", 1800.0, 150.0).camera((100, 100), (4.0, 4.0)))
    assert is_point
    np.testing.assert_allclose(source, [0, 1650, 0], atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [{"view": "frontal"}, {"source_mm": 100.0}, {"source_mm": -1.0}, {"patient_mm": -2.0}, {"source_mm": np.nan}],
)
def test_an_impossible_film_is_refused(wrong):
    with pytest.raises(UserError):
        Film(**wrong)


def test_a_matrix_that_is_no_camera_is_told():
    good = Film().camera((10, 10), (1.0, 1.0))
    assert cam.is_camera(good)
    assert not cam.is_camera(good[:2])
    assert not cam.is_camera(np.where(good == good[2, 3], np.nan, good))
    assert not cam.is_camera(np.zeros((3, 4)))


def test_a_source_inside_the_volume_is_refused():
    with pytest.raises(UserError, match="outside the volume"):
        project(np.zeros((9, 90, 9), np.int16), (5, 5, 5), Film("pa", 200.0, 20.0).camera((9, 9), (5, 5)), (9, 9))
