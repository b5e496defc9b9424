"""DICOM X-rays: pixels, window, tags, and the camera that they tell."""

import json

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, UltrasoundImageStorage

from common.errors import BadFileError
from dataset.prepare.checks import check_xray
from dataset.prepare.run import prepare
from dataset.scans import camera as cam
from dataset.scans.camera import LATERAL, PARALLEL, Film
from dataset.scans.xray_io import read_xray
from tests.damage import write_nifti_patient

RAMP = np.linspace(0, 255, 80 * 96).reshape(80, 96)  # h, w


def dicom_xray(path, values, **tags):
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SOPClassUID, item.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    item.Rows, item.Columns = values.shape
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 12, 11, 0
    item.PixelData = values.astype("<u2").tobytes()
    for name, value in tags.items():
        setattr(item, name, value)
    item.save_as(path, enforce_file_format=True)
    return path


def test_dicom_goes_through_its_window_and_has_its_geometry(tmp_path):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    tags = {"WindowCenter": 2048, "WindowWidth": 1024, "ImagerPixelSpacing": [0.3, 0.2]}
    distances = {"DistanceSourceToDetector": 1800, "DistanceSourceToPatient": 1500}
    xray = read_xray(dicom_xray(tmp_path / "a.dcm", values, **tags, **distances))
    assert xray.kind == "dicom"
    np.testing.assert_allclose(xray.image, np.clip((values - 1536.0) / 1024, 0, 1), atol=0.002)
    # pixels of 0.2/1.2 x 0.3/1.2 mm in the middle, (w-1)/2, (h-1)/2; the source 1500 mm behind it
    weight = np.array([0, -1 / 1500, 0, 1])
    expected = [[6.0, 0, 0, 0] + 47.5 * weight, [0, 0, -4.0, 0] + 39.5 * weight, weight]
    assert xray.camera is not None
    np.testing.assert_allclose(xray.camera, expected)


@pytest.mark.parametrize(("view", "nearer"), [("PA", 1), ("AP", -1)])
def test_view_and_distances_of_a_dicom_film_say_where_a_bead_is_seen(tmp_path, view, nearer):
    tags = {"ViewPosition": view, "DistanceSourceToDetector": 1500, "DistanceSourceToPatient": 1300}
    xray = read_xray(dicom_xray(tmp_path / "a.dcm", RAMP, ImagerPixelSpacing=[0.5, 0.5], **tags))
    x, y, z = 20.0, 90.0, -12.0  # to the left, in the back, low
    from_source = 1300 - nearer * y  # of a PA film's source, behind the patient
    on_detector = np.array([x, -z]) * 1500 / from_source / 0.5
    assert xray.view == view
    assert xray.camera is not None
    np.testing.assert_allclose(cam.pixels(xray.camera, [x, y, z]), on_detector + (47.5, 39.5))


def test_what_tags_leave_open_the_settings_say(tmp_path):
    path = dicom_xray(tmp_path / "a.dcm", RAMP, ImagerPixelSpacing=[0.5, 0.5])
    for film in (Film(), PARALLEL, Film("ap", 1000.0, 100.0)):
        assert read_xray(path, film).view == ""  # what is assumed is not told
        found = read_xray(path, film).camera
        assert found is not None
        np.testing.assert_allclose(found, film.camera(RAMP.shape, (0.5, 0.5)))
    odd = {"DistanceSourceToDetector": 1000, "DistanceSourceToPatient": 1200}  # behind the detector
    found = read_xray(dicom_xray(tmp_path / "b.dcm", RAMP, ImagerPixelSpacing=[0.5, 0.5], **odd)).camera
    assert found is not None
    np.testing.assert_allclose(found, Film().camera(RAMP.shape, (0.5, 0.5)))


