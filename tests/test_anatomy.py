"""Regions and vessels: known shapes, and scores that worsen as CTs do."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice
from scipy import ndimage

from dataset.phantom.thorax import make_phantom
from evaluation.anatomy import RealAnatomy, compare_masks, dice, hd95_mm, over_cases
from evaluation.regions import REGIONS, regions_of
from evaluation.vessels import vessels_in

WINDOW = (-1000.0, 1000.0)
EDGES = (3.0, 2.0, 2.5)
CUBIC = (1.0, 1.0, 1.0)


def balls(shape, *centres, radius=5):
    grid = np.indices(shape)
    return np.any([sum((g - c) ** 2 for g, c in zip(grid, at, strict=True)) <= radius**2 for at in centres], axis=0)


def chest():
    """Water with two lungs, between them a heart of contrast, behind them a spine, around them a rib."""
    hu = np.full((20, 48, 64), -1000, np.int16)
    hu[:, 4:-4, 2:-2] = 40
    hu[2:18, 10:34, 8:24] = hu[2:18, 10:34, 40:56] = -850
    hu[6:14, 14:24, 28:36] = 350
    hu[:, 30:42, 28:36] = 400
    hu[:, 6:8, 8:56] = 300
    return hu


def test_regions_of_a_chest_of_boxes_are_its_boxes():
    hu = chest()
    found = regions_of(hu, CUBIC)
    assert tuple(sorted(found)) == tuple(sorted(REGIONS))
    assert dice(found["lung"], hu == -850) > 0.97
    assert np.array_equal(found["contrast"], hu == 350)
    lungs_show = np.zeros(hu.shape, bool)
    lungs_show[2:18] = True
    assert np.array_equal(found["bone"], ((hu == 400) | (hu == 300)) & lungs_show)
    assert np.array_equal(found["body"], hu > -1000)
    assert found["mediastinum"][6:14, 14:24, 28:36].all()
    assert not (found["mediastinum"] & (found["lung"] | found["bone"])).any()


def test_nothing_has_empty_regions():
    found = regions_of(np.full((9, 10, 11), -1000, np.int16), CUBIC)
    assert not any(mask.any() for mask in found.values())


def test_scores_of_masks_are_those_of_monai_and_of_a_known_shift():
    a, b = balls((24, 24, 24), (12, 12, 12)), balls((24, 24, 24), (12, 12, 16))
    theirs = compute_dice(*(torch.from_numpy(m)[None, None] for m in (a, b)), include_background=True)
    assert dice(a, b) == pytest.approx(float(theirs), abs=1e-6)
    box, moved = np.zeros((2, 12, 12, 12), bool)
    box[3:6, 3:9, 3:9] = moved[5:8, 3:9, 3:9] = True
    assert hd95_mm(box, moved, EDGES) == pytest.approx(2 * EDGES[0])
    assert (dice(a, a), hd95_mm(a, a, EDGES)) == (1, 0)
    assert dice(a & ~a, a & ~a) is hd95_mm(a, a & ~a, EDGES) is None
    assert dice(a, a & ~a) == 0


def test_bias_and_spread_are_those_of_the_real_region():
    hu, masks = chest(), regions_of(chest(), CUBIC)
    noisy = hu + np.where(masks["lung"], 30, 0) + np.random.default_rng(0).normal(0, 12, hu.shape)
    found = compare_masks(noisy, hu, masks, masks, CUBIC)
    assert found["lung"]["hu_bias"] == pytest.approx(30, abs=1)
    assert found["contrast"]["hu_bias"] == pytest.approx(0, abs=2)
    assert found["lung"]["hu_spread"] == pytest.approx(12, abs=0.5)
    assert found["lung"]["ml"] == found["lung"]["ml_real"] == masks["lung"].sum() / 1000


@pytest.fixture(scope="module")
def phantom():
    spacing = (6.0, 5.0, 5.0)
    return make_phantom(3, (48, 64, 76), spacing).hu, spacing


def shifted(hu, by):
    return ndimage.shift(hu, (0, by, by), order=1, cval=-1000.0)


@pytest.mark.parametrize(
    "worse", [shifted, lambda hu, by: ndimage.gaussian_filter(hu.astype(float), by)], ids=["shift", "blur"]
)
def test_anatomy_worsens_with_every_step_of_damage(phantom, worse):
    hu, spacing = phantom
    anatomy = RealAnatomy(hu, spacing, WINDOW)
    found = [anatomy.compare(worse(hu, by))["regions"] for by in (0, 1, 2, 4)]
    for name in ("lung", "body", "bone", "mediastinum"):
        scores = [case[name]["dice"] for case in found]
        assert scores[0] == 1, name
        assert scores == sorted(scores, reverse=True), name
    for name in ("lung", "bone"):
        errors = [np.hypot(case[name]["hu_bias"], case[name]["hu_spread"]) for case in found]
        assert errors == sorted(errors), name
    assert anatomy.compare(hu)["vessels"] == anatomy.vessels


def test_vessels_are_those_of_the_window_alone():
    """No model draws more than its window: what the real CT has beyond it must not make vessels wider."""
    hu, fine = np.repeat(np.repeat(chest(), 2, axis=1), 2, axis=2), (3.0, 0.75, 0.75)
    hu[6:14, 30:44:2, 20:34:2] = 3000  # a quarter of the voxels that are averaged
    assert RealAnatomy(hu, fine, WINDOW).vessels == RealAnatomy(hu.clip(*map(int, WINDOW)), fine, WINDOW).vessels


def tubes(*tubes, shape=(40, 40, 60)):
    """Contrast of round tubes (start, end, radius) in lung."""
    grid, hu = np.stack(np.indices(shape), -1).astype(float), np.full(shape, -850.0)
    for start, end, radius in tubes:
        along = np.subtract(end, start)
        place = np.clip((grid - start) @ along / (along @ along), 0, 1)
        hu[np.linalg.norm(grid - start - place[..., None] * along, axis=-1) <= radius] = 300
    return hu


def test_a_tube_has_its_length_and_volume():
    hu, edge = tubes(((20, 20, 10), (20, 20, 50), 3.0)), 1.5
    found = vessels_in(hu, np.ones(hu.shape, bool), (edge,) * 3)
    assert found.count == 1
    assert found.length_mm == pytest.approx(40 * edge, abs=2 * 3 * edge)  # a skeleton may begin within the rounded end
    assert found.volume_ml == pytest.approx((hu > 0).sum() * edge**3 / 1000, rel=0.1)


def test_branches_are_counted_and_those_that_are_thin_are_not():
    stem, left, right = (
        ((20, 20, 5), (20, 20, 28), 3.0),
        ((20, 20, 28), (20, 5, 50), 3.0),
        ((20, 20, 28), (20, 35, 50), 1),
    )
    hu = tubes(stem, left, right)
    everywhere = np.ones(hu.shape, bool)
    assert vessels_in(hu, everywhere, CUBIC, 0).count == 3
    wide, every = vessels_in(hu, everywhere, CUBIC, 3.5), vessels_in(hu, everywhere, CUBIC, 0)
    assert wide.count == 2
    assert every.length_mm - wide.length_mm == pytest.approx(np.hypot(15, 22), rel=0.25)
    assert vessels_in(hu, ~everywhere, CUBIC).length_mm == 0


def test_over_cases_there_are_means_and_the_correlation_of_volumes():
    row = {"dice": 0.5, "hd95_mm": None, "hu_bias": 10.0, "hu_spread": 3.0}
    cases = [{"lung": row | {"ml": 100.0 + i, "ml_real": 90.0 + 2 * i}} for i in range(6)]
    found = over_cases(cases, [str(i) for i in range(6)], 0)["lung"]
    assert (found["dice"].value, found["hu_bias"].low) == (0.5, 10)
    assert "hd95_mm" not in found
    assert found["volume_correlation"].value == pytest.approx(1)
    assert found["volume_error_ml"].value == pytest.approx(10 - 2.5)
