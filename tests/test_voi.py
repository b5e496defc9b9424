"""Several windows and VOI tables of a DICOM X-ray: the first that is of use shows it."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dataset.scans.xray_io import read_xray
from tests.test_xray_dicom import RAMP, dicom_xray


def table(outputs, bits=12, descriptor=None):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor or [len(outputs), 0, bits])
    item.add_new("LUTData", "OW", np.asarray(outputs, "<u2").tobytes())
    return item


INVERSE = table(np.arange(4096)[::-1])
DARK = table(np.zeros(4096))  # tells no pixels apart
CUT = table(np.arange(7), descriptor=[4096, 0, 12])
HALF = ((np.arange(4096) - 1024.0) / 2048).clip(0, 1)
WINDOW = {"WindowCenter": 2048, "WindowWidth": 2048}
VIEWS = {  # tables and windows, what is shown, whether all were of no use
    "a table wins over a window": ({"VOILUTSequence": [INVERSE], **WINDOW}, 1 - np.arange(4096) / 4095, False),
    "and over a useless one": (
        {"VOILUTSequence": [INVERSE], "WindowCenter": 2048, "WindowWidth": 0},
        1 - np.arange(4096) / 4095,
        False,
    ),
    "a useless table gives way to a window": ({"VOILUTSequence": [DARK], **WINDOW}, HALF, False),
    "a damaged one, too": ({"VOILUTSequence": [CUT], **WINDOW}, HALF, False),
    "and an empty item": ({"VOILUTSequence": [Dataset()], **WINDOW}, HALF, False),
    "one table to the next": (
        {"VOILUTSequence": [DARK, table(np.arange(4096)[::-1] // 16, 8)]},
        1 - (np.arange(4096) // 16) / 255,
        False,
    ),
    "a window to the next": ({"WindowCenter": [128, 2048], "WindowWidth": [256, 2048]}, HALF, False),
    "all of no use": (
        {"VOILUTSequence": [DARK, CUT], "WindowCenter": [0, 128], "WindowWidth": [1, 256]},
        np.arange(4096) / 4095,
        True,
    ),
    "none there": ({}, np.arange(4096) / 4095, False),
}


@pytest.mark.parametrize(("tags", "shown", "useless"), VIEWS.values(), ids=VIEWS)
def test_the_first_table_or_window_that_is_of_use_is_taken(tmp_path, tags, shown, useless):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    xray = read_xray(dicom_xray(tmp_path / "a.dcm", values, **tags))
    np.testing.assert_allclose(xray.image, shown[values], atol=0.002)
    assert xray.useless_window == useless


def test_a_table_of_modality_with_8_bits_counts_beyond_256(tmp_path):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    path = dicom_xray(tmp_path / "a.dcm", values, ModalityLUTSequence=[table(np.arange(4096) // 16, 8)])
    np.testing.assert_allclose(read_xray(path).image, values // 16 / 255, atol=1e-6)


def test_beside_a_table_of_modality_slope_and_intercept_are_nothing(tmp_path):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    tags = {"ModalityLUTSequence": [INVERSE], "RescaleSlope": 1, "RescaleIntercept": -1024, **WINDOW}
    xray = read_xray(dicom_xray(tmp_path / "a.dcm", values, **tags))
    np.testing.assert_allclose(xray.image, HALF[::-1][values], atol=0.002)
