import json

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import BadFileError
from dataset.prepare.checks import check_xray
from dataset.scans import camera as cam
from dataset.scans.camera import PARALLEL, Film
from dataset.scans.xray_io import (
    Xray,
    encoder_view,
    intensity_percentiles,
    read_xray,
    scale_xray,
    to_square,
    write_xray,
)

RAMP = np.linspace(0, 255, 80 * 96).reshape(80, 96)  # h, w


def save(path, array, mode=None):
    Image.fromarray(array).convert(mode).save(path) if mode else Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_grey_and_colour_pngs_read_the_same(tmp_path, mode):
    grey = RAMP.astype(np.uint8)
    xray = read_xray(save(tmp_path / "a.png", grey, mode))
    assert (xray.kind, xray.camera, xray.synthetic) == ("uint8", None, False)
    assert xray.image.dtype == np.float32
    np.testing.assert_allclose(xray.image, grey / 255, atol=1.01 / 255)


def test_a_transparent_image_keeps_its_grey(tmp_path):
    rgba = np.repeat(RAMP.astype(np.uint8)[..., None], 4, axis=-1)
    rgba[..., 3] = 0
    xray = read_xray(save(tmp_path / "a.png", rgba))
    np.testing.assert_allclose(xray.image, RAMP.astype(np.uint8) / 255, atol=1.01 / 255)


def test_jpeg_is_read(tmp_path):
    xray = read_xray(save(tmp_path / "a.jpg", RAMP.astype(np.uint8)))
    np.testing.assert_allclose(xray.image, RAMP / 255, atol=0.03)


def test_sixteen_bits_keep_their_precision(tmp_path):
    values = (RAMP * 257).astype(np.uint16)
    xray = read_xray(save(tmp_path / "a.png", values))
    assert xray.kind == "uint16"
    np.testing.assert_allclose(xray.image * 65535, values, atol=0.01)


def test_twelve_bits_in_a_sixteen_bit_png_do_not_turn_black(tmp_path):
    values = (RAMP / 255 * 4095).astype(np.uint16)
    xray = read_xray(save(tmp_path / "a.png", values))
    assert xray.image.max() < 0.07
    scaled = scale_xray(xray.image, intensity_percentiles(xray.image))
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert scaled.mean() == pytest.approx(0.5, abs=0.01)


def test_ranges_scale_all_images_of_a_kind_alike():
    scaled = scale_xray(np.array([[0.1, 0.2, 0.3, 0.9]], np.float32), (0.1, 0.5))
    np.testing.assert_allclose(scaled, [[0, 0.25, 0.5, 1]], atol=1e-6)


def test_what_is_written_is_read_back(tmp_path):
    image, camera = (RAMP / 255).astype(np.float32), Film("ap", 1100.0, 60.0).square(80, 400)
    write_xray(tmp_path / "a.png", image, camera, synthetic=True)
    xray = read_xray(tmp_path / "a.png")
    np.testing.assert_allclose(xray.image, image, atol=1 / 65535)
    np.testing.assert_array_equal(xray.camera, camera)
    assert xray.synthetic
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.png"]


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "{}",
        json.dumps({"affine": [[1, 2], [3, 4]], "synthetic": True}),
        json.dumps({"camera": [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], "synthetic": True}),
        json.dumps({"camera": [[1, 2, 3], [0, 0, 1]], "synthetic": True}),
        json.dumps({"camera": [[1, 0, 0, 9], [0, 1, 0, 9], [0, 0, 0, 1]], "synthetic": True}),  # along the body
    ],
)
def test_a_wrong_sidecar_is_named(tmp_path, content):
    save(tmp_path / "a.png", RAMP.astype(np.uint8))
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(BadFileError, match=r"a\.json.*Rewrite or remove"):
        read_xray(tmp_path / "a.png")


def test_a_text_file_named_png_is_refused_by_name(tmp_path):
    (tmp_path / "chest.png").write_text("no image")
    with pytest.raises(BadFileError, match=r"chest\.png.*PNG, JPEG, TIFF or DICOM"):
        read_xray(tmp_path / "chest.png")


def test_a_truncated_or_damaged_png_is_refused(tmp_path):
    whole = save(tmp_path / "a.png", RAMP.astype(np.uint8)).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for data in (whole[:-200], bytes(flipped), b""):
        (tmp_path / "b.png").write_bytes(data)
        with pytest.raises(BadFileError, match=r"b\.png"):
            read_xray(tmp_path / "b.png")


def test_sizes_that_are_no_xray_are_refused(tmp_path):
    with pytest.raises(BadFileError, match="63 x 80"):
        read_xray(save(tmp_path / "a.png", np.zeros((80, 63), np.uint8)))
    Image.new("1", (20000, 20000)).save(tmp_path / "b.png")
    with pytest.raises(BadFileError, match="at most 80 million"):
        read_xray(tmp_path / "b.png")


def test_to_square_pads_and_never_squeezes():
    image = np.ones((100, 200), np.float32)
    square, camera = to_square(Xray(image, "uint8", None, False), 100)
    assert camera is None
    assert square.dtype == np.float32
    np.testing.assert_array_equal(square[:24], 0)
    np.testing.assert_array_equal(square[26:74], 1)
    np.testing.assert_array_equal(square[76:], 0)


@pytest.mark.parametrize("shape", [(96, 128), (160, 100), (64, 64)])
def test_to_square_moves_the_geometry_with_the_picture(shape):
    camera = Film("pa", 900.0, 200.0).camera(shape, (2.0, 2.2))
    place = [10.0, 60.0, 5.0]
    column, row = cam.pixels(camera, place)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 50).astype(np.float32)
    square, moved = to_square(Xray(image, "uint16", camera, True), 64)
    rows, columns = np.mgrid[:64, :64]
    found = [(square * index).sum() / square.sum() for index in (columns, rows)]
    assert moved is not None
    np.testing.assert_allclose(cam.pixels(moved, place), found, atol=0.05)


def test_the_field_of_view_is_centred_head_up_and_left_on_the_right():
    edges = [[-200, 0, 200], [200, 0, -200], [0, 0, 0]]  # (right, head), (left, foot), centre
    expected = [[-0.5, -0.5], [511.5, 511.5], [255.5, 255.5]]
    for film in (PARALLEL, Film(), Film("ap", 1000.0, 80.0)):
        np.testing.assert_allclose(cam.pixels(film.square(512, 400), edges), expected)


def test_the_encoder_sees_three_normalised_channels():
    view = encoder_view(np.full((512, 512), 0.5, np.float32), 224, [0.5, 0.4, 0.3], [0.5, 0.1, 0.2])
    assert (view.shape, view.dtype) == ((3, 224, 224), torch.float32)
    torch.testing.assert_close(view.mean(dim=(1, 2)), torch.tensor([0.0, 1.0, 1.0]))


def test_another_tools_json_of_the_same_name_is_left_unread_and_said(tmp_path):
    save(tmp_path / "a.png", RAMP.astype(np.uint8))
    assert check_xray("p", "a.png", read_xray(tmp_path / "a.png")) == []
    (tmp_path / "a.json").write_text(json.dumps({"Modality": "CT", "ConversionSoftware": "dcm2niix"}))
    xray = read_xray(tmp_path / "a.png")
    assert (xray.camera, xray.synthetic) == (None, False)
    (problem,) = check_xray("p", "a.png", xray)
    assert not problem.fatal
    assert "another tool's" in problem.found
