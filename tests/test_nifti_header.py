"""Units and affines of NIfTI headers: what can be understood is used and told, what contradicts itself is refused."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from common.errors import BadFileError, UserError
from dataset.prepare.conversion import Conversion
from dataset.prepare.run import prepare
from dataset.scans.reading import Reading
from dataset.scans.volume_io import ct_spacing, read_ct
from dataset.scans.xray_io import write_xray
from tests.pairs import thorax

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


def bare(path, hu, form):
    """A CT as a tool writes it that has lost sizes and directions."""
    if form == "nrrd":
        image = SimpleITK.GetImageFromArray(hu)
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))  # of LPS, which is RAS's identity
        SimpleITK.WriteImage(image, str(path))
    elif form == "qform":
        image = nib.Nifti1Image(hu.T, None)
        image.set_sform(None, code=0)
        image.set_qform(np.eye(4), code=1)
        nib.save(image, path)
    else:
        nib.save({"nii": nib.Nifti1Image, "nii2": nib.Nifti2Image}[form](hu.T, np.eye(4)), path)
    return path


BARE = {"nii": "ct.nii.gz", "nii2": "ct.nii", "qform": "ct.nii", "nrrd": "ct.nrrd"}


@pytest.mark.parametrize("form", BARE)
def test_an_identity_is_refused_unless_somebody_says_what_it_is(tmp_path, form):
    root = tmp_path / "data"
    for name in ("a", "b", "c", "d"):
        (root / name).mkdir(parents=True)
        bare(root / name / BARE[form], thorax(ord(name)), form)
        write_xray(root / name / "x.png", np.random.default_rng(ord(name)).random((80, 96)), None, synthetic=False)
    told = {"a": "LPS", "b": "LPS 4x4x5", "c": "", "d": "up"}
    rows = [f"{name},{name}/{BARE[form]},{name}/x.png,{axes}" for name, axes in told.items()]
    (root / "pairs.csv").write_text("\n".join(["patient_id,ct,xray,axes", *rows]))
    report = prepare(root, tmp_path / "store")
    assert [(case.patient_id, case.spacing) for case in report.cases] == [("a", (1, 1, 1)), ("b", (5, 4, 4))]
    (refused,) = (problem for problem in report.problems if problem.patient_id == "c" and problem.fatal)
    assert "geometry was lost" in refused.found
    assert "dataset.axes=RAS" in refused.remedy
    assert [p.rule for p in report.problems if p.patient_id == "d"] == ["axes is as RAS or 'LPS 0.7x0.7x1.5', or empty"]
    path = root / "b" / BARE[form]
    np.testing.assert_array_equal(read_ct(path, Reading(axes="LPS 4x4x5")).hu, thorax(ord("b")))
    np.testing.assert_array_equal(read_ct(path, Reading(axes="RPS")).hu, thorax(ord("b"))[:, :, ::-1])
    assert ct_spacing(path, Reading(axes="LPS 4x4x5")) == (5, 4, 4)
    again = prepare(root, tmp_path / "store", conversion=Conversion(reading=Reading(axes="RAS")))
    assert [case.patient_id for case in again.cases] == ["a", "b", "c"]


def test_axes_that_are_told_leave_a_header_that_is_there(tmp_path, hu):
    volume = read_ct(save(tmp_path / "ct.nii", hu), Reading(axes="RAS 1x1x1"))
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.spacing == pytest.approx((2, 0.7, 0.7))


@pytest.mark.parametrize("axes", ["", "LP", "LLS", "LPSA", "lps", "LPS 1x1", "LPS 1x0x1", "LPS 1,1,1", "LPS 1x-1x1"])
def test_axes_that_mean_nothing_are_refused(axes):
    with pytest.raises(UserError, match=r"dataset\.axes is .*got"):
        Reading(axes=axes)
