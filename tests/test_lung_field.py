"""Lungs are found on films, whatever their contrast and margins, or not at all."""

import numpy as np
import pytest

from dataset.phantom.anatomy import draw_anatomy
from dataset.phantom.thorax import render
from dataset.scans import camera as cam
from dataset.scans.camera import Film
from dataset.scans.drr import project, to_intensity
from dataset.scans.lung_field import lungs_centre, lungs_on_film
from dataset.scans.measure import lungs_of
from dataset.scans.xray_io import read_xray, to_square

SHAPE, SPACING, SIDE = (60, 48, 60), (6.0, 6.0, 6.0), 160


@pytest.fixture(scope="module")
def chest():
    return render(draw_anatomy(np.random.default_rng(1)), SHAPE, SPACING).hu


@pytest.fixture(scope="module")
def film(chest):
    camera = Film().square(SIDE, 360.0)
    return to_intensity(project(chest, SPACING, camera, (SIDE, SIDE))).astype(np.float32), camera


def test_the_lungs_are_where_the_ct_has_them(chest, film):
    d, _, w = lungs_of(chest, SPACING)
    x, y, z = lungs_on_film(*film)
    assert y == 0
    assert x == pytest.approx(w, abs=8)
    assert z == pytest.approx(d, abs=15)


def test_a_shift_of_the_film_is_that_of_the_lungs_on_it(film):
    image, camera = film
    moved = cam.of_pixels([[1, 0, 6], [0, 1, -5], [0, 0, 1]], camera)
    shifted = np.roll(image, (-5, 6), (0, 1))
    column, row = np.subtract(lungs_centre(shifted), lungs_centre(image))
    assert (column, row) == pytest.approx((6, -5), abs=1.5)
    np.testing.assert_allclose(lungs_on_film(shifted, moved), lungs_on_film(image, camera), atol=4)


@pytest.mark.parametrize(
    "shown",
    [
        lambda film: film**1.4,
        lambda film: 0.06 * film,  # 12 bits in 16
        lambda film: np.pad(film, ((0, 0), (30, 30))),
        lambda film: np.kron(film, np.ones((3, 3), np.float32)),
    ],
    ids=["contrast", "dark", "margins", "large"],
)
def test_contrast_margins_and_size_do_not_matter(film, shown):
    after = shown(film[0])
    scale = after.shape[0] / SIDE
    moved = (np.array(lungs_centre(after)) + 0.5 - np.divide(after.shape[::-1], 2)) / scale
    np.testing.assert_allclose(moved, np.array(lungs_centre(film[0])) + 0.5 - SIDE / 2, atol=6)


def test_no_lungs_are_found_where_there_are_none_or_one(film):
    image = film[0]
    assert lungs_centre(np.zeros((SIDE, SIDE))) is None
    assert lungs_centre(np.full((SIDE, SIDE), 0.5)) is None
    assert lungs_centre(np.random.default_rng(0).random((SIDE, SIDE))) is None
    assert lungs_centre(image[:, : SIDE // 2]) is None


def test_the_lungs_of_real_films_are_found(shared_data):
    """Between the sides of the mediastinum, below the aortic arch and above the diaphragm, as a reader places them."""
    places = {}
    for path in sorted((shared_data / "cxr").rglob("*.png")):
        image, _ = to_square(read_xray(path))
        places[path.name] = lungs_centre(image)
    assert len(places) == 3
    for column, row in places.values():
        assert 235 < column < 295
        assert 190 < row < 265
