from functools import partial

import numpy as np
import pytest
import torch

from common.patches import positions_mm
from dataset.scans.camera import Film, pixels
from ddpm.denoiser import PatchDenoiser, token_positions_mm
from ddpm.position import COORDINATE_CHANNELS, PATCH_EMBEDDING_DIM, coordinate_channels, patch_embedding
from ddpm.unet3d import UNet3D
from medclip_cond.lifting import XrayLifter

CAMERA = torch.tensor([[[0.5, 0, 0, 31.5], [0, 0, -0.5, 31.5], [0, 0, 0, 1]]])  # 2 mm pixels, 64 x 64
GRID = (2, 3)
SPACING = (2.0, 1.5, 1.5)


def places(coord=(0, 0, 0), size=(4, 4, 4), shape=(64, 64, 64)):
    return positions_mm(torch.tensor([coord]), torch.tensor([SPACING]), torch.tensor([shape]), size, step=4)


def make_denoiser(cond=("pooled", "tokens", "lifted"), views=()):
    torch.manual_seed(0)
    unet = partial(UNet3D, dim=8, dim_mults=(1, 2), num_res_blocks=1, middle_blocks=1)
    denoiser = PatchDenoiser(unet, 2, pooled_dim=5, token_dim=6, lifter=XrayLifter(3, (4, 5)), cond=cond, views=views)
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return denoiser


def encode(denoiser, seed=0, batch=1, drop=None, camera=CAMERA):
    stream = torch.Generator().manual_seed(seed)
    pooled, tokens, xray = (torch.rand(batch, *shape, generator=stream) for shape in ((5,), (6, 6), (1, 64, 64)))
    return denoiser.encode_condition(pooled, tokens, GRID, xray, camera.expand(batch, -1, -1), drop)


def predict(denoiser, condition, positions=None, batch=1):
    x = torch.randn(1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).expand(batch, -1, -1, -1, -1)
    positions = places() if positions is None else positions
    return denoiser(x, torch.full((batch,), 0.4), condition, positions, torch.tensor([SPACING]).expand(batch, 3))


def test_coordinates_of_a_crop_are_the_crop_of_the_coordinates():
    whole = coordinate_channels(places(size=(16, 16, 16)))
    crop = coordinate_channels(places(coord=(8, 0, 20), size=(4, 6, 5)))
    assert whole.shape[1] == COORDINATE_CHANNELS
    torch.testing.assert_close(crop, whole[:, :, 2:6, 0:6, 5:10])


def test_coordinates_are_not_repeated_within_400_mm():
    positions = torch.linspace(-200, 200, 101).view(1, 1, -1, 1, 1).expand(1, 3, -1, 1, 1)
    channels = coordinate_channels(positions)[0, :, :, 0, 0].T
    assert torch.pdist(channels).min() > 0.01


def test_the_patch_embedding_tells_place_size_and_spacing_apart():
    spacing = torch.tensor([SPACING])
    cases = [
        patch_embedding(places(), spacing),
        patch_embedding(places(coord=(0, 0, 4)), spacing),
        patch_embedding(places(size=(4, 4, 6)), spacing),
        patch_embedding(places(), spacing * 1.2),
    ]
    assert cases[0].shape == (1, PATCH_EMBEDDING_DIM)
    assert torch.pdist(torch.cat(cases)).min() > 0.1


def test_a_patch_of_one_voxel_has_an_embedding():
    assert patch_embedding(places(size=(1, 1, 1)), torch.tensor([SPACING])).isfinite().all()


def test_tokens_lie_at_the_centres_of_their_part_of_the_image():
    positions = token_positions_mm((2, 4), CAMERA, (64, 64))[0]
    # 64 pixels of 2 mm: columns of 32 mm around 0, rows of 64 mm, the first one on top
    assert positions[:, 0].view(2, 4).tolist() == [[-48.0, -16.0, 16.0, 48.0]] * 2
    assert positions[:, 1].view(2, 4).tolist() == [[32.0] * 4, [-32.0] * 4]


def test_tokens_lie_where_their_rays_cross_the_patients_middle():
    camera = torch.tensor(Film("pa", 1100.0, 100.0, turn_deg=20).square(64, 300)[None], dtype=torch.float32)
    positions = token_positions_mm((4, 4), camera, (64, 64))[0].numpy()
    places = np.stack([positions[:, 0], np.zeros(16), positions[:, 1]], -1)
    rows, columns = np.mgrid[:4, :4] * 16 + 7.5
    np.testing.assert_allclose(
        pixels(camera[0].numpy(), places), np.stack([columns, rows], -1).reshape(-1, 2), atol=1e-3
    )


