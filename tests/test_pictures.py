import re

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from common.atomic import write_text
from common.planes import planes_at
from common.voxel_file import VoxelFile, box_of
from evaluation.pictures import (
    PANEL,
    WINDOWS,
    case_page,
    differences_of,
    fit,
    planes,
    preview,
    save_png,
    to_grey,
)
from tests.disk import largest_file

AIR, TISSUE = -1000.0, 1000.0
SIDES = {  # which half of the volume (D, H, W) is bright, and where it must appear
    "right": ((slice(None), slice(None), slice(0, 10)), {"axial": "left", "coronal": "left"}),
    "left": ((slice(None), slice(None), slice(10, 20)), {"axial": "right", "coronal": "right"}),
    "front": ((slice(None), slice(0, 10), slice(None)), {"axial": "top", "sagittal": "left"}),
    "back": ((slice(None), slice(10, 20), slice(None)), {"axial": "bottom", "sagittal": "right"}),
    "head": ((slice(10, 20), slice(None), slice(None)), {"coronal": "top", "sagittal": "top"}),
    "foot": ((slice(0, 10), slice(None), slice(None)), {"coronal": "bottom", "sagittal": "bottom"}),
}
HALVES = {
    "left": (slice(None), slice(0, 14)),
    "right": (slice(None), slice(-14, None)),
    "top": (slice(0, 14), slice(None)),
    "bottom": (slice(-14, None), slice(None)),
}
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


@pytest.mark.parametrize("side", SIDES)
def test_every_side_of_the_patient_appears_where_radiologists_expect_it(side):
    box, expected = SIDES[side]
    hu = np.full((20, 20, 20), AIR)
    hu[box] = TISSUE
    pictures = planes(hu, (1, 1, 1), "lung", size=32)
    for plane, where in expected.items():
        pixels = np.asarray(pictures[plane])
        assert pixels[HALVES[where]].mean() > 230
        assert pixels[HALVES[OPPOSITE[where]]].mean() < 70  # lung window: air is dark grey, not black


def test_proportions_follow_the_spacing():
    hu = np.full((10, 40, 20), TISSUE)  # 50, 40 and 40 mm
    pictures = planes(hu, (5.0, 1.0, 2.0), "lung", size=100)
    lit = {name: np.asarray(picture) > 0 for name, picture in pictures.items()}
    sizes = {name: (int(p.any(0).sum()), int(p.any(1).sum())) for name, p in lit.items()}  # width, height
    assert sizes == {"axial": (80, 80), "coronal": (80, 100), "sagittal": (80, 100)}


def test_windows_map_their_ends_to_black_and_white():
    assert WINDOWS == {"lung": (-600, 1500), "mediastinal": (40, 400), "ctpa": (200, 700)}
    assert to_grey(np.array([-2048, -150, 200, 550, 3000]), "ctpa").tolist() == [0, 0, 128, 255, 255]
    assert to_grey(np.array([np.nan]), "mediastinal").tolist() == [0]


def test_an_unknown_window_is_refused():
    with pytest.raises(ValueError, match="lung, mediastinal, ctpa, got 'bone'"):
        planes(np.zeros((4, 4, 4)), (1, 1, 1), "bone")


def test_an_xray_is_padded_not_squeezed():
    picture = fit(np.ones((10, 20)), 40)
    assert picture.size == (40, 40)
    assert picture.getbbox() == (0, 10, 40, 30)


