import numpy as np
import pytest
import torch

from common.patches import positions_mm
from dataset.scans import camera as cam
from dataset.scans.camera import Film
from medclip_cond.lifting import XrayLifter, pixels_of, sample_plane

MM = 2.0  # millimetres per pixel of the 64 x 64 X-ray of these tests
PARALLEL = torch.tensor([[[1 / MM, 0, 0, 31.5], [0, 0, -1 / MM, 31.5], [0, 0, 0, 1]]])
CONE = torch.tensor(Film("ap", 700.0, 100.0).square(64, 128)[None], dtype=torch.float32)


def grid_mm(coord=(0, 0, 0), size=(8, 3, 8), shape=(32, 12, 32), spacing=4.0):
    """Positions (1, 3, d, h, w) of blocks of 4 voxels."""
    return positions_mm(torch.tensor([coord]), torch.full((1, 3), spacing), torch.tensor([shape]), size, step=4)


def test_a_voxel_on_the_patients_left_and_high_up_lands_right_and_high_in_the_image():
    place = torch.tensor([40.0, 7.0, 20.0]).view(1, 3, 1, 1, 1)  # z, y, x
    assert pixels_of(PARALLEL, place).flatten().tolist() == [41.5, 11.5]


@pytest.mark.parametrize("film", [Film(), Film("ap", 900.0), Film("ll"), Film("pa", None), Film(turn_deg=30)])
def test_voxels_are_seen_where_the_camera_sees_them(film):
    camera = film.square(64, 128)
    positions = grid_mm()
    found = pixels_of(torch.tensor(camera[None], dtype=torch.float32), positions)[0]
    np.testing.assert_allclose(found, cam.pixels(camera, positions[0].flip(0).movedim(0, -1)), atol=1e-3)


def test_a_lit_cell_lifts_to_one_column_front_to_back():
    lifter = XrayLifter(channels=1, widths=(1,))
    torch.nn.init.ones_(lifter.mix.weight)
    torch.nn.init.zeros_(lifter.mix.bias)
    cell = torch.zeros(1, 1, 16, 16)  # cells of 4 pixels = 8 mm
    cell[..., 3, 10] = 1  # pixels: rows 12..15, columns 40..43
    # blocks of 8 mm; the lit centre is x = (41.5 - 31.5) * 2 = 20 mm, z = (31.5 - 13.5) * 2 = 36 mm
    positions = grid_mm(size=(16, 3, 16), shape=(64, 12, 64), spacing=2.0)
    lifted = lifter.lift([cell], PARALLEL, positions)[0, 0]  # (d, h, w)
    d, w = 12, 10  # (36 + 64) / 8 and (20 + 64) / 8, centres at halves
    assert positions[0, 0, d, 0, 0] == 36
    assert positions[0, 2, 0, 0, w] == 20
    expected = torch.zeros(16, 3, 16)
    expected[d, :, w] = 1
    torch.testing.assert_close(lifted, expected)


@pytest.mark.parametrize("stride", [4, 8])
def test_cells_of_every_level_are_read_at_their_own_centres_and_zero_outside(stride):
    maps = torch.randn(1, 2, 64 // stride, 64 // stride)
    centres = torch.arange(64 // stride) * stride + (stride - 1) / 2
    row, column = torch.meshgrid(centres, centres, indexing="ij")
    read = sample_plane(maps, torch.stack([column, row], -1)[None], (64, 64))
    torch.testing.assert_close(read, maps, rtol=1e-4, atol=1e-4)
    outside = torch.tensor([-stride - 1.0, 20.0])
    assert not sample_plane(maps, outside.view(1, 1, 1, 2), (64, 64)).any()


@pytest.mark.parametrize("camera", [PARALLEL, CONE], ids=["parallel", "cone"])
def test_lifting_a_patch_is_cropping_the_lifted_whole(camera):
    lifter = XrayLifter(channels=3, widths=(4, 5))
    maps = lifter.pyramid(torch.rand(1, 1, 64, 64))
    whole = lifter.lift(maps, camera, grid_mm())
    patch = lifter.lift(maps, camera, grid_mm(coord=(8, 4, 12), size=(4, 2, 5)))
    assert torch.equal(whole[:, :, :, 0], whole[:, :, :, 2]) is (camera is PARALLEL)
    torch.testing.assert_close(patch, whole[:, :, 2:6, 1:3, 3:8])


def test_one_xray_serves_many_windows():
    lifter = XrayLifter(channels=3, widths=(4, 5))
    maps = lifter.pyramid(torch.rand(1, 1, 64, 64))
    windows = [grid_mm(coord=(4 * i, 0, 4), size=(3, 2, 4)) for i in range(3)]
    together = lifter.lift(maps, PARALLEL, torch.cat(windows))
    torch.testing.assert_close(together, torch.cat([lifter.lift(maps, PARALLEL, w) for w in windows]))


def test_each_sample_reads_its_own_xray():
    lifter = XrayLifter(channels=3, widths=(4, 5))
    xrays = torch.rand(2, 1, 64, 64)
    cameras = torch.cat([PARALLEL, CONE])
    both = lifter.lift(lifter.pyramid(xrays), cameras, grid_mm().expand(2, -1, -1, -1, -1))
    for i in range(2):
        alone = lifter.lift(lifter.pyramid(xrays[i : i + 1]), cameras[i : i + 1], grid_mm())
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first_stride", [2, 4])
def test_the_pyramid_keeps_places_centred(first_stride):
    """With kernels equal in all directions, the pyramid of a mirrored X-ray is the mirrored pyramid."""
    torch.manual_seed(0)
    lifter = XrayLifter(channels=3, widths=(4, 5, 6), first_stride=first_stride).double()
    for parameter in lifter.levels.parameters():
        if parameter.ndim == 4:
            parameter.data = torch.randn(len(parameter), 1, 1, 1).to(parameter).expand_as(parameter).clone()
    xray = torch.rand(1, 1, 64, 64, dtype=torch.float64)
    assert [m.shape[-1] * s for m, s in zip(lifter.pyramid(xray), lifter.strides, strict=True)] == [64, 64, 64]
    for axis in (2, 3):
        mirrored = lifter.pyramid(xray.flip(axis))
        for got, expected in zip(mirrored, lifter.pyramid(xray), strict=True):
            torch.testing.assert_close(got, expected.flip(axis), rtol=1e-4, atol=1e-5)


def test_places_do_not_lose_precision_under_autocast():
    lifter = XrayLifter(channels=3, widths=(4,))
    maps = lifter.pyramid(torch.rand(1, 1, 64, 64))
    full = lifter.lift(maps, PARALLEL, grid_mm())
    with torch.autocast("cpu", torch.bfloat16):
        half = lifter.lift(maps, PARALLEL, grid_mm())
    assert (half.float() - full).abs().max() < 0.02 * full.std()


def test_all_weights_learn():
    lifter = XrayLifter(channels=3, widths=(4, 5))
    lifter.lift(lifter.pyramid(torch.rand(1, 1, 64, 64)), PARALLEL, grid_mm()).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in lifter.parameters())


def test_an_xray_of_an_unfit_size_is_refused():
    with pytest.raises(ValueError, match="resize it to 512 x 512"):
        XrayLifter(channels=3, widths=(4, 5)).pyramid(torch.zeros(1, 1, 60, 64))
