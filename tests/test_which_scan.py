"""Projections, reformats, pages, other patients and other scans beside a scan, whatever their tags lack."""

import numpy as np
import pytest
from pydicom.uid import generate_uid

from common.errors import BadFileError
from dataset.scans.reading import Reading
from dataset.scans.volume_io import read_ct
from tests.dicom_files import dataset, slice_tags, write_enhanced
from tests.scan_folders import HU, OTHER, assert_is_the_scan, items, save, told, without

MIP = ["DERIVED", "SECONDARY", "AXIAL", "MIP"]


def test_projections_beside_the_scan_are_passed_over(tmp_path):
    made = items(series="1.2.8", SeriesNumber=8, ImageType=MIP, SeriesDescription="Lung MIP")
    for index, item in enumerate(made):
        item.ImagePositionPatient = [-10, -20, 50 + 0.5 * index]
    save(tmp_path / "b", made)
    with_mips = read_ct(tmp_path, Reading(series="thinnest"))
    assert len(with_mips.hu) == len(HU)  # there is nothing else
    save(tmp_path / "a", items(SeriesDescription="Lung"))
    for wanted in (None, "thinnest", "*lung*"):
        volume = read_ct(tmp_path, Reading(series=wanted))
        assert_is_the_scan(volume)
        assert "14 in projections" in told(volume)


@pytest.mark.parametrize(
    "kind", [MIP, ["DERIVED", "PRIMARY", "VOLUME", "MIN_IP"], ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5_MIP"]]
)
def test_projections_alone_or_by_name_are_told(tmp_path, kind):
    save(tmp_path, items(ImageType=kind))
    for wanted in (None, "3"):
        (note,) = read_ct(tmp_path, Reading(series=wanted)).notes
        assert note.doubtful
        assert note.found == "/".join(kind)


def test_of_equal_steps_the_original_is_taken_before_one_that_was_reformatted(tmp_path):
    derived = ["DERIVED", "SECONDARY", "MPR"]
    save(tmp_path / "a", items(OTHER, series="1.2.1", SeriesNumber=1, ImageType=derived))
    save(tmp_path / "b", items(series="1.2.2", SeriesNumber=2, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"]))
    for wanted in ("thinnest", "largest", "softest"):
        assert_is_the_scan(read_ct(tmp_path, Reading(series=wanted)))


def test_a_page_of_the_scanner_in_the_class_of_slices_is_passed_over(tmp_path):
    save(tmp_path / "a", items())
    page = items(HU[:1], series="1.2.77", ImageType=["ORIGINAL", "SECONDARY", "OTHER", "CT_SOM5 PROT"])
    save(tmp_path / "b", without(page, "ImagePositionPatient", "ImageOrientationPatient"))
    volume = read_ct(tmp_path)
    assert_is_the_scan(volume)
    assert "1 without a place" in told(volume)


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient"])
@pytest.mark.parametrize("lost", [slice(0, 1), slice(13, 14), slice(0, 14)])
def test_a_slice_of_the_scan_without_a_place_is_not(tmp_path, tag, lost):
    made = items()
    without(made[lost], tag)
    save(tmp_path, made)
    with pytest.raises(BadFileError, match=f"{tag}") as caught:
        read_ct(tmp_path)
    assert caught.value.path.name == f"IM{lost.start}"


def test_a_word_chooses_no_series_of_one_of_two_patients(tmp_path):
    save(tmp_path / "a", items())
    save(tmp_path / "b", items(OTHER, series="1.2.4", SeriesNumber=4, PatientID="Another^Planted"))
    with pytest.raises(BadFileError, match="got 2 patients: series 3.*Put each patient into a folder") as caught:
        read_ct(tmp_path, Reading(series="thinnest"))
    assert "Planted" not in str(caught.value)
    assert_is_the_scan(read_ct(tmp_path, Reading(series="3")))


def test_slices_of_two_patients_in_one_series_are_told(tmp_path):
    save(tmp_path, [*items()[:7], *items(PatientID="Another^Planted")[7:]])
    (note,) = read_ct(tmp_path).notes
    assert note.doubtful
    assert note.found == "slices of 2, by their ids"


@pytest.mark.parametrize("tags", [{"FrameOfReferenceUID": "1.5.2"}, {"PatientID": "Another^Planted"}, {}])
def test_two_scans_of_one_series_uid_are_two(tmp_path, tags):
    """Told apart by frame of reference, by patient, or by the folders that they lie in."""
    save(tmp_path / "a", items(FrameOfReferenceUID="1.5.1"))
    save(tmp_path / "b", items(OTHER, **({"FrameOfReferenceUID": "1.5.1"} | tags)))
    with pytest.raises(BadFileError, match="series 3-1: 14 slices.*series 3-2: 14 slices"):
        read_ct(tmp_path)
    volumes = [read_ct(tmp_path, Reading(series=f"3-{i}")) for i in (1, 2)]
    assert_is_the_scan(min(volumes, key=lambda volume: "in b" in told(volume)))


def test_a_scan_in_two_folders_with_a_slice_too_many_is_not_halved(tmp_path):
    made = items(np.concatenate([HU, HU]))
    save(tmp_path / "a", made[::2])
    save(tmp_path / "b", made[1::2])
    save(tmp_path / "b", [dataset(HU[0], **slice_tags(5, "1.2.3"))], "extra{}")
    with pytest.raises(BadFileError, match="1 duplicate position"):
        read_ct(tmp_path, Reading(series="thinnest"))


def test_slices_with_frames_of_reference_of_their_own_are_one_scan(tmp_path):
    made = items()
    for item in made:
        item.FrameOfReferenceUID = generate_uid()
    assert_is_the_scan(read_ct(save(tmp_path, made)))


def test_an_enhanced_copy_beside_the_slices_is_another_volume(tmp_path):
    save(tmp_path / "a", items())
    write_enhanced(tmp_path / "b" / "all.dcm", OTHER + 1024)
    with pytest.raises(BadFileError, match="series 3-1: 14 slices.*series 3-2: 14 slices"):
        read_ct(tmp_path)
    assert_is_the_scan(read_ct(tmp_path, Reading(series="3-1")))


@pytest.mark.parametrize(
    "kind", [["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"], ["DERIVED", "SECONDARY", "RECIPE"], []]
)
def test_other_image_types_are_no_projections(tmp_path, kind):
    assert read_ct(save(tmp_path, items(ImageType=kind))).notes == ()
