"""A CT projected beside X-rays: its own is found among others, whatever their contrast, and a wrong CT's is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dataset.phantom.anatomy import draw_anatomy
from dataset.phantom.thorax import render
from dataset.scans.camera import Film
from dataset.scans.drr import project, to_intensity
from ddpm.plan import XrayInput
from pipeline.sampling.shown_films import ShownFilms
from tests.test_store import stored_case

SHAPE, SPACING, SIDE = (36, 32, 36), (9.0, 9.0, 9.0), 128


@pytest.fixture(scope="module")
def chests():
    return [render(draw_anatomy(np.random.default_rng(i)), SHAPE, SPACING).hu for i in range(4)]


@pytest.fixture(scope="module")
def films(chests):
    """By patient, of different contrast."""
    camera = Film().square(SIDE, 360.0)
    plain = [to_intensity(project(hu, SPACING, camera, (SIDE, SIDE))) for hu in chests]
    images = [image ** (0.7 + 0.2 * i) for i, image in enumerate(plain)]
    return {
        str(i): XrayInput(torch.from_numpy(image.astype(np.float32))[None], torch.zeros(1), torch.as_tensor(camera))
        for i, image in enumerate(images)
    }


def test_a_ct_shows_its_own_film_best(chests, films):
    cases = [stored_case(name) for name in films]
    shown = ShownFilms(lambda case: films[case.patient_id])
    for i, hu in enumerate(chests):
        found = shown.compare(hu, SPACING, cases[i], [case for case in cases if case is not cases[i]])
        assert found["projection"] > 0.95
        assert found["rank"] == 1


def test_another_patients_ct_does_not_show_it(chests, films):
    cases = [stored_case(name) for name in films]
    shown = ShownFilms(lambda case: films[case.patient_id])
    found = shown.compare(chests[1], SPACING, cases[0], cases[1:])
    assert found["projection"] < 0.9
    assert found["rank"] > 1
    flat = np.full(SHAPE, -400, np.int16)
    assert shown.compare(flat, SPACING, cases[0], cases[1:])["rank"] >= 1


def test_fine_voxels_are_thinned_about_the_same_middle(chests, films):
    shown, case = ShownFilms(lambda case: films[case.patient_id]), stored_case("0")
    fine = np.repeat(np.repeat(np.repeat(chests[0], 9, 0), 9, 1), 9, 2)
    coarse = shown.compare(chests[0], SPACING, case, [])["projection"]
    assert shown.compare(fine, (1.0, 1.0, 1.0), case, [])["projection"] == pytest.approx(coarse, abs=0.02)


def test_of_a_projection_the_own_cts_error_is_least(chests, films):
    cases = [replace(stored_case(name), xray_synthetic=True) for name in films]
    shown = ShownFilms(lambda case: films[case.patient_id])
    errors = [shown.compare(hu, SPACING, cases[1], [])["projection_mae"] for hu in chests]
    assert errors[1] < min(errors[:1] + errors[2:]) / 2
    assert errors[1] < 0.02  # the film has another contrast, which gain and offset do not undo
    assert 0 < shown.compare(np.full(SHAPE, -1000, np.int16), SPACING, cases[1], [])["projection_mae"] < 1
    assert "projection_mae" not in shown.compare(chests[0], SPACING, stored_case("0"), [])
