import contextlib
import gzip
import re
from itertools import permutations, product
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes

from common.errors import BadFileError
from dataset.scans.volume_io import read_ct, write_ct

SPACING = (2.5, 0.7, 0.8)  # d, h, w
AFFINE = np.array([[-0.8, 0, 0, 100], [0, -0.7, 0, 80.5], [0, 0, 2.5, -340], [0, 0, 0, 1.0]])
DIM, CODES = 42, 252  # where a NIfTI header keeps its shape; its qform and sform codes
ALL_AXES = [
    "".join(order) for sides in product("LR", "PA", "SI") for order in permutations(sides)
]  # the 48 ways to store a volume


@pytest.fixture
def hu():
    return np.random.default_rng(0).integers(-1024, 1500, (7, 6, 5)).astype(np.int16)


def save(path, array, affine=AFFINE, dtype=None):
    nib.save(nib.Nifti1Image(array, affine, dtype=dtype), path)
    return path


def patched(path, offset, *values):
    """The file with int16 `values` written into its header."""
    raw = bytearray(path.read_bytes())
    raw[offset : offset + 2 * len(values)] = np.array(values, "<i2").tobytes()
    path.write_bytes(raw)
    return path


def load(path) -> Any:
    return nib.load(path)


def marked_voxel_mm(volume, value):
    """World position of the only voxel of that value."""
    d, h, w = np.argwhere(volume.hu == value)[0]
    return volume.affine @ [w, h, d, 1]


@pytest.mark.parametrize("axes", ALL_AXES)
def test_any_axes_land_in_the_same_frame_and_come_back(tmp_path, hu, axes):
    first = tmp_path / "first.nii"
    write_ct(first, hu, AFFINE, axes)
    assert "".join(aff2axcodes(load(first).affine)) == axes
    volume = read_ct(first)
    assert volume.source_axes == axes
    np.testing.assert_array_equal(volume.hu, hu)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)
    assert volume.spacing == pytest.approx(SPACING)
    second = tmp_path / "second.nii"
    write_ct(second, volume.hu, volume.affine, volume.source_axes)
    np.testing.assert_array_equal(load(second).get_fdata(), load(first).get_fdata())
    np.testing.assert_array_equal(load(second).affine, load(first).affine)


def test_axes_run_foot_to_head_front_to_back_right_to_left(tmp_path):
    array = np.zeros((4, 5, 6), np.int16)
    array[3, 4, 5] = 1  # a RAS array: rightmost to the patient's right, most anterior, most superior
    volume = read_ct(save(tmp_path / "a.nii", array, np.eye(4)))
    assert np.argwhere(volume.hu == 1).tolist() == [[5, 0, 0]]


