"""Films find their camera on the CT's own projections, and say when they do not."""

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.film_pairs import Pair
from dataset.phantom.anatomy import draw_anatomy
from dataset.phantom.thorax import render
from dataset.scans import camera as cam
from dataset.scans.camera import Film
from dataset.scans.drr import project, to_intensity
from dataset.scans.film_search import search
from dataset.scans.film_view import FilmView, smoothed
from dataset.scans.pair_check import AS_IS, CHANGES, MAGNIFICATIONS, TURNS_DEG, check_pair, fits_better, mended
from dataset.scans.registration import COARSE, register
from dataset.scans.slabs import Slabs

SIZE, PIXEL = (128, 128), (3.0, 3.0)
SHAPE, SPACING = (52, 44, 52), (6.0, 6.0, 6.0)


@cache
def body(seed):
    return render(draw_anatomy(np.random.default_rng(seed)), SHAPE, SPACING).hu


def film(hu, camera):
    return to_intensity(project(hu, SPACING, camera, SIZE))


def moved(camera, turn_deg=0.0, shift=(0.0, 0.0), zoom=1.0):
    c, s = zoom * np.cos(np.radians(turn_deg)), zoom * np.sin(np.radians(turn_deg))
    change = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    middle = np.array([63.5, 63.5])
    change[:2, 2] = middle + shift - change[:2, :2] @ middle
    return cam.of_pixels(change, camera)


def error_mm(found, true, hu):
    return Pair("", np.zeros(SIZE), hu, SPACING, found, true).error_mm(found)


@pytest.mark.parametrize("view", [Film(), Film("ap", 1100.0, 100.0), Film("pa", None), Film("ll")])
def test_turn_shift_and_magnification_are_found(view):
    declared = view.camera(SIZE, PIXEL)
    true = moved(declared, 4.0, (-5.0, 4.0), 1.12)
    result = register(film(body(0), true), body(0), SPACING, declared)
    assert result.ok
    assert error_mm(declared, true, body(0)) > 10
    assert error_mm(result.camera, true, body(0)) < 1


def test_turns_out_of_the_plane_are_found():
    declared = Film().camera(SIZE, PIXEL)
    true = moved(Film(turn_deg=3.0).camera(SIZE, PIXEL), -3.0, (2.0, 3.0), 1.05)
    result = register(film(body(0), true), body(0), SPACING, declared)
    assert result.ok
    assert error_mm(result.camera, true, body(0)) < 1


def test_another_breath_is_not_taken_for_a_shift():
    calm = draw_anatomy(np.random.default_rng(0))
    declared = Film().camera(SIZE, PIXEL)
    true = moved(declared, 2.0, (4.0, 0.0), 1.08)
    hu = render(calm.exhaled(14.0), SHAPE, SPACING).hu
    result = register(film(hu, true), body(0), SPACING, declared)
    assert result.breath_mm > 5
    assert error_mm(result.camera, true, body(0)) < 3


@pytest.mark.parametrize("curve", [0.7, 1.4])
def test_contrast_noise_collimator_and_a_marker_do_no_harm(curve):
    declared = Film().camera(SIZE, PIXEL)
    true = moved(declared, -3.0, (3.0, -4.0), 1.1)
    image = film(body(0), true) ** curve + 0.01 * np.random.default_rng(0).standard_normal(SIZE)
    image[:7], image[:, -6:] = 0.02, 0.02
    image[12:20, 105:107] = 1
    result = register(image.clip(0, 1), body(0), SPACING, declared)
    assert result.ok
    assert error_mm(result.camera, true, body(0)) < 1.5


def test_films_of_any_shape_get_their_camera_in_their_own_pixels():
    shape, declared = (150, 117), Film().camera((150, 117), (2.7, 2.7))
    change = np.eye(3)
    change[:2, 2] = 7.0, -5.0
    true = cam.of_pixels(change, declared)
    image = to_intensity(project(body(0), SPACING, true, shape))
    assert error_mm(register(image, body(0), SPACING, declared).camera, true, body(0)) < 1


@pytest.mark.parametrize("blank", [np.zeros(SIZE), np.full(SIZE, 0.4), np.ones(SIZE)], ids=["black", "grey", "white"])
def test_a_blank_film_keeps_the_declared_camera(blank):
    declared = Film().camera(SIZE, PIXEL)
    result = register(blank, body(0), SPACING, declared)
    assert not result.ok
    np.testing.assert_array_equal(result.camera, declared)


