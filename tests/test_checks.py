import numpy as np
import pytest

from dataset.prepare.checks import check_volume, check_xray
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


def test_a_thorax_passes_and_long_voxels_are_told_but_used():
    hu = thorax(0)
    assert check_volume("p", "ct", volume(hu, 5.0, 4, 4), hu) == []
    problems = check_volume("p", "ct", volume(hu, 25.0, 2, 2), hu)
    assert [problem.fatal for problem in problems] == [False]
    assert "10 times longer" in problems[0].rule


@pytest.mark.parametrize(
    ("affine", "told"),
    [
        (np.eye(4), True),
        (np.diag([-1.0, -1, 1, 1]), True),
        (np.diag([1.0, 1, 1.5, 1]), False),
        (np.array([[1.0, 0, 0, -90], [0, 1, 0, 3], [0, 0, 1, 0], [0, 0, 0, 1]]), False),
    ],
)
def test_an_identity_for_an_affine_is_told(affine, told):
    problems = check_volume("p", "ct", Volume(thorax(0), np.diag([-1.0, -1, 1, 1]), "RAS", affine), thorax(0))
    assert [(p.fatal, "geometry was lost" in p.found) for p in problems] == [(False, True)] * told


def test_what_is_no_ct_in_hu_is_reported():
    cases = {
        "not constant": np.zeros_like(thorax(0)),
        "holds air": thorax(0) + 1024,
        "soft tissue": np.where(thorax(0) > -200, 1500, -900).astype(np.int16),
    }
    for expected, hu in cases.items():
        problems = check_volume("p", "ct", volume(hu, 5.0, 4, 4), hu)
        assert len(problems) == 1, expected
        assert expected in problems[0].rule
        assert problems[0].fatal
    assert "voxels measure" in check_volume("p", "ct", volume(thorax(0), 500.0, 4, 4), thorax(0))[0].rule