def test_an_oblique_volume_goes_to_the_closest_axes_and_keeps_its_world_positions(tmp_path, hu):
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.8, 0.7, 2.5])
    affine[:3, 3] = (3, -7, 11)
    array = np.zeros((5, 6, 7), np.int16)
    array[1, 2, 3] = 999
    volume = read_ct(save(tmp_path / "a.nii.gz", array, affine))
    assert volume.source_axes == "RAS"
    assert volume.spacing == pytest.approx((2.5, 0.7, 0.8))
    np.testing.assert_allclose(marked_voxel_mm(volume, 999), affine @ np.array([1, 2, 3, 1]), atol=1e-4)
    write_ct(tmp_path / "b.nii.gz", volume.hu, volume.affine, "RAS")
    np.testing.assert_array_equal(load(tmp_path / "b.nii.gz").get_fdata(), array)
    np.testing.assert_allclose(load(tmp_path / "b.nii.gz").affine, affine, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64, ">i2", ">f4"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_number_types_do_not_change_the_hu(tmp_path, hu, dtype, suffix):
    path = save(tmp_path / f"a{suffix}", hu.T.astype(dtype), dtype=np.dtype(dtype))
    volume = read_ct(path)
    assert volume.hu.dtype == np.int16
    assert volume.hu.flags.c_contiguous
    np.testing.assert_array_equal(volume.hu, hu)


def test_fractions_are_rounded_and_slope_and_intercept_applied(tmp_path):
    image = nib.Nifti1Image(np.full((3, 4, 5), 100, np.uint16), AFFINE)
    image.header.set_slope_inter(2.0, -1024.4)
    nib.save(image, tmp_path / "a.nii")
    assert np.unique(read_ct(tmp_path / "a.nii").hu).tolist() == [-824]


def test_a_fourth_axis_of_one_is_dropped_and_a_longer_one_refused(tmp_path, hu):
    volume = read_ct(save(tmp_path / "a.nii.gz", hu.T[..., None]))
    np.testing.assert_array_equal(volume.hu, hu)
    with pytest.raises(BadFileError, match=r"4D with a last axis of 1.*shape \(5, 6, 7, 2\)"):
        read_ct(save(tmp_path / "b.nii.gz", np.stack([hu.T, hu.T], axis=-1)))


def test_nifti_2_is_read(tmp_path, hu):
    nib.save(nib.Nifti2Image(hu.T, AFFINE), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_ct(tmp_path / "a.nii.gz").hu, hu)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_voxel_that_is_no_number_is_refused_by_name(tmp_path, hu, bad):
    array = hu.T.astype(np.float32)
    array[1, 2, 3] = bad
    with pytest.raises(ValueError, match=r"chest\.nii\.gz.*NaN.*in 1 voxel"):
        read_ct(save(tmp_path / "chest.nii.gz", array))


def test_values_beyond_int16_are_refused(tmp_path, hu):
    with pytest.raises(ValueError, match="rescale slope"):
        read_ct(save(tmp_path / "a.nii", hu.T.astype(np.int32) + 40000))


@pytest.mark.parametrize("keep", [0, 1, 100, 400, -1])
def test_a_truncated_file_is_refused_with_its_name_and_a_remedy(tmp_path, hu, keep):
    data = save(tmp_path / "whole.nii.gz", hu.T).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(data[:keep])
    with pytest.raises(BadFileError, match=r"cut\.nii\.gz.*truncated or damaged.*Copy or export"):
        read_ct(tmp_path / "cut.nii.gz")


def test_no_flipped_byte_of_a_compressed_file_slips_in(tmp_path, hu):
    data = save(tmp_path / "whole.nii.gz", hu.T).read_bytes()
    rng = np.random.default_rng(1)
    for position in rng.integers(len(data), size=40):
        broken = bytearray(data)
        broken[position] ^= int(rng.integers(1, 256))
        (tmp_path / "broken.nii.gz").write_bytes(broken)
        try:
            volume = read_ct(tmp_path / "broken.nii.gz")
        except BadFileError:
            continue
        np.testing.assert_array_equal(volume.hu, hu)  # bytes of the gzip header that mean nothing


def test_no_flipped_byte_of_a_header_crashes(tmp_path, hu):
    whole = save(tmp_path / "a.nii", hu.T).read_bytes()
    rng = np.random.default_rng(0)
    for position in range(0, 352, 3):
        broken = bytearray(whole)
        broken[position] ^= int(rng.integers(1, 256))
        (tmp_path / "flip.nii").write_bytes(broken)
        with contextlib.suppress(BadFileError):
            assert read_ct(tmp_path / "flip.nii").hu.size == hu.size


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_claims_more_than_the_file_holds_is_refused_before_memory_is_taken(tmp_path, hu, suffix):
    raw = patched(save(tmp_path / "a.nii", hu.T), DIM, 30000, 30000, 60).read_bytes()
    path = tmp_path / f"huge{suffix}"
    path.write_bytes(gzip.compress(raw) if suffix == ".nii.gz" else raw)
    with pytest.raises(BadFileError, match=r"108 GB"):
        read_ct(path)


def test_without_a_usable_affine_left_and_right_are_not_guessed(tmp_path, hu):
    with pytest.raises(BadFileError, match="codes are 0"):
        read_ct(patched(save(tmp_path / "a.nii", hu.T), CODES, 0, 0))
    singular = AFFINE.copy()
    singular[:, 1] = 2 * singular[:, 0]
    with pytest.raises(BadFileError, match="three independent directions"):
        read_ct(save(tmp_path / "b.nii", hu.T, singular))
    tilted = AFFINE.copy()
    tilted[1, 2] = 1.5
    with pytest.raises(BadFileError, match="right angles"):
        read_ct(save(tmp_path / "c.nii", hu.T, tilted))


def test_a_qform_alone_is_enough(tmp_path, hu):
    volume = read_ct(patched(save(tmp_path / "a.nii", hu.T), CODES, 1, 0))
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)


def test_other_files_and_missing_ones_are_named(tmp_path):
    (tmp_path / "ct.txt").write_text("no CT")
    with pytest.raises(BadFileError, match=r"ct\.txt"):
        read_ct(tmp_path / "ct.txt")
    (tmp_path / "text.nii.gz").write_text("no CT")
    with pytest.raises(BadFileError, match=r"text\.nii\.gz"):
        read_ct(tmp_path / "text.nii.gz")
    with pytest.raises(FileNotFoundError, match="absent"):
        read_ct(tmp_path / "absent.nii.gz")


def test_what_is_written_says_the_same_in_qform_and_sform(tmp_path, hu):
    write_ct(tmp_path / "a.nii.gz", hu, AFFINE, "LAS", description="generated, for research")
    header = load(tmp_path / "a.nii.gz").header
    assert header.get_data_dtype() == np.int16
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    assert header["descrip"].item() == b"generated, for research"
    assert header.get_xyzt_units()[0] == "mm"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, hu):
    path = tmp_path / "a.nii.gz"
    write_ct(path, hu, AFFINE)
    before = path.read_bytes()
    broken = hu.astype(np.float32)
    broken[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        write_ct(path, broken, AFFINE)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": "LRS"}, "one letter each"),
        ({"affine": np.eye(4)}, "canonical volume (LPS), got one of RAS"),
        ({"hu": np.zeros((2, 3))}, "axes (D, H, W)"),
        ({"description": "x" * 80}, "at most 79 bytes"),
        ({"path": "ct.npy"}, ".nii or .nii.gz"),
    ],
)
def test_what_cannot_be_written_is_said(tmp_path, hu, change, message):
    arguments = {"path": "a.nii", "hu": hu, "affine": AFFINE} | change
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(ValueError, match=re.escape(message)):
        write_ct(**arguments)
