"""Phantom patients: anatomy in the right places, HU as in the clinic, truth that can be measured."""

from dataclasses import replace

import numpy as np
import pytest

from common.organs import lung_mask, lung_volume_ml
from dataset.phantom.anatomy import Anatomy, draw_anatomy
from dataset.phantom.film import XraySettings, degrade, misalignment, phantom_xray
from dataset.phantom.thorax import make_phantom, render

SHAPE, SPACING = (44, 40, 48), (7.0, 7.5, 7.5)
PLAIN = Anatomy(seed=3, emboli=4)


@pytest.fixture(scope="module")
def plain():
    return render(PLAIN, SHAPE, SPACING)


def middle(mask):
    return np.argwhere(mask).mean(0)


def test_equal_seeds_give_equal_patients_and_others_differ():
    first, same, other = (make_phantom(seed, (16, 14, 16), (20, 22, 22)).hu for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).mean() > 0.2


@pytest.mark.parametrize(("shape", "spacing"), [((9, 30, 17), (30, 9, 16)), ((40, 8, 24), (2, 2, 2))])
def test_any_grid_is_filled(shape, spacing):
    phantom = make_phantom(4, shape, spacing)
    assert phantom.hu.shape == shape
    assert phantom.hu.dtype == np.int16
    assert phantom.spacing == spacing
    assert all(mask.shape == shape for mask in phantom.masks.values())


def test_organs_lie_where_they_do_in_people(plain):
    where = {name: middle(mask) for name, mask in plain.masks.items()}
    assert where["liver"][2] < where["spine"][2] < where["spleen"][2]  # liver on the patient's right
    assert where["lung_right"][2] < where["heart"][2] < where["lung_left"][2]
    assert where["spine"][2] < where["heart"][2]  # most of the heart is on the left
    assert where["sternum"][1] < where["heart"][1] < where["spine"][1]
    assert where["liver"][0] < where["heart"][0] < where["clavicles"][0]
    assert where["spine"][1] < where["table"][1]


def test_hu_are_those_of_a_ctpa():
    phantom = render(PLAIN, (90, 80, 96), (3.5, 3.8, 3.8))
    hu = {name: float(np.median(phantom.hu[mask])) for name, mask in phantom.masks.items()}
    assert hu["air"] == pytest.approx(-1000, abs=10)
    assert hu["lung_right"] == pytest.approx(-850, abs=50)
    assert hu["fat"] == pytest.approx(-90, abs=15)
    assert hu["muscle"] == pytest.approx(50, abs=15)
    assert 300 <= hu["pulmonary_artery"] <= 500
    assert 150 <= hu["aorta"] <= 350
    assert 300 <= np.percentile(phantom.hu[phantom.masks["spine"]], 80) <= 1000
    assert 25 <= np.percentile(phantom.hu[phantom.masks["emboli"]], 30) <= 110  # blurred by the blood around


def test_clots_lie_in_pulmonary_arteries_and_make_the_label():
    grid = (60, 55, 64), (5.0, 5.5, 5.5)
    ill, well = render(PLAIN, *grid), render(replace(PLAIN, emboli=0), *grid)
    assert (ill.target, well.target) == (1, 0)
    assert "emboli" not in well.masks
    inside = well.masks["pulmonary_artery"][ill.masks["emboli"]]
    assert inside.mean() > 0.9


def test_embolism_can_be_asked_for():
    rng = np.random.default_rng(0)
    assert all(draw_anatomy(rng, embolism=True).emboli > 0 for _ in range(5))
    assert all(draw_anatomy(rng, embolism=False).emboli == 0 for _ in range(5))
    share = np.mean([draw_anatomy(rng).emboli > 0 for _ in range(200)])
    assert 0.35 < share < 0.65


def test_volumes_do_not_depend_on_the_grid(plain):
    fine = render(PLAIN, (88, 80, 96), (3.5, 3.75, 3.75))
    for organ in ("lung", "heart", "liver"):
        assert plain.volumes_ml[organ] == pytest.approx(fine.volumes_ml[organ], rel=0.05)


def test_patients_vary_in_what_an_x_ray_shows():
    phantoms = [make_phantom((7, n), (28, 24, 28), (12, 13, 13)) for n in range(8)]
    volumes = {o: np.array([p.volumes_ml[o] for p in phantoms]) for o in ("lung_right", "lung_left", "heart")}
    for values in volumes.values():
        assert values.std() / values.mean() > 0.12
    assert np.std(volumes["lung_left"] / volumes["lung_right"]) > 0.05
    lungs = np.stack([p.masks["lung_right"] | p.masks["lung_left"] for p in phantoms])
    overlaps = [(a & b).sum() / (a | b).sum() for a, b in zip(lungs[:-1], lungs[1:], strict=True)]
    assert np.mean(overlaps) < 0.75


def test_larger_bodies_have_larger_hearts():
    rng = np.random.default_rng(1)
    patients = [draw_anatomy(rng) for _ in range(400)]
    body = [a.girth for a in patients]
    heart = [a.girth * a.heart_scale for a in patients]
    assert 0.4 < np.corrcoef(body, heart)[0, 1] < 0.95


