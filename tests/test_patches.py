import random

import pytest
import torch

from common.geometry import axis_starts
from common.patches import blend_window, extract_patches_3d, grid_coords, positions_mm, stitch_patches


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("blend", ["average", "hann"])
def test_cutting_and_stitching_returns_the_volume(seed, blend):
    rng = random.Random(seed)
    shape = [rng.randint(1, 14) for _ in range(3)]
    patch = [rng.randint(1, n) for n in shape]
    stride = [rng.randint(1, n) for n in patch]
    volume = torch.randn(rng.randint(1, 3), *shape, generator=torch.Generator().manual_seed(seed))
    patches, coords = extract_patches_3d(volume, patch, stride)
    assert patches.shape[1:] == (volume.shape[0], *patch)
    torch.testing.assert_close(stitch_patches(patches, coords, shape, blend), volume, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(25))
def test_every_voxel_is_covered_and_no_patch_leaves_the_volume(seed):
    rng = random.Random(100 + seed)
    shape = tuple(rng.randint(1, 20) for _ in range(3))
    patch = tuple(rng.randint(1, n) for n in shape)
    stride = tuple(rng.randint(1, n) for n in patch)
    seen = torch.zeros(shape)
    for d, h, w in grid_coords(shape, patch, stride).tolist():
        region = seen[d : d + patch[0], h : h + patch[1], w : w + patch[2]]
        assert region.shape == patch
        region += 1
    assert seen.min() >= 1


def test_the_guides_volume_needs_150_patches():
    coords = grid_coords((604, 512, 512), (128, 128, 128), (96, 96, 96))
    assert len(coords) == 150
    assert coords.max(0).values.tolist() == [476, 384, 384]
    assert axis_starts(512, 128, 96) == [0, 96, 192, 288, 384]


@pytest.mark.parametrize("blend", ["average", "hann"])
def test_a_constant_stays_constant_up_to_the_corners(blend):
    patches, coords = extract_patches_3d(torch.ones(1, 11, 9, 8), (4, 5, 6), (3, 2, 5))
    torch.testing.assert_close(stitch_patches(patches, coords, (11, 9, 8), blend), torch.ones(1, 11, 9, 8))
    assert blend_window((4, 5, 6), blend).min() > 0


@pytest.mark.parametrize(
    ("shape", "patch", "stride", "message"),
    [
        ((4, 16, 16), (8, 8, 8), (8, 8, 8), "pad volumes smaller than a patch"),
        ((16, 16, 16), (8, 8, 8), (0, 8, 8), "stride 0"),
        ((16, 16, 16), (8, 8, 8), (9, 8, 8), "stride 9"),
        ((16, 16, 16), (8, 8), (8, 8, 8), "three whole numbers"),
    ],
)
def test_impossible_sizes_are_refused(shape, patch, stride, message):
    with pytest.raises(ValueError, match=message):
        extract_patches_3d(torch.zeros(1, *shape), patch, stride)


def test_patches_that_leave_holes_or_stick_out_are_refused():
    with pytest.raises(ValueError, match="lie in no patch"):
        stitch_patches(torch.zeros(1, 1, 4, 4, 4), torch.tensor([[0, 0, 0]]), (4, 4, 5))
    with pytest.raises(ValueError, match="beyond the volume"):
        stitch_patches(torch.zeros(1, 1, 4, 4, 4), torch.tensor([[2, 0, 0]]), (4, 4, 4))
    with pytest.raises(ValueError, match="blend must be one of"):
        stitch_patches(torch.zeros(1, 1, 4, 4, 4), torch.tensor([[0, 0, 0]]), (4, 4, 4), blend="box")


def test_positions_are_millimetres_from_the_centre():
    spacing, shape = torch.tensor([[2.0, 1.0, 0.5]]), torch.tensor([[5, 9, 3]])
    whole = positions_mm(torch.zeros(1, 3), spacing, shape, (5, 9, 3))
    assert whole[0, 0, :, 0, 0].tolist() == [-4, -2, 0, 2, 4]
    assert whole[0, 1, 0, :, 0].tolist() == list(range(-4, 5))
    assert whole[0, 2, 0, 0].tolist() == [-0.5, 0, 0.5]


def test_positions_of_a_crop_are_the_crop_of_the_positions():
    spacing, shape = torch.tensor([[2.0, 1.5, 0.7]]), torch.tensor([[31, 40, 35]])
    whole = positions_mm(torch.zeros(1, 3), spacing, shape, (8, 10, 9), step=4)
    crop = positions_mm(torch.tensor([[8, 12, 4]]), spacing, shape, (3, 4, 5), step=4)
    torch.testing.assert_close(crop, whole[:, :, 2:5, 3:7, 1:6])
    voxels = positions_mm(torch.zeros(1, 3), spacing, shape, (32, 40, 36))
    torch.testing.assert_close(
        whole[0, 0, :, 0, 0],
        voxels[0, 0, :, 0, 0].view(8, 4).mean(1),
        msg="a block lies at the mean of its voxels",
    )
