"""Noise of headers is no gap, no tilt and no other grid; true ones are found, and resampled if that is asked for."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from common.errors import BadFileError, UserError
from dataset.scans.reading import Reading
from dataset.scans.volume_io import ct_spacing, read_ct
from tests.dicom_files import write_stack

PIXEL = 0.7
NORMAL = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [PIXEL, PIXEL]}
SIDE = 24


def field(x, y, z):
    """HU at LPS mm: smooth, and different everywhere."""
    return 300 * np.sin(x / 9) + 200 * np.cos(y / 7 + 1) + 250 * np.sin(z / 11 + 2)


def planes(positions, along_row=(1, 0, 0), along_column=(0, 1, 0), side=SIDE):
    """The field on slices, int16 (n, rows, columns)."""
    rows, columns = np.indices((side, side)) * PIXEL
    grid = columns[..., None] * along_row + rows[..., None] * along_column
    return np.stack([np.rint(field(*np.moveaxis(grid + place, -1, 0))).astype(np.int16) for place in positions])


def upright(depths):
    return np.array([[-8.0, -9.0, z] for z in depths])


def at_voxels(volume):
    """The field where the voxels of a canonical volume lie."""
    d, h, w = np.indices(volume.hu.shape)
    x, y, z = (volume.affine[:3, :3] @ np.stack([w, h, d]).reshape(3, -1) + volume.affine[:3, 3:]).reshape(
        3, *volume.hu.shape
    )
    return field(-x, -y, z)  # RAS -> LPS


def assert_shows_the_field(volume):
    inside = volume.hu != -1024
    error = np.abs(volume.hu - at_voxels(volume))
    assert error[inside].max() <= 10  # half a step beyond the last slice
    assert error[ndimage.binary_erosion(inside, np.ones((3, 1, 1)))].max() <= 1.5


def slices_of(folder):
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


DEPTHS = np.arange(80) * 0.625 - 30.1


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_rounded_positions_are_even_and_agree_with_another_reader(tmp_path, decimals):
    hu = planes(upright(DEPTHS))
    volume = read_ct(write_stack(tmp_path / "ct", hu, upright(DEPTHS).round(decimals), **NORMAL))
    assert volume.notes == ()
    np.testing.assert_array_equal(volume.hu, hu)
    other = slices_of(tmp_path / "ct")
    np.testing.assert_array_equal(volume.hu, SimpleITK.GetArrayFromImage(other))
    assert volume.spacing == pytest.approx(other.GetSpacing()[::-1], abs=0.01)
    assert volume.spacing == pytest.approx((0.625, PIXEL, PIXEL), abs=0.001)
    np.testing.assert_allclose(volume.affine[:3, 3], [8, 9, DEPTHS[0]], atol=0.05)


def test_half_millimetres_are_enough_for_thin_slices(tmp_path):
    rounded = upright((DEPTHS * 2).round() / 2)
    assert read_ct(write_stack(tmp_path / "ct", planes(rounded), rounded, **NORMAL)).spacing[0] == pytest.approx(
        0.625, abs=0.005
    )


@pytest.mark.parametrize(
    "noise",
    [
        {"PixelSpacing": lambda i: [PIXEL + 0.001 * (i % 2), PIXEL]},
        {"ImageOrientationPatient": lambda i: [1, 0.0004 * (i % 2), 0, 0, 1, 0.0006 * (i % 3)]},
        {"ImageOrientationPatient": [0.9998, 0.0201, 0, -0.0199, 0.9998, 0]},
    ],
    ids=["spacing", "orientation", "rounded_orientation"],
)
def test_noise_of_directions_and_sizes_is_no_other_grid(tmp_path, noise):
    hu = planes(upright(DEPTHS))
    volume = read_ct(write_stack(tmp_path / "ct", hu, upright(DEPTHS), **NORMAL | noise))
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.spacing == pytest.approx((0.625, PIXEL, PIXEL), abs=0.01)


@pytest.mark.parametrize("lost", [1, 40, 78])
@pytest.mark.parametrize("decimals", [1, 3])
def test_a_slice_that_is_missing_among_noise_is_found(tmp_path, lost, decimals):
    places = np.delete(upright(DEPTHS).round(decimals), lost, axis=0)
    with pytest.raises(BadFileError, match=r"none is missing.*1\.[23].* mm between.*dataset\.irregular=resample"):
        read_ct(write_stack(tmp_path / "ct", planes(places), places, **NORMAL))


def test_a_slice_a_little_beside_another_is_a_duplicate(tmp_path):
    places = np.insert(upright(DEPTHS), 30, upright(DEPTHS)[30] + [0, 0, 0.03], axis=0)
    for irregular in ("refuse", "resample"):
        with pytest.raises(BadFileError, match="1 duplicate position"):
            read_ct(write_stack(tmp_path / "ct", planes(places), places, **NORMAL), Reading(irregular=irregular))


def test_a_slice_aside_of_the_others_is_found(tmp_path):
    places = upright(DEPTHS)
    places[20, 0] += 3
    with pytest.raises(BadFileError, match=r"slices lie over one another.*-17\.6 mm, 2\.9 mm aside"):
        read_ct(write_stack(tmp_path / "ct", planes(places), places, **NORMAL))


STEPS = {
    "3_then_6": [3] * 8 + [6] * 4,
    "one_missing": [2] * 7 + [4] + [2] * 6,
    "drifting": list(np.linspace(2.9, 3.3, 40)),
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_uneven_steps_are_refused_or_interpolated(tmp_path, steps):
    places = upright(np.concatenate([[0.0], np.cumsum(steps)]))
    ramp = np.rint(places[:, 2:, None] * 10 + np.arange(SIDE)).astype(np.int16)  # linear along the stack
    folder = write_stack(tmp_path / "ct", np.repeat(ramp, SIDE, axis=1), places, **NORMAL)
    with pytest.raises(BadFileError, match=r"evenly spaced.*dataset\.irregular=resample"):
        read_ct(folder)
    volume = read_ct(folder, Reading(irregular="resample"))
    (note,) = volume.notes
    assert "interpolated to" in note.found
    d, _, w = np.indices(volume.hu.shape)
    heights = volume.affine[2, 3] + d * volume.spacing[0]
    np.testing.assert_allclose(volume.hu, heights * 10 + w, atol=1)
    assert places[-1, 2] - volume.spacing[0] < heights.max() <= places[-1, 2] + 0.01
    assert ct_spacing(folder, Reading(irregular="resample")) == volume.spacing
    if steps != STEPS["drifting"]:
        assert volume.spacing[0] == steps[0]


@pytest.mark.parametrize("degrees", [15.0, -8.0, 1.0])
def test_a_tilted_gantry_is_refused_or_set_upright(tmp_path, degrees):
    angle = np.radians(degrees)
    column = np.array([0, np.cos(angle), -np.sin(angle)])
    places = upright(np.arange(60) * 0.8)
    tags = NORMAL | {"ImageOrientationPatient": [1, 0, 0, *column]}
    folder = write_stack(tmp_path / "ct", planes(places, along_column=column, side=64), places, **tags)
    with pytest.raises(BadFileError, match=rf"tilt of {abs(degrees):.1f} degrees.*dataset\.tilt=resample"):
        read_ct(folder)
    volume = read_ct(folder, Reading(tilt="resample"))
    assert "set upright" in volume.notes[-1].found
    assert volume.spacing == pytest.approx((0.8, PIXEL * np.cos(angle), PIXEL))
    assert ct_spacing(folder, Reading(tilt="resample")) == pytest.approx(volume.spacing)
    np.testing.assert_allclose(volume.affine[:3, :3] / np.array(volume.spacing)[::-1], np.diag([-1, -1, 1]), atol=1e-6)
    inside = volume.hu != -1024
    assert inside.sum() >= 0.98 * 60 * 64 * 64  # the whole of the scan, no more
    assert_shows_the_field(volume)


def test_a_tilted_nifti_is_set_upright_alike(tmp_path):
    affine = np.array([[-0.7, 0, 0, 8], [0, -0.68, 0.02, 9], [0, -0.17, 0.8, 0], [0, 0, 0, 1]])
    index = np.indices((40, 41, 42))
    x, y, z = np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3, None, None, None]
    nib.save(nib.Nifti1Image(np.rint(field(-x, -y, z)).astype(np.int16), affine), tmp_path / "ct.nii.gz")
    with pytest.raises(BadFileError, match=r"right angles.*dataset\.tilt=resample"):
        read_ct(tmp_path / "ct.nii.gz")
    volume = read_ct(tmp_path / "ct.nii.gz", Reading(tilt="resample"))
    assert_shows_the_field(volume)


@pytest.mark.parametrize(("off_mm", "fine"), [(0.6, True), (0.8, False)])
def test_dicom_and_nifti_have_one_tolerance(tmp_path, off_mm, fine):
    places = upright(DEPTHS)
    places[:, 1] += np.linspace(0, off_mm, len(places))
    hu = planes(places, side=128)
    write_stack(tmp_path / "ct", hu, places, **NORMAL)
    step = (places[-1] - places[0]) / (len(places) - 1)
    affine = np.diag([-PIXEL, -PIXEL, step[2], 1.0])
    affine[1, 2] = -step[1]
    nib.save(nib.Nifti1Image(hu.T, affine), tmp_path / "ct.nii.gz")
    for path in (tmp_path / "ct", tmp_path / "ct.nii.gz"):
        if fine:
            np.testing.assert_array_equal(read_ct(path).hu, hu)
        else:
            with pytest.raises(BadFileError, match="right angles"):
                read_ct(path)


def test_another_word_is_refused():
    with pytest.raises(UserError, match="dataset.tilt is refuse or resample"):
        Reading(tilt="yes")
