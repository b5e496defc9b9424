"""DICOM X-rays that lie mirrored or on their side."""

import numpy as np
import pytest

from common.errors import BadFileError
from dataset.scans.camera import LATERAL
from dataset.scans.xray_io import read_xray
from tests.test_xray_dicom import RAMP, dicom_xray

LAID = {  # how an upright image comes to lie in a file whose rows and columns run so
    ("L", "F"): lambda image: image,
    ("R", "F"): lambda image: image[:, ::-1],
    ("L", "H"): lambda image: image[::-1],
    ("R", "H"): lambda image: image[::-1, ::-1],
    ("F", "L"): lambda image: image.T,
    ("H", "L"): lambda image: image[::-1].T,
    ("F", "R"): lambda image: image[:, ::-1].T,
    ("H", "R"): lambda image: image[::-1, ::-1].T,
}


@pytest.mark.parametrize("directions", LAID)
@pytest.mark.parametrize("view", ["PA", "AP"])
@pytest.mark.parametrize("spacing", ["ImagerPixelSpacing", "PixelSpacing"])
def test_a_film_is_set_upright_however_it_lies(tmp_path, directions, view, spacing):
    upright = np.random.default_rng(0).integers(0, 4096, (80, 96)).astype(np.uint16)
    expected = read_xray(dicom_xray(tmp_path / "a.dcm", upright, ViewPosition=view, **{spacing: [0.3, 0.2]}))
    sizes = [0.3, 0.2] if directions[1] in "FH" else [0.2, 0.3]  # between rows, between columns
    tags = {"ViewPosition": view, "PatientOrientation": list(directions), spacing: sizes}
    found = read_xray(dicom_xray(tmp_path / "b.dcm", LAID[directions](upright), **tags))
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.camera, expected.camera)


@pytest.mark.parametrize("directions", [("F", "F"), ("H", "F"), ("F", "H")])
def test_directions_that_cannot_be_turn_nothing_round(tmp_path, directions):
    path = dicom_xray(tmp_path / "a.dcm", RAMP, PatientOrientation=list(directions))
    assert read_xray(path).image.shape == RAMP.shape


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_lateral_on_its_side_is_one(tmp_path, mirrored):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    tags = {"PatientOrientation": ["F", "A" if mirrored else "P"]}
    path = dicom_xray(tmp_path / "a.dcm", (values[:, ::-1] if mirrored else values).T, **tags)
    with pytest.raises(BadFileError, match="frontal"):
        read_xray(path)
    xray = read_xray(path, expected=LATERAL)
    assert xray.view == "LL"
    np.testing.assert_allclose(xray.image, values / 4095, atol=1e-6)