def test_a_case_page_shows_real_generated_and_their_difference_in_three_windows():
    xray = np.linspace(0, 1, 64 * 48).reshape(64, 48)
    real = np.full((20, 20, 20), TISSUE)
    numbers = {"PSNR, dB": 21.8, "SSIM": 0.71}
    page = case_page(xray, real, np.full((20, 20, 20), AIR), (1, 1, 1), "case 7", numbers)
    pixels = np.asarray(page)
    column = pixels[:, page.width - PANEL // 4 - 8]  # through the nine sagittal panels
    panels = [column[40 + i * (PANEL + 20) + 60].tolist() for i in range(9)]
    white, red_free = [255, 255, 255], panels[2::3]
    assert panels[0::3] == [white] * 3
    assert all(grey[0] < 70 for grey in panels[1::3])
    assert all(blue > 200 > red for red, _, blue in red_free)  # drawn below the real one
    below = page.crop((0, 2 * PANEL + 70, 2 * PANEL, page.height))
    blank = case_page(xray, real, real, (1, 1, 1), "case 7", {}).crop((0, 2 * PANEL + 70, 2 * PANEL, page.height))
    assert (np.asarray(below) < 128).sum() > (np.asarray(blank) < 128).sum()  # the numbers stand there


def test_a_long_title_leaves_room_for_the_notice():
    hu = np.full((8, 8, 8), AIR)
    short, long = (
        np.asarray(case_page(np.zeros((8, 8)), hu, hu, (1, 1, 1), title, {}))[:35] for title in ("", "patient " * 20)
    )
    written = (short < 255).any((0, 2))
    first = written.argmax()  # of the notice
    np.testing.assert_array_equal(long[:, first:], short[:, first:])
    assert (long[:, :first] < 255).any()


def test_headings_stay_over_their_pictures():
    hu = np.full((8, 8, 8), AIR)
    page = np.asarray(case_page(np.zeros((8, 8)), hu, hu, (1, 1, 1), "case", {}))
    first = page.shape[1] - 3 * (PANEL + 4) - 4
    gaps = [first + k * (PANEL + 4) + PANEL + i for k in range(2) for i in range(4)]  # between the columns
    assert (page[40:, gaps] == 255).all()


def test_a_page_of_a_case_is_small_and_keeps_its_colours(tmp_path):
    rng = np.random.default_rng(0)
    hu = gaussian_filter(rng.normal(0, 1, (96, 96, 96)), 3)
    real, drawn = (400 * hu / hu.std() + rng.normal(0, 10, hu.shape) for _ in range(2))
    page = case_page(np.linspace(0, 1, 4096).reshape(64, 64), real, drawn, (1, 1, 1), "case", {"psnr": 20.0})
    save_png(page, tmp_path / "case.png")
    assert (tmp_path / "case.png").stat().st_size < 300_000
    with Image.open(tmp_path / "case.png") as picture:
        np.testing.assert_allclose(np.asarray(picture.convert("RGB")), np.asarray(page), atol=12)


def test_differences_are_red_above_blue_below_and_black_where_equal():
    real = {"axial": np.full((4, 4), 200.0)}
    for hu, expected in ((200, (0, 0, 0)), (550, (255, 80, 60)), (-150, (70, 140, 255))):
        found = differences_of(real, {"axial": np.full((4, 4), hu)}, (1, 1, 1), "ctpa")["axial"]
        np.testing.assert_allclose(found.getpixel((PANEL // 2, PANEL // 2)), expected, atol=2)


@pytest.mark.parametrize("at", [None, (4, 1, 6)])
def test_slices_can_be_read_without_the_volume(at, tmp_path):
    hu = np.random.default_rng(0).integers(-1000, 1000, (5, 8, 7)).astype(np.int16)
    d, h, w = at or (2, 4, 3)
    expected = {"axial": hu[d], "coronal": hu[::-1, h], "sagittal": hu[::-1, :, w]}
    with VoxelFile(hu.shape, tmp_path) as file:
        file.write(0, hu)
        found = planes_at(file.read, hu.shape, at)
    assert set(found) == set(expected)
    for name, pixels in expected.items():
        np.testing.assert_array_equal(found[name], pixels)


def test_a_preview_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "preview.png"
    hu = np.random.default_rng(0).uniform(-1000, 1000, (8, 16, 16)).astype(np.int16)
    preview(np.zeros((32, 32)), planes_at(box_of(hu), hu.shape), hu.shape, (3.0, 1.0, 1.0), path)
    with Image.open(path) as picture:
        assert picture.width > 5 * PANEL
        assert picture.height > 3 * PANEL
    assert [p.name for p in path.parent.iterdir()] == ["preview.png"]


@pytest.mark.parametrize("name", ["picture.png", "report.html"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(name, tmp_path):
    path = tmp_path / name
    path.write_text("the old one")
    grain = np.random.default_rng(0).integers(0, 256, (200, 200)).astype(np.uint8)
    write = {
        "picture.png": lambda: save_png(Image.fromarray(grain), path),
        "report.html": lambda: write_text(path, "x" * 50_000),
    }
    with largest_file(20_000), pytest.raises(OSError, match=re.escape(str(path))):
        write[name]()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert path.read_text() == "the old one"
