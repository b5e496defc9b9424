import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    MediaStorageDirectoryStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from common.errors import BadFileError
from dataset.scans.dicom_io import dicom_geometry, read_dicom_ct
from dataset.scans.volume_io import read_ct
from tests.dicom_files import (
    COLUMN_MM,
    NAME,
    ROW_MM,
    SHAPE,
    STEP,
    dataset,
    stored_values,
    write_enhanced,
    write_series,
)


def file_of(folder, index):
    return folder / f"a{(index * 7) % SHAPE[0]:03d}.dcm"


def test_slices_are_sorted_by_position_and_rescaled(tmp_path):
    values = stored_values()
    volume = read_ct(write_series(tmp_path / "ct", values))
    np.testing.assert_array_equal(volume.hu, values - 1024)
    assert volume.spacing == pytest.approx((STEP, ROW_MM, COLUMN_MM))
    expected = np.array([[-COLUMN_MM, 0, 0, 10], [0, -ROW_MM, 0, 20], [0, 0, STEP, 50], [0, 0, 0, 1]])
    np.testing.assert_allclose(volume.affine, expected)
    assert volume.source_axes == "LPS"


def test_slices_stored_feet_up_and_turned_land_in_the_frame(tmp_path):
    values = stored_values()
    turned = values[:, ::-1, ::-1]  # rows run to the right, columns to the front
    volume = read_ct(write_series(tmp_path / "ct", turned, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0]))
    np.testing.assert_array_equal(volume.hu, values - 1024)


def test_the_geometry_alone_is_read_without_a_voxel(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "ct", stored_values(), ImageOrientationPatient=[0, 1, 0, 1, 0, 0])
    array, affine, _ = read_dicom_ct(folder)
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(lambda _: pytest.fail("voxels are decoded")))
    shape, same = dicom_geometry(folder)
    assert shape == array.shape
    np.testing.assert_array_equal(same, affine)
    file_of(folder, 5).unlink()
    with pytest.raises(BadFileError, match="none is missing"):
        dicom_geometry(folder)


def test_each_slice_has_its_own_rescale(tmp_path):
    values = stored_values()
    folder = write_series(tmp_path / "ct", values)
    item = pydicom.dcmread(file_of(folder, 4))
    item.RescaleSlope, item.RescaleIntercept = 2, -1000
    item.save_as(file_of(folder, 4))
    array, _, _ = read_dicom_ct(folder)
    np.testing.assert_array_equal(array[..., 4].T, 2 * values[4] - 1000)
    np.testing.assert_array_equal(array[..., 5].T, values[5] - 1024)


def test_a_missing_slice_is_found(tmp_path):
    folder = write_series(tmp_path / "ct", stored_values())
    file_of(folder, 5).unlink()
    with pytest.raises(BadFileError, match="none is missing.*6 mm between 62 and 68 mm"):
        read_ct(folder)


def test_a_duplicate_slice_is_found(tmp_path):
    folder = write_series(tmp_path / "ct", stored_values())
    other = pydicom.dcmread(file_of(folder, 5))
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(folder / "other.dcm")
    with pytest.raises(BadFileError, match="duplicate position.*65 mm"):
        read_ct(folder)


def test_a_tilted_gantry_is_refused(tmp_path):
    folder = write_series(tmp_path / "ct", stored_values())
    for index in range(SHAPE[0]):
        item = pydicom.dcmread(file_of(folder, index))
        item.ImagePositionPatient = [-10, -20 + 0.6 * index, 50 + STEP * index]
        item.save_as(file_of(folder, index))
    with pytest.raises(BadFileError, match="tilt of 11.3 degrees"):
        read_ct(folder)


def test_two_volumes_are_listed_without_patient_tags(tmp_path):
    folder = write_series(tmp_path / "ct", stored_values())
    write_series(folder, stored_values(), series="4.5.6", prefix="b", SeriesNumber=7)
    with pytest.raises(BadFileError, match="series 3: 12 slices.*series 7: 12 slices") as caught:
        read_ct(folder)
    assert NAME not in str(caught.value)


