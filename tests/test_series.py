"""Which stack of a DICOM folder is read, and what of the rest is told."""

import numpy as np
import pytest
from pydicom.uid import SecondaryCaptureImageStorage, XRayRadiationDoseSRStorage

from common.errors import BadFileError
from dataset.scans.kernels import sharpness
from dataset.scans.reading import Reading
from dataset.scans.volume_io import read_ct
from tests.dicom_files import NAME, dataset, write_stack

SIDE = 10


def hu_of(seed, slices=12):
    return np.random.default_rng(seed).integers(-1000, 1000, (slices, SIDE, SIDE)).astype(np.int16)


def along(slices, step, first=0.0):
    return np.array([[0.0, 0.0, first + step * i] for i in range(slices)])


def series(folder, number, step=3.0, kernel="B30f", description="", slices=12, uid=None, **tags):
    """A series with voxels of its own; returns them."""
    hu = hu_of(number, slices)
    named = {"SeriesNumber": number, "SeriesDescription": description, "ConvolutionKernel": kernel}
    write_stack(folder, hu, along(slices, step), uid or f"1.2.{number}", f"n{number}_", **named | tags)
    return hu


@pytest.fixture
def study(tmp_path):
    """(folder, HU by series number)."""
    made = {
        2: series(tmp_path, 2, 5.0, "B31f", "Thorax 5.0 soft"),
        3: series(tmp_path, 3, 1.0, "B70f", "Thorax 1.0 lung", slices=14),
        11: series(tmp_path, 11, 1.0, "B31f", "Thorax 1.0 soft", slices=13),
    }
    return tmp_path, made


def test_several_series_are_listed_with_the_command_that_chooses(study):
    with pytest.raises(BadFileError) as caught:
        read_ct(study[0])
    told = str(caught.value)
    assert "series 2 'Thorax 5.0 soft', kernel B31f: 12 slices of 10 x 10, 0.7 mm pixels, 5 mm steps" in told
    assert told.index("series 2 ") < told.index("series 3 ") < told.index("series 11 ")
    assert "dataset.series=2 " in told
    assert "'series' of pairs.csv" in told
    assert NAME not in told


@pytest.mark.parametrize(
    ("wanted", "number"),
    [
        ("3", 3), ("1.2.11", 11), ("*lung*", 3), ("thorax 5.0 SOFT", 2),
        ("thinnest", 11), ("largest", 3), ("softest", 11),
    ],
)  # fmt: skip
def test_one_of_them_is_chosen_and_told(study, wanted, number):
    folder, made = study
    volume = read_ct(folder, Reading(series=wanted))
    np.testing.assert_array_equal(volume.hu, made[number])
    (note,) = volume.notes
    assert f"one of 3 series by {wanted}: series {number} " in note.found


@pytest.mark.parametrize("wanted", ["4", "*heart*", "*soft*", "1.2"])
def test_a_choice_that_fits_none_or_several_lists_them(study, wanted):
    with pytest.raises(BadFileError) as caught:
        read_ct(study[0], Reading(series=wanted))
    assert "series 11 'Thorax 1.0 soft'" in caught.value.found
    assert f"dataset.series={wanted} does not choose one" in caught.value.remedy


def test_what_is_no_volume_is_passed_over_and_counted(tmp_path):
    hu = series(tmp_path / "a", 5)
    series(tmp_path / "scout", 1, slices=2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_stack(tmp_path / "b", hu_of(6, 15), along(15, 0.0), "1.2.6", AcquisitionNumber=lambda i: i)  # bolus tracking
    dataset(hu[0], Modality="SR", SOPClassUID=XRayRadiationDoseSRStorage).save_as(
        tmp_path / "dose", enforce_file_format=True
    )
    dataset(hu[0], SOPClassUID=SecondaryCaptureImageStorage).save_as(tmp_path / "page.bak", enforce_file_format=True)
    for name in ("VIEWER.EXE", "old.bak", "README", "autorun.inf"):
        (tmp_path / name).write_bytes(b"MZ\x90" * 100)
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    (note,) = volume.notes
    for counted in ("4 no DICOM", "2 scouts", "15 in short series", "1 of modality SR", "1 pages"):
        assert counted in note.found


def test_a_folder_of_slices_alone_has_nothing_to_tell(tmp_path):
    series(tmp_path, 5)
    (tmp_path / ".DS_Store").write_bytes(b"\0" * 200)
    assert read_ct(tmp_path).notes == ()


@pytest.mark.parametrize(
    "tag", [{"ConvolutionKernel": "B70f"}, {"AcquisitionNumber": 2}, {"ImageType": ["DERIVED", "SECONDARY"]}]
)
def test_reconstructions_within_a_series_are_told_apart(tmp_path, tag):
    first = series(tmp_path / "a", 5)
    second = series(tmp_path / "b", 5, slices=13, **tag)
    with pytest.raises(BadFileError, match="series 5-1.*series 5-2.*dataset.series=5-1"):
        read_ct(tmp_path)
    volumes = [read_ct(tmp_path, Reading(series=f"5-{i}")).hu for i in (1, 2)]
    assert {len(hu) for hu in volumes} == {12, 13}
    for hu in volumes:
        np.testing.assert_array_equal(hu, first if len(hu) == 12 else second)
    np.testing.assert_array_equal(read_ct(tmp_path, Reading(series="largest")).hu, second)


def test_acquisitions_that_follow_one_another_are_one_volume(tmp_path):
    hu = series(tmp_path, 5, AcquisitionNumber=lambda i: 1 + i // 6)
    np.testing.assert_array_equal(read_ct(tmp_path).hu, hu)


def test_a_sagittal_stack_of_the_same_series_is_another_one(tmp_path):
    hu = series(tmp_path / "a", 5)
    places = np.array([[float(i), 0.0, 0.0] for i in range(4)])
    write_stack(
        tmp_path / "b", hu_of(1, 4), places, "1.2.5", ImageOrientationPatient=[0, 1, 0, 0, 0, -1], SeriesNumber=5
    )
    volume = read_ct(tmp_path)
    np.testing.assert_array_equal(volume.hu, hu)
    assert "4 in short series" in volume.notes[0].found


def test_a_slice_of_the_series_with_another_grid_is_dropped_only_by_name(tmp_path):
    hu = series(tmp_path, 5, PixelSpacing=lambda i: [1.4, 1.4] if i == 11 else [0.7, 0.7])
    for wanted in (None, "5", "thinnest"):
        with pytest.raises(BadFileError, match="series 5-2, kernel B30f: 1 slices"):
            read_ct(tmp_path, Reading(series=wanted))
    np.testing.assert_array_equal(read_ct(tmp_path, Reading(series="5-1")).hu, hu[:11])


def test_damage_under_a_name_of_dicom_is_no_junk(tmp_path):
    series(tmp_path, 5)
    (tmp_path / "n5_x.DCM").write_bytes(b"")
    with pytest.raises(BadFileError, match=r"n5_x\.DCM.*truncated or damaged"):
        read_ct(tmp_path)


def test_kernels_of_vendors_are_ordered():
    orders = [
        ("B20f", "B31f", "B70f"), ("I26f/3", "Br40d/3", "Bl57d/3"), ("SOFT", "STANDARD", "LUNG", "BONEPLUS"),
        ("A", "B", "C", "YB"), ("FC08", "FC51"), ("B30f", "unheard of", "B80f"),
    ]  # fmt: skip
    for kernels in orders:
        found = [sharpness(kernel) for kernel in kernels]
        assert found == sorted(set(found)), kernels