@pytest.mark.parametrize(
    ("tags", "pixels_per_mm"),
    [
        ({"ImagerPixelSpacing": [0.2, 0.2]}, 6.0),
        ({"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.2, 0.2]}, 6.0),  # repeated: not calibrated
        ({"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.16, 0.16]}, 6.25),
        ({"PixelSpacing": [0.2, 0.2]}, 5.0),
    ],
)
def test_pixels_are_measured_in_the_patient(tmp_path, tags, pixels_per_mm):
    distances = {"DistanceSourceToDetector": 1800, "DistanceSourceToPatient": 1500}
    xray = read_xray(dicom_xray(tmp_path / "a.dcm", RAMP, **tags, **distances))
    assert xray.camera is not None
    assert xray.camera[0, 0] == pytest.approx(pixels_per_mm)


def test_an_empty_lookup_table_is_none(tmp_path):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    plain = read_xray(dicom_xray(tmp_path / "a.dcm", values))
    empty = read_xray(dicom_xray(tmp_path / "b.dcm", values, VOILUTSequence=[], ModalityLUTSequence=[]))
    np.testing.assert_array_equal(empty.image, plain.image)


def test_the_sidecar_of_a_dicom_xray_goes_before_its_tags(tmp_path):
    path = dicom_xray(tmp_path / "a.dcm", RAMP, PixelSpacing=[0.2, 0.2])
    tagged = read_xray(path)
    told = [[2.0, 0.0, 40.0], [0.0, -2.0, 30.0]]
    (tmp_path / "a.json").write_text(json.dumps({"affine": told, "synthetic": True}))
    xray = read_xray(path)
    np.testing.assert_array_equal(xray.camera, cam.from_affine(told))
    assert xray.synthetic
    camera = (3 * Film().square(96, 400)).tolist()  # scaled as somebody else might
    (tmp_path / "a.json").write_text(json.dumps({"camera": camera, "synthetic": False}))
    np.testing.assert_allclose(read_xray(path).camera, Film().square(96, 400))
    (tmp_path / "a.json").write_text(json.dumps({"affine": None, "synthetic": False}))
    np.testing.assert_array_equal(read_xray(path).camera, tagged.camera)


def test_monochrome1_is_inverted_and_mirrored_storage_turned(tmp_path):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    plain = read_xray(dicom_xray(tmp_path / "a.dcm", values))
    assert plain.camera is None
    inverted = read_xray(dicom_xray(tmp_path / "b.dcm", values, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(inverted.image, 1 - plain.image, atol=1e-6)
    mirrored = read_xray(dicom_xray(tmp_path / "c.dcm", values, PatientOrientation=["R", "F"]))
    np.testing.assert_array_equal(mirrored.image, plain.image[:, ::-1])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("white_is_low", [False, True])
@pytest.mark.parametrize(("slope", "intercept"), [(-1, 4095), (-0.5, 100), (2, -1000)])
def test_a_slope_changes_no_pixel_by_its_window(tmp_path, signed, white_is_low, slope, intercept):
    """A window as wide as the range shows what no window shows: high values after slope and intercept are white."""
    values = (RAMP / 255 * 4095).astype(np.int64) - (2048 if signed else 0)
    tags = {
        "PixelRepresentation": int(signed),
        "PhotometricInterpretation": f"MONOCHROME{1 if white_is_low else 2}",
        "RescaleSlope": slope,
        "RescaleIntercept": intercept,
    }
    rescaled = values * slope + intercept
    low, width = rescaled.min(), np.ptp(rescaled)
    window = {"WindowCenter": low + width / 2, "WindowWidth": width, "VOILUTFunction": "LINEAR_EXACT"}
    expected = (rescaled - low) / width
    for name, more in (("plain", {}), ("windowed", window)):
        xray = read_xray(dicom_xray(tmp_path / f"{name}.dcm", values.astype("<i2"), **tags, **more))
        np.testing.assert_allclose(xray.image, 1 - expected if white_is_low else expected, atol=1e-3, err_msg=name)


def test_of_slope_and_intercept_one_alone_is_none(tmp_path):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    for name, value in (("RescaleSlope", 2), ("RescaleIntercept", -1024)):
        xray = read_xray(dicom_xray(tmp_path / "a.dcm", values, **{name: value}))
        np.testing.assert_allclose(xray.image, values / 4095, atol=1e-6)


@pytest.mark.parametrize("tags", [{"ViewPosition": "LL"}, {"PatientOrientation": ["A", "F"]}])
def test_a_lateral_is_refused(tmp_path, tags):
    with pytest.raises(BadFileError, match=r"a\.dcm.*frontal"):
        read_xray(dicom_xray(tmp_path / "a.dcm", RAMP, **tags))


def test_a_damaged_dicom_is_refused_without_telling_names(tmp_path):
    path = dicom_xray(tmp_path / "a.dcm", RAMP, PatientName="Planted^Name")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(BadFileError, match=r"a\.dcm") as caught:
        read_xray(path)
    assert "Planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("tags", "view", "front_left"),
    [
        ({"ViewPosition": "LL"}, "LL", True),
        ({"ViewPosition": "LL", "PatientOrientation": ["A", "F"]}, "LL", False),
        ({"ViewPosition": "RL", "PatientOrientation": ["A", "F"]}, "RL", True),
        ({"ViewPosition": "RL", "PatientOrientation": ["P", "F"]}, "RL", False),
        ({"PatientOrientation": ["P", "F"]}, "LL", True),
        ({"ViewPosition": "LATERAL"}, "LL", True),
    ],
)
def test_a_lateral_where_one_is_expected(tmp_path, tags, view, front_left):
    """Rows of the picture are turned to where its camera has them."""
    values = (RAMP / 255 * 4095).astype(np.uint16)
    distances = {"DistanceSourceToDetector": 1800, "DistanceSourceToPatient": 1500, "ImagerPixelSpacing": [0.5, 0.5]}
    xray = read_xray(dicom_xray(tmp_path / "a.dcm", values, **tags, **distances), expected=LATERAL)
    shown = values / 4095
    np.testing.assert_allclose(xray.image, shown if front_left else shown[:, ::-1], atol=1e-6)
    assert (xray.view, xray.kind) == (view, "dicom")
    side = -1 if view == "LL" else 1  # of the source: from the patient's right for a left lateral
    source, _ = cam.ray_to_source(xray.camera)
    np.testing.assert_allclose(source, [side * 1500, 0, 0], atol=1e-6)
    place = np.array([30.0, 20.0, -10.0])
    on_detector = np.array([-side * place[1], -place[2]]) * 1800 / (1500 - side * place[0]) / 0.5
    np.testing.assert_allclose(cam.pixels(xray.camera, place), on_detector + (47.5, 39.5))


@pytest.mark.parametrize("tags", [{"ViewPosition": "PA"}, {"PatientOrientation": ["L", "F"]}, {"ViewPosition": "LLD"}])
def test_a_frontal_where_a_lateral_is_expected_is_refused(tmp_path, tags):
    path = dicom_xray(tmp_path / "a.dcm", RAMP, **tags)
    with pytest.raises(BadFileError, match="lateral"):
        read_xray(path, expected=LATERAL)


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "", None])
def test_radiographs_are_read(tmp_path, modality):
    tags = {} if modality is None else {"Modality": modality}
    assert read_xray(dicom_xray(tmp_path / "a.dcm", RAMP, **tags)).kind == "dicom"


@pytest.mark.parametrize("modality", ["MR", "US", "OT", "CT", "MG", "NM", "ECG"])
def test_what_is_no_radiograph_is_refused_by_its_modality(tmp_path, modality):
    with pytest.raises(BadFileError, match=f"one of CR, DX, RG.*modality {modality}.*PNG"):
        read_xray(dicom_xray(tmp_path / "a.dcm", RAMP, Modality=modality))


@pytest.mark.parametrize("kind", [MRImageStorage, UltrasoundImageStorage, CTImageStorage])
def test_without_a_modality_its_class_is_looked_at(tmp_path, kind):
    with pytest.raises(BadFileError, match=kind.name):
        read_xray(dicom_xray(tmp_path / "a.dcm", RAMP, SOPClassUID=kind))


@pytest.mark.parametrize(
    ("centre", "width"), [(2048, 0), (0, 1), (128, 256), (-5000, 100), (2048, 1), ([2048, 128], [0, 256]), (None, 9)]
)
def test_a_window_of_no_use_gives_way_to_the_full_range(tmp_path, centre, width):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    xray = read_xray(dicom_xray(tmp_path / "a.dcm", values, WindowCenter=centre, WindowWidth=width))
    np.testing.assert_allclose(xray.image, values / 4095, atol=1e-6)
    assert xray.useless_window
    assert ["window" in problem.rule for problem in check_xray("p", "a.dcm", xray)] == [True]
    for centre, width in ((2048, 4096), (2048, 1024), (1000, 600)):
        path = dicom_xray(tmp_path / "b.dcm", values, WindowCenter=centre, WindowWidth=width)
        assert not read_xray(path).useless_window


@pytest.mark.parametrize(
    ("tag", "column", "kept"), [("AP", "", "AP"), ("PA", "", "PA"), ("AP", "PA", "PA"), ("", "", "")]
)
def test_the_manifest_keeps_the_view_of_the_tags_or_of_the_table(tmp_path, tag, column, kept):
    write_nifti_patient(tmp_path, "p", 0)
    dicom_xray(tmp_path / "p" / "film.dcm", RAMP * 16, ViewPosition=tag)
    (tmp_path / "pairs.csv").write_text(f"patient_id,ct,xray,view\np,p/p.nii.gz,p/film.dcm,{column}\n")
    (case,) = prepare(tmp_path, tmp_path / "store").cases
    assert case.view == kept