def test_breathing_out_lifts_the_diaphragm_and_leaves_the_bones(plain):
    out = render(PLAIN.exhaled(25), SHAPE, SPACING)
    assert out.volumes_ml["lung"] < 0.93 * plain.volumes_ml["lung"]
    assert middle(out.masks["liver"])[0] > middle(plain.masks["liver"])[0] + 1
    np.testing.assert_array_equal(out.masks["sternum"], plain.masks["sternum"])


def test_noise_is_correlated_within_slices_only():
    beside = replace(PLAIN, off_centre=(0, -500, 0), noise_hu=7.0)
    air = render(beside, (24, 30, 40), (2, 0.8, 0.8)).hu.astype(float)
    assert air.std() == pytest.approx(7, rel=0.1)
    air -= air.mean()
    within, across = (air[:, :, 1:] * air[:, :, :-1]).mean(), (air[1:] * air[:-1]).mean()
    assert within > 0.3 * air.var()
    assert abs(across) < 0.1 * air.var()


@pytest.mark.parametrize("index", [0, 3])
def test_lung_volume_is_measured_to_a_few_percent(index):
    phantom = make_phantom((9, index), (60, 56, 64), (5, 5.2, 5.2))
    measured = lung_volume_ml(phantom.hu, phantom.spacing)
    assert measured == pytest.approx(phantom.volumes_ml["lung"], rel=0.04)


def test_gas_in_the_bowel_and_air_around_the_body_are_no_lung(plain):
    found = lung_mask(plain.hu, SPACING)
    assert not found[plain.masks["air"]].any()
    assert not found[plain.masks["stomach"]].any()
    assert lung_volume_ml(np.zeros((4, 5, 6)), (1, 1, 1)) == 0


def test_bad_grids_are_refused():
    with pytest.raises(ValueError, match="three sizes"):
        make_phantom(0, (8, 8))
    with pytest.raises(ValueError, match="three positive lengths"):
        make_phantom(0, (8, 8, 8), (1, 1, 0))


def test_the_x_ray_can_be_taken_at_another_breath_and_finer_than_the_ct(plain):
    same = phantom_xray(PLAIN, plain, XraySettings(size=64), np.random.default_rng(0))
    rng = np.random.default_rng(0)
    other = phantom_xray(PLAIN, plain, XraySettings(size=64, breath_mm=30, spacing=6.0), rng)
    np.testing.assert_array_equal(same.declared, other.declared)
    np.testing.assert_array_equal(other.declared, other.true)
    assert np.abs(same.image - other.image).max() > 0.03
    inner = np.s_[16:-16, 16:-16]
    assert np.corrcoef(same.image[inner].ravel(), other.image[inner].ravel())[0, 1] > 0.9


def test_a_film_shows_the_same_body_beyond_the_cts_field_of_view(plain):
    settings = XraySettings(size=96, source_mm=1700.0, rotation_deg=1e-9)  # a film, yet nothing else changes
    whole = phantom_xray(PLAIN, plain, replace(settings, rotation_deg=0.0), np.random.default_rng(0))
    film = phantom_xray(PLAIN, plain, settings, np.random.default_rng(0))
    assert (film.image[0] > 0).mean() > 0.3  # the neck
    inner = np.s_[20:-20, 20:-20]
    assert np.corrcoef(film.image[inner].ravel(), whole.image[inner].ravel())[0, 1] > 0.97


def test_misalignment_keeps_its_limits():
    assert (misalignment(XraySettings(size=101), 2.0, np.random.default_rng(0)) == np.eye(3)).all()
    settings = XraySettings(size=101, shift_mm=20, rotation_deg=5, magnification=1.2)
    changes = [misalignment(settings, 2.0, np.random.default_rng(seed)) for seed in range(20)]
    moves = [(change @ [50, 50, 1])[:2] - 50 for change in changes]
    assert 5 < np.abs(moves).max() <= 10  # 20 mm
    zooms = [np.sqrt(np.linalg.det(change[:2, :2])) for change in changes]
    assert 1 <= min(zooms) < 1.1 < max(zooms) <= 1.2
    angles = [np.degrees(np.arctan2(change[1, 0], change[0, 0])) for change in changes]
    assert 3 < np.abs(angles).max() <= 5


def test_a_degraded_film_shows_the_same_patient(plain):
    image = phantom_xray(PLAIN, plain, XraySettings(size=96), np.random.default_rng(0)).image
    films = [degrade(image, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(films[0], films[1])
    assert (films[0] != films[2]).any()
    for film in films:
        assert film.dtype == np.float32
        assert 0 <= film.min() < film.max() <= 1
        inner = np.s_[12:-12, 12:-12]
        assert np.corrcoef(film[inner].ravel(), image[inner].ravel())[0, 1] > 0.9


def test_settings_outside_their_range_are_named():
    with pytest.raises(ValueError, match="magnification 1 or more"):
        XraySettings(magnification=0.9)
    with pytest.raises(ValueError, match=r"are size, spacing.*got blur"):
        XraySettings.of({"blur": 1})


def test_x_ray_settings_can_be_a_configs_keys():
    assert XraySettings.of({"size": 96, "degrade": True}) == XraySettings(size=96, degrade=True)
    assert XraySettings.of(None) == XraySettings()