def test_a_scout_and_files_of_other_kinds_are_passed_over(tmp_path):
    values = stored_values()
    folder = write_series(tmp_path / "ct", values)
    write_series(folder, values, series="7", prefix="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(folder, values[:2], series="8", prefix="short")
    write_series(folder, values, series="9", prefix="report", Modality="SR")
    (folder / "notes.txt").write_text("not DICOM")
    np.testing.assert_array_equal(read_ct(folder).hu, values - 1024)


@pytest.mark.parametrize("modality", ["CT", None])
def test_a_dose_sheet_and_what_windows_leaves_in_a_folder_are_passed_over(tmp_path, modality):
    values = stored_values()
    folder = write_series(tmp_path / "ct", values)
    sheet = dataset(values[0], SOPClassUID=SecondaryCaptureImageStorage, SeriesInstanceUID="9")
    sheet.Modality = modality
    sheet.save_as(folder / "patient_protocol.dcm", enforce_file_format=True)
    for name in ("Thumbs.db", "desktop.ini", "AUTORUN.INF"):
        (folder / name).write_bytes(b"\xd0\xcf\x11\xe0" * 50)
    np.testing.assert_array_equal(read_ct(folder).hu, values - 1024)


def test_slices_stored_as_captures_with_their_places_are_slices(tmp_path):
    values = stored_values()
    folder = write_series(tmp_path / "ct", values, SOPClassUID=SecondaryCaptureImageStorage)
    np.testing.assert_array_equal(read_ct(folder).hu, values - 1024)


def test_slices_of_another_grid_within_the_series_are_not_dropped(tmp_path):
    folder = write_series(tmp_path / "ct", stored_values())
    item = pydicom.dcmread(file_of(folder, 0))
    item.PixelSpacing = [2 * ROW_MM, 2 * COLUMN_MM]
    item.save_as(file_of(folder, 0))
    with pytest.raises(BadFileError, match="all on one grid; got series 3-1: .*slices of 8 x 6, 0.7 mm.*1.4 mm"):
        read_ct(folder)


def test_a_directory_of_the_files_is_passed_over_and_an_image_without_modality_is_not(tmp_path):
    values = stored_values()
    folder = write_series(tmp_path / "ct", values)
    index = pydicom.dcmread(file_of(folder, 0), stop_before_pixels=True)
    del index.Modality
    index.save_as(folder / "broken")
    with pytest.raises(BadFileError, match="broken"):
        read_ct(folder)
    index.SOPClassUID = index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.save_as(folder / "broken")
    np.testing.assert_array_equal(read_ct(folder).hu, values - 1024)


@pytest.mark.parametrize("alone", [False, True])
def test_an_enhanced_multi_frame_file_is_one_volume(tmp_path, alone):
    values, path = stored_values(), tmp_path / "ct" / "volume.dcm"
    write_enhanced(path, values)
    volume = read_ct(path if alone else path.parent)
    np.testing.assert_array_equal(volume.hu, values - 1024)
    assert volume.spacing == pytest.approx((STEP, ROW_MM, COLUMN_MM))


def test_one_slice_in_a_file_is_no_volume(tmp_path):
    folder = write_series(tmp_path / "ct", stored_values())
    with pytest.raises(BadFileError, match="at least 10 slices.*series 3: 1 slices"):
        read_ct(file_of(folder, 0))


def without_pixels(item):
    del item.PixelData


def without_rescale(item):
    del item.RescaleIntercept


def cut_pixels(item):
    item.PixelData = item.PixelData[:20]


@pytest.mark.parametrize("damage", [without_pixels, without_rescale, cut_pixels])
def test_a_damaged_slice_is_named(tmp_path, damage):
    folder = write_series(tmp_path / "ct", stored_values())
    item = pydicom.dcmread(file_of(folder, 3))
    damage(item)
    item.save_as(file_of(folder, 3))
    with pytest.raises(BadFileError, match=file_of(folder, 3).name) as caught:
        read_ct(folder)
    assert NAME not in str(caught.value)


def test_a_text_file_among_the_slices_is_named(tmp_path):
    folder = write_series(tmp_path / "ct", stored_values())
    file_of(folder, 0).write_text("no DICOM")
    with pytest.raises(BadFileError, match=file_of(folder, 0).name):
        read_ct(folder)


def test_an_empty_folder_has_no_ct(tmp_path):
    with pytest.raises(BadFileError, match="no CT slice"):
        read_ct(tmp_path)


def test_run_length_compression_is_read(tmp_path):
    values = stored_values()
    folder = write_series(tmp_path / "ct", values)
    for path in folder.iterdir():
        item = pydicom.dcmread(path)
        item.compress(RLELossless, encoding_plugin="pydicom")
        item.save_as(path)
    np.testing.assert_array_equal(read_ct(folder).hu, values - 1024)


@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"])
def test_jpeg_compression_is_read(tmp_path, syntax):
    gdcm = pytest.importorskip("gdcm", reason="needs python-gdcm")
    values = stored_values().repeat(8, axis=1).repeat(8, axis=2)  # its encoders fail on tiny images
    folder = write_series(tmp_path / "ct", values)
    for path in folder.iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    assert pydicom.dcmread(folder / "a000.dcm").file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_ct(folder).hu, values - 1024)
