"""What windows see of the latent around them, in training and in drawing."""

import pytest
import torch
from torch.nn.functional import avg_pool3d

import train_ddpm_patches_4gpu
from common.geometry import latent_shape, triple
from common.wide_view import noise_in_view, wide_view
from ddpm.generator import VolumeGenerator
from ddpm.plan import SamplingPlan
from ddpm.windows import fused
from tests.test_generator import GRID, XRAY, make_generator
from tests.tiny import built_ddpm


def test_the_middle_shows_the_window_and_the_rest_what_lies_around():
    whole = torch.randn(2, 64, 64, 64)
    view = wide_view(whole, (24, 20, 28), (8, 8, 8))  # two cells of each axis are the window, three before
    assert view.shape == (3, 8, 8, 8)
    torch.testing.assert_close(view[:2], avg_pool3d(whole[:, 12:44, 8:40, 16:48], 4))
    assert view[2].eq(1).all()
    torch.testing.assert_close(view[:2, 3:5, 3:5, 3:5], avg_pool3d(whole[:, 24:32, 20:28, 28:36], 4))


def test_beyond_the_latent_lie_zeros_and_shares_tell_how_much_is_inside():
    view = wide_view(torch.ones(1, 6, 8, 8), (0, 0, 0), (4, 8, 8))
    assert torch.equal(view[0], view[1])
    assert view[1, 0].eq(0).all()  # before the first slice
    assert view[1, 1, 3, 3] == 1
    assert view[1, 2, 3, 3] == 0.5  # slices 4 to 7, of which two are there
    assert view[1].sum() * 64 == 6 * 8 * 8


def test_noise_in_view_has_the_spread_of_a_whole_latents_noise_and_agrees_with_the_windows():
    start, size, shape = (10, 0, 3), (12, 12, 12), (30, 16, 20)
    torch.manual_seed(0)
    wholes = torch.randn(4000, 1, *shape)
    views = wide_view(wholes, start, size)
    window = wholes[..., 10:22, 0:12, 3:15]
    found = noise_in_view(window, views[:, 1:], torch.randn(4000, 1, *size))
    torch.testing.assert_close(found.std(0), views[:, 0].std(0)[None], atol=0.01, rtol=0)
    inside = wide_view(window[:1], (0, 0, 0), size)[0, 1] == 1
    torch.testing.assert_close(found[0, 0][inside], views[0, 0][inside])


@pytest.fixture
def made(workshop, tiny_latents, elsewhere):
    return built_ddpm(*workshop.ddpm, f"dataset.latents_dir={tiny_latents}", "model.global_context=true")


def test_training_shows_the_network_what_drawing_shows_it(made):
    module, data = made.module, made.data.train
    seen = []
    module.denoiser.forward = lambda x, *_: seen.append(x) or x[:, : module.denoiser.latent_channels]
    batch = made.batch
    module.diffusion.add_noise = lambda x0, noise, t: x0  # so that all views are of clean latents
    module.loss(batch)
    (case,) = (case for case in data.cases if case.patient_id == batch["patient_id"][0])
    whole = data.latents.read(case, (0, 0, 0), latent_shape(case.shape, data.patch_size)).float()[None]
    first = triple((batch["patch_coord"][0] // 4).tolist())
    windows = []

    def predict(x, t, coords):
        windows.extend(x[coords.eq(torch.tensor(first)).all(1)])
        return x[:, : whole.shape[1]]

    normal, size = module.latent_scale.normalize(whole), triple(batch["latent"].shape[2:])
    fused(predict, triple(whole.shape[2:]), size, (1, 1, 1), 4, around=True)(normal, torch.ones(1))
    torch.testing.assert_close(windows[0], seen[0][0], atol=1e-3, rtol=1e-3)


def test_windows_draw_with_what_lies_around_them(made):
    plain, given = make_generator(), made.module
    generator = VolumeGenerator(
        given.denoiser, given.diffusion, given.latent_scale, plain.codec, given._frozen[1], (4, 4, 4), (3, 3, 3)
    )
    seen = []
    given.denoiser.forward = lambda x, *_: seen.append(x) or x[:, : given.denoiser.latent_channels]
    xray = type(XRAY)(torch.rand(1, 512, 512), torch.rand(3, 224, 224), torch.eye(3, 4))
    for mode in ("fused", "whole"):
        generator.latent(xray, GRID, SamplingPlan(2, mode=mode, window_batch=3, bf16=False), 1)
        assert seen[-1].shape[1] == 2 * given.denoiser.latent_channels + 1
    with pytest.raises(ValueError, match="global_context"):
        generator.latent(xray, GRID, SamplingPlan(2, mode="independent"), 1)


def test_latents_encoded_on_the_fly_have_no_surroundings(workshop, elsewhere, refused):
    said = refused(train_ddpm_patches_4gpu, *workshop.ddpm, "model.global_context=true", "dataset.latents=never")
    assert "cached latents" in said
