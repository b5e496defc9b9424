"""A CT or X-ray of two patients is found, also where it was encoded anew or resized."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from dataset.phantom.anatomy import draw_anatomy
from dataset.phantom.thorax import render
from dataset.prepare.leaks import look_of
from dataset.prepare.run import prepare
from dataset.scans.drr import frontal_drr, to_intensity
from dataset.scans.volume_io import write_ct
from dataset.scans.xray_io import write_xray

SHAPE, MM = (48, 44, 52), (6.0, 6.0, 6.0)
CT_RULE = "every patient has another CT, also one of another file format or size"
XRAY_RULE = "every patient has another X-ray, also one of another file format or size"


@pytest.fixture(scope="module")
def bodies():
    made = [render(draw_anatomy(np.random.default_rng(seed)), SHAPE, MM) for seed in range(4)]
    return [(body, to_intensity(frontal_drr(body.hu, MM)[0])) for body in made]


def add(root, name, hu, affine, image):
    write_ct(root / name / f"{name}.nii.gz", hu, affine)
    write_xray(root / name / "x_pa_drr.png", image, None, synthetic=True)


@pytest.fixture
def root(tmp_path, bodies):
    for name, (body, image) in zip("abc", bodies, strict=False):
        add(tmp_path / "pairs", name, body.hu, body.affine, image)
    return tmp_path / "pairs"


def found(root, store):
    return [(p.patient_id, p.rule, p.found, p.fatal) for p in prepare(root, store).problems]


def test_patients_of_their_own_are_not_reported(root, tmp_path):
    assert found(root, tmp_path / "store") == []


def as_jpeg(path, image):
    path.with_suffix(".json").unlink()
    path.unlink()
    Image.fromarray((image * 255).astype(np.uint8)).save(path, "JPEG", quality=75)


def smaller(path, image):
    picture = Image.fromarray(image.astype(np.float32)).resize((160, 150), Image.Resampling.BILINEAR)
    write_xray(path, np.asarray(picture).clip(0, 1), None, synthetic=True)


def darker(path, image):
    write_xray(path, image**1.15 * 0.8, None, synthetic=True)


@pytest.mark.parametrize("changed", [as_jpeg, smaller, darker])
def test_an_xray_encoded_anew_is_found(root, tmp_path, bodies, changed):
    body, _ = bodies[3]
    add(root, "d", body.hu, body.affine, bodies[1][1])
    changed(root / "d" / "x_pa_drr.png", bodies[1][1])
    assert found(root, tmp_path / "store") == [
        ("b", XRAY_RULE, "nearly that of d", False),
        ("d", XRAY_RULE, "nearly that of b", False),
    ]


@pytest.mark.parametrize("factors", [(0.8, 1, 1), (1, 0.75, 0.75), (1.5, 1, 1)])
def test_a_resampled_ct_is_found(root, tmp_path, bodies, factors):
    hu = ndimage.zoom(bodies[0][0].hu, factors, order=1, grid_mode=True, mode="nearest")
    affine = np.diag([-6.0 / factors[2], -6.0 / factors[1], 6.0 / factors[0], 1.0])
    add(root, "d", hu, affine, bodies[3][1])
    assert found(root, tmp_path / "store") == [
        ("a", CT_RULE, "nearly that of d", False),
        ("d", CT_RULE, "nearly that of a", False),
    ]


def test_the_same_in_two_studies_of_a_patient_is_no_leak(root, tmp_path, bodies):
    smaller(root / "b" / "x_pa_drr.png", bodies[0][1])
    rows = [f"p{name in 'c'},{name}/{name}.nii.gz,{name}/x_pa_drr.png" for name in "abc"]
    (root / "pairs.csv").write_text("\n".join(["patient_id,ct,xray", *rows]))
    assert found(root, tmp_path / "store") == []


def test_an_image_that_shows_nothing_looks_like_no_other():
    assert look_of(np.full((70, 80), 0.3, np.float32)) == ""
