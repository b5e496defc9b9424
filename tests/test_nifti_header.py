"""Units and affines of NIfTI headers: what can be understood is used and told, what contradicts itself is refused."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from common.errors import BadFileError
from dataset.scans.volume_io import ct_spacing, read_ct

AFFINE = np.array([[-0.7, 0, 0, 30], [0, -0.7, 0, 40], [0, 0, 2.0, -100], [0, 0, 0, 1.0]])
TURN = np.array([[np.cos(0.02), -np.sin(0.02), 0], [np.sin(0.02), np.cos(0.02), 0], [0, 0, 1]])


@pytest.fixture
def hu():
    return np.random.default_rng(0).integers(-1024, 1500, (30, 60, 50)).astype(np.int16)


def save(path, hu, affine=AFFINE, qform=None, unit="mm", pixdim=None):
    image = nib.Nifti1Image(hu.T, affine)
    image.set_sform(affine, code=1)
    image.set_qform(qform, code=0 if qform is None else 1)
    image.header.set_xyzt_units(unit)
    if pixdim is not None:
        image.header["pixdim"][1:4] = pixdim
    nib.save(image, path)
    return path


def scaled(factor):
    return np.diag([factor, factor, factor, 1]) @ AFFINE


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("micron", 1e3)])
def test_lengths_in_another_unit_are_read_in_it_and_told(tmp_path, hu, unit, factor):
    path = save(tmp_path / "ct.nii.gz", hu, scaled(factor), scaled(factor), unit)
    volume = read_ct(path)
    np.testing.assert_array_equal(volume.hu, hu)
    np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-4, atol=1e-4)
    assert ct_spacing(path) == pytest.approx(volume.spacing)
    assert volume.spacing == pytest.approx(SimpleITK.ReadImage(str(path)).GetSpacing()[::-1], abs=0.01)
    assert "2 mm" in volume.notes[0].found


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_a_unit_that_cannot_be_is_refused(tmp_path, hu, unit):
    with pytest.raises(BadFileError, match=r"lengths are in mm; got (metres|microns), by which voxels measure .*xyzt"):
        read_ct(save(tmp_path / "ct.nii", hu, unit=unit))


def test_no_unit_is_mm(tmp_path, hu):
    volume = read_ct(save(tmp_path / "ct.nii", hu, unit="unknown"))
    assert volume.spacing == pytest.approx((2, 0.7, 0.7))
    assert volume.notes == ()


CONTRADICTIONS = {
    "identity_sform": {"affine": np.diag([-1.0, -1, 1, 1]), "qform": AFFINE},
    "identity_qform": {"qform": np.diag([-1.0, -1, 1, 1])},
    "pixdim_alone": {"pixdim": (1, 1, 1)},
    "one_axis": {"pixdim": (0.7, 0.7, 2.5)},
    "no_number": {"pixdim": (0.7, np.nan, 2)},
}


@pytest.mark.parametrize("header", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_sizes_that_contradict_each_other_are_refused(tmp_path, hu, header):
    with pytest.raises(BadFileError, match=r"one size of voxels; got .* x .* and .* x .*Find out which is right"):
        read_ct(save(tmp_path / "ct.nii", hu, **header))


@pytest.mark.parametrize("noise", [1e-6, 1e-4, 2e-3])
def test_rounding_of_headers_is_none(tmp_path, hu, noise):
    noisy = AFFINE + noise * np.random.default_rng(0).uniform(-1, 1, (4, 4)) * [[1], [1], [1], [0]]
    volume = read_ct(save(tmp_path / "ct.nii", hu, noisy, AFFINE))
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.notes == ()


def test_directions_that_part_a_little_are_told(tmp_path, hu):
    turned = AFFINE.copy()
    turned[:3, :3] = TURN @ AFFINE[:3, :3]
    volume = read_ct(save(tmp_path / "ct.nii", hu, turned, AFFINE))
    np.testing.assert_allclose(volume.affine, turned, atol=1e-5)
    assert "the sform is used" in volume.notes[0].found
