"""What fills a slice outside the scan is no tissue, and tissue of the same number is no filling."""

import numpy as np
import pytest

from dataset.scans.resample import AIR_HU
from dataset.scans.volume_io import read_ct
from tests.dicom_files import write_series

CASES = {  # PixelRepresentation, rescale intercept, PixelPaddingValue, PixelPaddingRangeLimit, the border's numbers
    "63536_unsigned": (0, -1024, 63536, None, (63536,)),
    "a_range_unsigned": (0, -1024, 63000, 63536, (63000, 63100, 63536)),
    "minus_2000": (1, -1024, -2000, None, (-2000,)),
    "a_range_downwards": (1, -1024, -1999, -2001, (-2001, -2000, -1999)),
    "largest_of_16_bits": (0, -1024, 65535, None, (65535,)),
    "zero": (1, -1024, 0, None, (0,)),
}


def framed(stored, numbers):
    """The slices with a border of numbers, two pixels wide."""
    out = stored.astype(np.int32)
    mask = np.ones(out.shape[1:], bool)
    mask[2:-2, 2:-2] = False
    for index, plane in enumerate(out):
        plane[mask] = numbers[index % len(numbers)]
    return out, mask


@pytest.mark.parametrize(("signed", "intercept", "value", "limit", "numbers"), CASES.values(), ids=CASES)
def test_a_border_of_padding_is_air(tmp_path, signed, intercept, value, limit, numbers):
    hu = np.random.default_rng(0).integers(-900, 1500, (12, 10, 12))
    stored, mask = framed(hu - intercept, numbers)
    tags = {"PixelRepresentation": signed, "RescaleIntercept": intercept, "PixelPaddingValue": value}
    tags |= {} if limit is None else {"PixelPaddingRangeLimit": limit}
    volume = read_ct(write_series(tmp_path / "ct", stored.astype(np.uint16), **tags))
    np.testing.assert_array_equal(volume.hu[:, ~mask], hu[:, ~mask])
    assert set(np.unique(volume.hu[:, mask])) == {AIR_HU}


@pytest.mark.parametrize("value", [0, 40, -100])
def test_a_number_that_tissue_has_is_padding_at_the_border_alone(tmp_path, value):
    hu = np.random.default_rng(0).integers(-900, 1500, (12, 10, 12))
    hu[:, 5, 6] = value
    stored, mask = framed(hu, (value,))
    tags = {"RescaleIntercept": 0, "PixelPaddingValue": value}
    volume = read_ct(write_series(tmp_path / "ct", stored.astype(np.int16), **tags))
    assert (volume.hu[:, 5, 6] == value).all()
    assert set(np.unique(volume.hu[:, mask])) == {AIR_HU}
