"""A DICOM tag that is there without a value says as little as one that is not there."""

import numpy as np
import pydicom
import pytest
from pydicom.config import disable_value_validation

from common.errors import BadFileError
from dataset.scans.volume_io import read_ct
from dataset.scans.xray_io import read_xray
from tests.dicom_files import stored_values, write_enhanced, write_series
from tests.test_dicom_io import file_of
from tests.test_xray_dicom import RAMP, dicom_xray

SEVERAL = ["PixelSpacing", "ImagerPixelSpacing", "PatientOrientation", "WindowCenter", "WindowWidth"]  # of values
MAY_BE_EMPTY = [
    *("RescaleSlope", "RescaleIntercept", "VOILUTFunction", "NumberOfFrames", "Modality", "ViewPosition"),
    *("EstimatedRadiographicMagnificationFactor", "DistanceSourceToDetector", "DistanceSourceToPatient", *SEVERAL),
]
EMPTY = [*((tag, nothing) for tag in MAY_BE_EMPTY for nothing in ("", "  ")), *((tag, "\\") for tag in SEVERAL)]


@pytest.mark.parametrize(("tag", "nothing"), EMPTY)
def test_an_empty_tag_says_as_little_as_none(tmp_path, tag, nothing):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    told = {
        **{"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 4000, "WindowWidth": 3000, "Modality": "DX"},
        **{"PixelSpacing": [0.2, 0.2], "ImagerPixelSpacing": [0.3, 0.3], "ViewPosition": "AP"},
        **{"PatientOrientation": ["R", "F"], "DistanceSourceToDetector": 1800, "DistanceSourceToPatient": 1500},
    }
    lacking = read_xray(dicom_xray(tmp_path / "a.dcm", values, **{k: v for k, v in told.items() if k != tag}))
    with disable_value_validation():
        path = dicom_xray(tmp_path / "b.dcm", values, **(told | {tag: nothing}))
    empty = read_xray(path)
    np.testing.assert_array_equal(empty.image, lacking.image)
    np.testing.assert_array_equal(empty.camera, lacking.camera)
    assert (empty.view, empty.useless_window) == (lacking.view, lacking.useless_window)


@pytest.mark.parametrize("tag", ["RescaleSlope", "PixelSpacing", "ImagePositionPatient"])
@pytest.mark.parametrize("nothing", ["", "  "])
@pytest.mark.parametrize("enhanced", [False, True])
def test_an_empty_tag_of_a_slice_is_named_as_a_missing_one(tmp_path, tag, nothing, enhanced):
    if enhanced:
        path = tmp_path / "ct" / "many.dcm"
        write_enhanced(path, stored_values())
    else:
        path = file_of(write_series(tmp_path / "ct", stored_values()), 4)
    item, emptied = pydicom.dcmread(path), []
    item.walk(lambda holder, element: emptied.append(holder) if element.keyword == tag else None)
    with disable_value_validation():
        for holder in emptied:
            setattr(holder, tag, nothing)
    item.save_as(path)
    with pytest.raises(BadFileError, match=f"a slice without {tag}"):
        read_ct(tmp_path / "ct")