def test_patches_that_differ_in_place_alone_get_different_predictions():
    denoiser = make_denoiser(cond=("pooled",))
    condition = encode(denoiser)
    there = places(coord=(16, 0, 32))
    assert not torch.allclose(predict(denoiser, condition), predict(denoiser, condition, there), atol=1e-3)


def test_one_encoded_xray_serves_a_batch_of_windows():
    denoiser = make_denoiser()
    condition = encode(denoiser)
    windows = [places(coord=(0, 4 * i, 8 * i)) for i in range(3)]
    together = predict(denoiser, condition, torch.cat(windows), batch=3)
    alone = torch.cat([predict(denoiser, condition, w) for w in windows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_samples_of_a_batch_use_their_own_xray():
    denoiser = make_denoiser()
    condition = encode(denoiser, batch=2)
    both = predict(denoiser, condition, places().expand(2, -1, -1, -1, -1), batch=2)
    alone = torch.cat([predict(denoiser, condition[i : i + 1]) for i in range(2)])
    assert not torch.allclose(both[0], both[1], atol=1e-3)
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cond", [("pooled",), ("tokens",), ("lifted",), ("pooled", "tokens", "lifted"), ()])
def test_the_xray_matters_exactly_through_what_cond_names(cond):
    denoiser = make_denoiser(cond)
    results = [predict(denoiser, encode(denoiser, seed)) for seed in (0, 1)]
    assert torch.equal(*results) is (not cond)


def test_a_dropped_xray_leaves_no_trace():
    denoiser = make_denoiser()
    drop, cameras = torch.tensor([True]), ((0, CAMERA), (1, 0.8 * CAMERA))
    dropped = [predict(denoiser, encode(denoiser, seed, drop=drop, camera=camera)) for seed, camera in cameras]
    torch.testing.assert_close(*dropped)
    assert not torch.allclose(dropped[0], predict(denoiser, encode(denoiser)), atol=1e-3)


def test_it_tells_whether_training_has_dropped_xrays():
    unet = partial(UNet3D, dim=8, dim_mults=(1, 2), num_res_blocks=1, middle_blocks=1)
    for share, expected in ((0.0, False), (0.5, True)):
        torch.manual_seed(0)
        denoiser = PatchDenoiser(unet, 2, pooled_dim=5, token_dim=6, lifter=XrayLifter(3, (4, 5)))
        optimizer = torch.optim.AdamW(denoiser.parameters(), weight_decay=0.1)
        for step in range(4):
            optimizer.zero_grad()
            drop = torch.tensor([step / 4 < share])
            (predict(denoiser, encode(denoiser, step, drop=drop)) - 1).square().sum().backward()
            optimizer.step()
        assert denoiser.knows_no_xray is expected


@pytest.mark.parametrize("drop", [[True, True], [False, False], [True, False]])
@pytest.mark.parametrize("cond", [("pooled",), ("tokens", "lifted"), ("pooled", "tokens", "lifted")])
def test_every_parameter_takes_part_in_every_step(cond, drop):
    denoiser = make_denoiser(cond)
    condition = encode(denoiser, batch=2, drop=torch.tensor(drop))
    predict(denoiser, condition, places().expand(2, -1, -1, -1, -1), batch=2).sum().backward()
    assert [name for name, p in denoiser.named_parameters() if p.grad is None] == []


def test_the_scale_of_an_encoders_features_does_not_matter():
    denoiser = make_denoiser(cond=("pooled", "tokens"))
    arguments = torch.rand(1, 5), torch.rand(1, 6, 6), GRID, torch.zeros(1, 1, 64, 64), CAMERA
    scaled = 30 * arguments[0], 0.1 * arguments[1], *arguments[2:]
    expected, got = (predict(denoiser, denoiser.encode_condition(*a)) for a in (arguments, scaled))
    torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"got \['clip'\]"):
        make_denoiser(cond=("clip",))
    with pytest.raises(ValueError, match="there is no lifter"):
        PatchDenoiser(UNet3D, 2, 5, 6, lifter=None)
    denoiser = make_denoiser()
    with pytest.raises(ValueError, match="needs 4 tokens, got 6"):
        denoiser.encode_condition(torch.rand(1, 5), torch.rand(1, 6, 6), (2, 2), torch.zeros(1, 1, 64, 64), CAMERA)
    with pytest.raises(ValueError, match="got 2"):
        predict(denoiser, encode(denoiser, batch=2), places().expand(3, -1, -1, -1, -1), batch=3)
