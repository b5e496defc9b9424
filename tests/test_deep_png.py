"""PNGs of 16 bit with colour or transparency keep all their bits."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from common.errors import BadFileError
from dataset.prepare.checks import check_xray
from dataset.scans.xray_io import read_xray

RAMP = np.linspace(0, 65535, 80 * 96).reshape(80, 96)  # h, w
RGB, GREY_ALPHA, RGBA = 2, 4, 6  # colour types of the format
ORIENTATION = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"  # EXIF: turned by 180 degrees


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def save(path, pixels, colour_type, exif=b""):
    """A PNG of pixels (h, w, channels), 16 bit, each row filtered by what stands left of it."""
    h, w, channels = pixels.shape
    raw = np.frombuffer(pixels.astype(">u2").tobytes(), np.uint8).reshape(h, w, 2 * channels)
    filtered = np.diff(raw, axis=1, prepend=np.zeros((h, 1, 2 * channels), np.uint8)).reshape(h, -1)
    rows = np.concatenate([np.ones((h, 1), np.uint8), filtered], axis=1)
    header = struct.pack(">IIBBBBB", w, h, 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *([(b"eXIf", exif)] if exif else []), (b"IDAT", zlib.compress(rows.tobytes()))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in [*chunks, (b"IEND", b"")]))
    return path


def painted(grey, colour_type):
    """Grey (h, w) as the channels of a colour type; alpha is noise."""
    alpha = np.random.default_rng(0).integers(0, 65536, grey.shape)
    channels = {RGB: [grey] * 3, GREY_ALPHA: [grey, alpha], RGBA: [grey] * 3 + [alpha]}[colour_type]
    return np.stack(channels, axis=-1).astype(np.uint16)


@pytest.mark.parametrize("colour_type", [RGB, GREY_ALPHA, RGBA])
@pytest.mark.parametrize(("bits", "kind"), [(12, "uint12"), (14, "uint16"), (16, "uint16")])
def test_all_bits_of_a_colour_png_are_read(tmp_path, colour_type, bits, kind):
    grey = RAMP.astype(np.uint16) >> (16 - bits)
    xray = read_xray(save(tmp_path / "a.png", painted(grey, colour_type), colour_type))
    assert xray.kind == kind
    np.testing.assert_array_equal(np.rint(xray.image * 65535), grey)
    assert not check_xray("p", "a.png", xray)


def test_8_bits_in_a_png_of_16_are_of_their_kind(tmp_path):
    grey = RAMP.astype(np.uint16) >> 8
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "b.png")
    shallow = read_xray(tmp_path / "b.png")
    for path in (save(tmp_path / "a.png", painted(grey, RGB), RGB), tmp_path / "c.png"):
        if not path.exists():
            Image.fromarray(grey).save(path)
        deep = read_xray(path)
        assert deep.kind == shallow.kind == "uint8"
        np.testing.assert_allclose(deep.image, shallow.image, atol=1e-6)


def test_colours_count_as_the_eye_sees_them(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 65536, (80, 96, 3)).astype(np.uint16)
    image = read_xray(save(tmp_path / "a.png", pixels, RGB)).image
    np.testing.assert_allclose(image * 65535, pixels @ [0.299, 0.587, 0.114], atol=0.6)


def test_a_turned_picture_is_turned_back(tmp_path):
    grey = RAMP.astype(np.uint16)
    xray = read_xray(save(tmp_path / "a.png", painted(grey, RGB), RGB, ORIENTATION))
    np.testing.assert_array_equal(np.rint(xray.image * 65535), grey[::-1, ::-1])


def test_a_damaged_one_is_refused(tmp_path):
    path = save(tmp_path / "a.png", painted(RAMP, RGB), RGB)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for content in (whole[:-200], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(BadFileError, match=r"a\.png"):
            read_xray(path)