def test_a_ct_of_air_keeps_the_declared_camera():
    declared = Film().camera(SIZE, PIXEL)
    air = np.full(SHAPE, -1000, np.int16)
    assert not register(film(body(0), declared), air, SPACING, declared).ok


def test_another_patients_film_is_not_ok():
    declared = Film().camera(SIZE, PIXEL)
    others = [register(film(body(seed), moved(declared, 2.0)), body(0), SPACING, declared) for seed in (1, 2)]
    assert not any(result.ok for result in others)
    assert all((result.camera == declared).all() for result in others)


def test_a_camera_along_the_body_is_refused():
    from_above = np.array([[0.3, 0, 0, 60], [0, 0.3, 0, 60], [0, 0, 0, 1.0]])
    with pytest.raises(ValueError, match="along the body"):
        register(np.zeros(SIZE), body(0), SPACING, from_above)


WRONGS = {
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: np.rot90(image, 2),
    "turned left": lambda image: np.rot90(image, 1),
    "turned right": lambda image: np.rot90(image, -1),
    "turned right, then mirrored": lambda image: np.rot90(image, -1)[:, ::-1],
    "turned left, then mirrored": lambda image: np.rot90(image, 1)[:, ::-1],
    "mirrored and upside down": lambda image: image[::-1],
    "a negative": lambda image: 1 - image,
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_a_film_the_wrong_way_round_is_told(wrong):
    declared = Film().camera((128, 120), PIXEL)
    image = to_intensity(project(body(0), SPACING, moved(declared, 2.0, (3.0, 2.0), 1.1), (128, 120)))
    bad = WRONGS[wrong](image)
    if bad.shape != image.shape:
        declared = Film().camera(bad.shape, PIXEL)
    assert fits_better(check_pair(bad, body(0), SPACING, declared)) == wrong


def test_a_film_the_right_way_round_fits_best():
    declared = Film().camera(SIZE, PIXEL)
    scores = check_pair(film(body(0), moved(declared, -3.0, (4.0, 1.0), 1.1)), body(0), SPACING, declared)
    assert fits_better(scores) is None
    assert max(scores, key=lambda name: scores[name]) == AS_IS


def test_the_error_of_a_shift_is_its_length_in_the_patient():
    true = Film("pa", None).camera(SIZE, PIXEL)
    pair = Pair("", np.zeros(SIZE), body(0), SPACING, true, true)
    assert pair.error_mm(true) == 0
    assert pair.error_mm(moved(true, shift=(3.0, 4.0))) == pytest.approx(15.0)


def test_films_that_are_searched_together_are_found_as_each_alone():
    declared = Film().camera((128, 96), PIXEL)
    image = np.ascontiguousarray(film(body(0), moved(declared, 3.0, (-2.0, 4.0), 1.1))[:, 16:112])
    declared = cam.of_pixels([[1, 0, -16], [0, 1, 0], [0, 0, 1]], declared)
    scores = check_pair(image, body(0), SPACING, declared)
    square, slabs = np.pad(image, ((0, 0), (16, 16))), Slabs.of(body(0), SPACING, declared)
    camera = cam.of_pixels([[1, 0, 16], [0, 1, 0], [0, 0, 1]], declared)
    for name in CHANGES:
        alone = search(FilmView.of(mended(square, name), camera, COARSE), slabs, MAGNIFICATIONS, TURNS_DEG)
        assert scores[name] == pytest.approx(alone.score, abs=1e-4)
    assert fits_better(scores) is None


def test_a_pair_is_looked_at_with_few_projections(monkeypatch):
    """What takes a search's time: one for all that a film may be, and slopes that hold for some rounds."""
    made, seen = [], Slabs.seen
    monkeypatch.setattr(Slabs, "seen", lambda *args: made.append(args) or seen(*args))
    declared = Film().camera(SIZE, PIXEL)
    image = film(body(0), moved(declared, 4.0, (-5.0, 4.0), 1.12))
    check_pair(image, body(0), SPACING, declared)
    assert len(made) == 1
    assert register(image, body(0), SPACING, declared).ok
    assert len(made) <= 1 + 1 + 4 + (8 + 3 * 3) + (6 + 2 * 3) + 1


@pytest.mark.parametrize("sigma", [0.6, 1.2, 6.0, 12.0])
def test_smoothing_by_matrices_is_that_of_a_filter(sigma):
    image = np.random.default_rng(0).random((52, 64)).astype(np.float32)
    expected = ndimage.gaussian_filter(image, sigma, mode="constant", truncate=3)
    np.testing.assert_allclose(smoothed(image, sigma), expected, atol=1e-5)
