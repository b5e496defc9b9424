"""DICOM folders as PACS, CDs and copying tools leave them: the scan is read, or what is wrong is told."""

import numpy as np
import pytest
from pydicom.uid import RLELossless

from common.errors import BadFileError
from dataset.scans.dicom_file import is_dicom
from dataset.scans.formats import files_of
from dataset.scans.reading import Reading
from dataset.scans.volume_io import read_ct
from tests.dicom_files import COLUMN_MM, ROW_MM, STEP, dataset, slice_tags
from tests.scan_folders import HU, ORIGIN, OTHER, assert_is_the_scan, items, save, told, without


def test_a_series_without_a_uid_goes_by_its_number(tmp_path):
    save(tmp_path, without(items(), "SeriesInstanceUID"))
    assert_is_the_scan(read_ct(tmp_path))
    save(tmp_path, without(items(OTHER, SeriesNumber=9), "SeriesInstanceUID"), "B{}")
    assert_is_the_scan(read_ct(tmp_path, Reading(series="3")))
    with pytest.raises(BadFileError, match=r"series 3: 14 slices.*series 9: 14 slices"):
        read_ct(tmp_path)


def test_slices_that_are_there_twice_count_once(tmp_path):
    save(tmp_path / "a", items())
    for name in ("IM0", "IM5", "IM13"):
        (tmp_path / f"{name} (1)").write_bytes((tmp_path / "a" / name).read_bytes())
    volume = read_ct(tmp_path)
    assert_is_the_scan(volume)
    assert "3 copies of others" in told(volume)


def test_a_copy_in_another_compression_is_one(tmp_path):
    made = items()
    save(tmp_path / "a", made)
    for item in made:
        item.compress(RLELossless, generate_instance_uid=False)
    save(tmp_path / "b", made)
    volume = read_ct(tmp_path)
    assert_is_the_scan(volume)
    assert "14 copies of others" in told(volume)


def test_another_slice_in_the_same_place_is_no_copy(tmp_path):
    made = items()
    save(tmp_path, made)
    made[4].PixelData = bytes(len(made[4].PixelData))
    save(tmp_path, made[4:5], "again{}")
    with pytest.raises(BadFileError, match="1 duplicate position"):
        read_ct(tmp_path)


def test_one_uid_for_all_instances_makes_no_copies(tmp_path):
    save(tmp_path, items(SOPInstanceUID="1.2.9"))
    volume = read_ct(tmp_path)
    assert_is_the_scan(volume)
    assert volume.notes == ()


@pytest.mark.parametrize("suffix", ["", ".dcm"])
def test_files_without_a_preamble_are_read(tmp_path, suffix):
    for index, item in enumerate(items()):
        del item.file_meta
        item.save_as(tmp_path / f"IM{index}{suffix}", implicit_vr=index % 2 == 0, little_endian=True)
    assert_is_the_scan(read_ct(tmp_path))


@pytest.mark.parametrize(
    "start",
    [b"\x08\x00\x05\x00" + b"\xff" * 200, b"\x08\x00\x70\x30CS\x04\0" + b"x" * 200, b"\x08\x00\x05\x00CS\x04\0"],
)
def test_what_merely_begins_alike_is_no_dicom(tmp_path, start):
    (tmp_path / "file").write_bytes(start)
    assert not is_dicom(tmp_path / "file")


@pytest.mark.parametrize("left", [0, 100, 131])
def test_a_file_that_is_empty_or_cut_off_may_be_a_slice(tmp_path, left):
    save(tmp_path, items())
    (tmp_path / "IM13").write_bytes((tmp_path / "IM13").read_bytes()[:left].ljust(left, b"\0"))
    (note,) = read_ct(tmp_path).notes
    assert note.doubtful
    assert "1 empty or cut off: IM13" in note.found


def test_a_packed_study_is_said_to_be_passed_over(tmp_path):
    (tmp_path / "study.zip").write_bytes(b"PK\3\4" + bytes(500))
    with pytest.raises(BadFileError, match=r"no CT slice; passed over: 1 no DICOM\. Put .* there, unpacked"):
        read_ct(tmp_path)


def test_links_to_folders_are_followed_once_and_not_upwards(tmp_path):
    save(tmp_path / "archive" / "series", items())
    folder = tmp_path / "ct"
    folder.mkdir()
    for name, target in {
        "a": tmp_path / "archive",
        "b": tmp_path / "archive" / "series",
        "c": folder,
        "d": "/",
    }.items():
        (folder / name).symlink_to(target)
    volume = read_ct(folder)
    assert_is_the_scan(volume)
    assert volume.notes == ()
    assert len(files_of(folder)) == len(HU)


def test_hidden_files_and_folders_are_none(tmp_path):
    """What systems put and remove is neither read nor counted as a source."""
    save(tmp_path, items())
    files = files_of(tmp_path)
    for name in (".DS_Store", ".nfs00000000001", "._IM0.dcm", ".AppleDouble/IM0.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7" * 20)
    save(tmp_path / ".snapshot" / "daily", items(OTHER))
    assert files_of(tmp_path) == files
    assert len(files) == len(HU)
    volume = read_ct(tmp_path)
    assert_is_the_scan(volume)
    assert volume.notes == ()


def test_a_folder_whose_own_name_is_hidden_is_read(tmp_path):
    assert_is_the_scan(read_ct(save(tmp_path / ".cache" / ".ct", items())))


def test_the_class_of_ct_is_enough_where_the_modality_is_empty(tmp_path):
    assert_is_the_scan(read_ct(save(tmp_path, items(Modality=""))))


def test_slices_scaled_each_in_its_own_way_and_with_marks_in_spare_bits_are_read(tmp_path):
    made = items()
    for index, item in enumerate(made):
        if index % 3 == 1:
            item.RescaleSlope, item.PixelData = 0.5, ((HU[index] + 1024) * 2).astype("<i2").tobytes()
        if index % 3 == 2:  # an overlay in the bits above those that are stored
            item.PixelRepresentation, item.BitsStored, item.HighBit = 0, 12, 11
            item.PixelData = ((HU[index] + 1024).astype("<u2") | 0x8000).tobytes()
    assert_is_the_scan(read_ct(save(tmp_path, made)))


def test_a_coronal_scan_is_set_upright(tmp_path):
    made = [dataset(HU[::-1, row] + 1024, **slice_tags(0, "1.2.3")) for row in range(HU.shape[1])]
    made += [dataset(HU[::-1, 0] + 1024, **slice_tags(0, "1.2.3")) for _ in range(2)]
    for row, item in enumerate(made):
        item.ImageOrientationPatient, item.PixelSpacing = [1, 0, 0, 0, 0, -1], [STEP, COLUMN_MM]
        item.ImagePositionPatient = (ORIGIN + [0, ROW_MM * row, STEP * (len(HU) - 1)]).tolist()
    assert_is_the_scan(read_ct(save(tmp_path, made)), np.concatenate([HU, HU[:, :1], HU[:, :1]], axis=1))
