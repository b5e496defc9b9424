import numpy as np
import pytest

from dataset.prepare.checks import check_volume, check_xray
from dataset.prepare.conversion import HU_WINDOW
from dataset.scans.orientation import CANONICAL_AXES
from dataset.scans.volume_io import Volume
from dataset.scans.xray_io import Xray
from tests.pairs import thorax


def film(height, width, synthetic=False):
    image = np.random.default_rng(0).random((height, width)).astype(np.float32)
    return Xray(image, "uint8", None, synthetic)


def rules(problems):
    return [problem.rule for problem in problems]


@pytest.mark.parametrize(("height", "width"), [(100, 100), (190, 100), (100, 190), (64, 64)])
def test_a_frontal_xray_passes(height, width):
    assert check_xray("p", "x.png", film(height, width)) == []


@pytest.mark.parametrize(
    ("height", "width", "found"), [(210, 100, "lateral"), (200, 100, "lateral"), (100, 210, "210 x")]
)
def test_an_xray_shaped_like_no_frontal_is_reported(height, width, found):
    problems = check_xray("p", "x.png", film(height, width))
    assert rules(problems) == ["a frontal X-ray is more than 0.5 and less than 2 times as wide as high"]
    assert found in problems[0].found
    assert problems[0].fatal
    assert check_xray("p", "x.png", film(height, width, synthetic=True)) == []


@pytest.mark.parametrize(("height", "width"), [(63, 80), (80, 63), (20_000, 12_000)])
def test_an_xray_of_absurd_size_is_reported(height, width):
    image = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (height, width))
    problems = check_xray("p", "x.png", Xray(image, "uint8", None, synthetic=False))
    assert rules(problems) == ["an X-ray has 64 to 16384 pixels a side"]
    assert problems[0].found == f"{width} x {height}"


def test_a_blank_xray_is_reported():
    blank = Xray(np.full((100, 100), 0.5, np.float32), "uint8", None, synthetic=False)
    assert rules(check_xray("p", "x.png", blank)) == ["an X-ray shows at least 16 grey levels"]


def volume(hu, *spacing):
    d, h, w = spacing
    affine = np.diag([-w, -h, d, 1.0])
    return Volume(hu, affine, CANONICAL_AXES, affine)


def check(volume, window=HU_WINDOW):
    return check_volume("p", "ct", volume, volume.hu, window)


def test_a_thorax_passes_and_long_voxels_are_told_but_used():
    hu = thorax(0)
    assert check(volume(hu, 5.0, 4, 4)) == []
    problems = check(volume(hu, 25.0, 2, 2))
    assert [problem.fatal for problem in problems] == [False]
    assert "10 times longer" in problems[0].rule


@pytest.mark.parametrize(
    ("affine", "fatal"),
    [
        (np.eye(4), [True]),
        (np.diag([-1.0, -1, 1, 1]), [False]),
        (np.diag([1.0, 1, 1.5, 1]), []),
        (np.array([[1.0, 0, 0, -90], [0, 1, 0, 3], [0, 0, 1, 0], [0, 0, 0, 1]]), []),
    ],
)
def test_an_identity_for_an_affine_is_told(affine, fatal):
    """Of nibabel's, left is right; SimpleITK's may lack the sizes alone."""
    problems = check(Volume(thorax(0), np.diag([-4.0, -4, 5, 1]), "RAS", affine))
    assert [p.fatal for p in problems] == fatal
    assert all("geometry was lost" in p.found and ("dataset.axes" in p.remedy) == p.fatal for p in problems)


@pytest.mark.parametrize(("slices", "step", "told"), [(3, 0.93, True), (9, 5.0, True), (10, 5.0, False)])
def test_a_ct_of_a_few_slices_is_told_by_its_length(slices, step, told):
    problems = check(volume(thorax(0)[-2 - slices : -2], step, 4, 4))
    assert [(p.fatal, f"{slices} slices, {slices * step:.3g} mm" in p.found) for p in problems] == [
        (False, True)
    ] * told


CLIPPED = {  # to, window, what becomes of it: fatal or a note, none or "used"
    "around": ((-200, 500), (-200.0, 500.0), "note"),
    "wider": ((-200, 500), (-160.0, 240.0), "note"),
    "below_all_bone": ((-200, None), (-200.0, 2000.0), "note"),
    "within": ((-200, 500), HU_WINDOW, "fatal"),
    "within_above": ((-200, 100), (-160.0, 240.0), "fatal"),
    "lungs": ((-800, None), HU_WINDOW, "used"),
    "bone": ((None, 100), HU_WINDOW, "used"),
    "lungs_of_no_interest": ((-800, None), (-700.0, 1000.0), ""),
    "all_air": ((-1000, None), HU_WINDOW, ""),
}


@pytest.mark.parametrize(("ends", "window", "becomes"), CLIPPED.values(), ids=CLIPPED)
def test_a_clipped_ct_is_used_where_the_window_lies_within(ends, window, becomes):
    hu = thorax(0)
    hu[:, 16:18, 13:15] += 900  # bone
    problems = check(volume(hu.clip(*ends), 5.0, 4, 4), window)
    assert ["fatal" if p.fatal else "note" if p.note else "used" for p in problems] == [becomes] * bool(becomes)
    for problem in problems:
        assert problem.rule == "a CT has all values of dataset.hu_window"
        assert all(end is None or f"{end}" in problem.found for end in ends)
        assert problem.note or "dataset.hu_window=[" in problem.remedy


@pytest.mark.parametrize(("value", "told"), [(0, True), (-100, True), (40, True), (-1000, False), (-1024, False)])
def test_water_around_the_body_is_told(value, told):
    hu = thorax(0)
    hu[:, :3] = hu[:, -3:] = value
    hu[:, :, :2] = hu[:, :, -2:] = value
    problems = check(volume(hu, 5.0, 4, 4))
    assert [(p.fatal, f"{value} HU in the corners" in p.found) for p in problems] == [(False, True)] * told


def test_a_field_of_view_within_the_body_is_no_filling():
    assert check(volume(thorax(0)[:, 4:18, 4:24], 5.0, 4, 4)) == []


def test_what_is_no_ct_in_hu_is_reported():
    cases = {
        "not constant": np.zeros_like(thorax(0)),
        "holds air": thorax(0) + 1024,
        "soft tissue": np.where(thorax(0) > -200, 1500, -900).astype(np.int16),
    }
    for expected, hu in cases.items():
        problems = check(volume(hu, 5.0, 4, 4))
        assert len(problems) == 1, expected
        assert expected in problems[0].rule
        assert problems[0].fatal
    assert "voxels measure" in check(volume(thorax(0), 500.0, 4, 4))[0].rule
