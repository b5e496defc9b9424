"""X-rays as TIFF: 8 and 16 bit, dark or bright where numbers are large, packed or not."""

import numpy as np
import pytest
from PIL import Image

from common.errors import BadFileError
from dataset.scans.xray_io import read_xray

GREY = np.arange(80 * 96, dtype=np.uint16).reshape(80, 96)


@pytest.mark.parametrize(
    ("values", "options", "expected", "kind"),
    [
        (GREY * 8, {}, GREY * 8 / 65535, "uint16"),
        (GREY // 2, {"compression": "tiff_lzw"}, GREY // 2 / 65535, "uint12"),
        ((GREY // 32).astype(np.uint8), {"compression": "tiff_deflate"}, GREY // 32 / 255, "uint8"),
        (65535 - GREY * 8, {"tiffinfo": {262: 0}}, GREY * 8 / 65535, "uint16"),
        (4095 - GREY // 2, {"tiffinfo": {262: 0}}, GREY // 2 / 65535, "uint12"),
        ((GREY * 8).astype(np.int32), {}, GREY * 8 / 65535, "uint16"),
        (GREY // 32, {}, GREY // 32 / 255, "uint8"),  # 8 bits in a file of 16
        (255 - GREY // 32, {"tiffinfo": {262: 0}}, GREY // 32 / 255, "uint8"),
    ],
)
@pytest.mark.parametrize("name", ["x.tif", "x.TIFF", "x"])
def test_tiff_xrays_are_read(tmp_path, values, options, expected, kind, name):
    Image.fromarray(values).save(tmp_path / name, format="TIFF", **options)
    xray = read_xray(tmp_path / name)
    assert xray.kind == kind
    np.testing.assert_allclose(xray.image, expected, atol=1e-6)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(BadFileError, match="TIFF"):
        read_xray(tmp_path / name)


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ([GREY, GREY], "2 pages"),
        ([GREY.astype(np.float32)], "8 or 16 bit"),
        ([GREY.astype(np.int32) * 100], "8 or 16 bit"),
    ],
)
def test_a_tiff_of_another_kind_is_refused(tmp_path, pages, message):
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(tmp_path / "x.tif", save_all=True, append_images=others)
    with pytest.raises(BadFileError, match=message):
        read_xray(tmp_path / "x.tif")
