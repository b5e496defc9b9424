"""model.residual: the expected latent and what it leaves, in training and in drawing."""

from dataclasses import replace

import pytest
import torch

import sample_ddpm_patches
import train_ddpm_patches_4gpu
from common.errors import UserError
from ddpm.diffusion import CosineDDPM
from ddpm.plan import SamplingPlan
from tests.test_generator import GRID, XRAY, make_generator
from tests.tiny import built_ddpm, run

RESIDUAL = "model.residual=true"


@pytest.fixture
def module(workshop, tiny_latents, elsewhere):
    return built_ddpm(*workshop.ddpm, f"dataset.latents_dir={tiny_latents}", RESIDUAL)


def test_half_of_the_samples_train_the_expected_latent_and_the_others_see_it(module):
    made, channels = module.module, module.module.denoiser.latent_channels
    batch = {key: torch.cat([value] * 8) for key, value in module.batch.items() if torch.is_tensor(value)}
    batch["sample_key"] = torch.arange(len(batch["sample_key"])) * 7919
    calls = []
    made.denoiser.forward = lambda x, t, *_: calls.append((x, t)) or torch.full_like(x[:, :channels], 0.25)
    noised = made._noised(batch)
    asked, (x, t, *_) = noised.asked, noised.inputs
    assert 0.2 < asked.float().mean() < 0.8
    assert t[asked].eq(1).all()
    assert x[asked].eq(0).all()
    assert noised.mean[asked].eq(0).all()
    assert noised.mean[~asked].eq(0.25).all()
    left = (noised.x0 - 0.25)[~asked]
    follows = 0.98 + 0.02 * left.square().mean((0, 2, 3, 4)).sqrt()
    torch.testing.assert_close(made.denoiser.residual_std, follows)
    assert torch.equal(x[:, channels:], noised.mean)
    ((given, times),) = calls  # the expected latents of those that are not asked for them
    assert len(given) == int((~asked).sum())
    assert given.eq(0).all()
    assert times.eq(1).all()
    rest = made.diffusion.add_noise((noised.x0 - noised.mean) / noised.std, noised.noise, t)
    assert torch.equal(x[~asked, :channels], rest[~asked])


def test_the_loss_is_zero_where_both_answers_are_right(module):
    made, batch = module.module, module.batch
    noised = made._noised(batch)
    right = made.diffusion.target((noised.x0 - noised.mean) / noised.std, noised.noise, noised.t)
    right[noised.asked] = noised.x0[noised.asked]
    torch.testing.assert_close(noised.x0_of(right, made.diffusion), noised.x0, atol=1e-2, rtol=0)
    made._noised = lambda *_: noised
    made._graphed = lambda *_: right
    assert made.loss(batch) == 0
    made._graphed = lambda *_: right + 0.5
    assert made.loss(batch) > 0.1


class Oracle(torch.nn.Module):
    """Expects `mean`, and knows that the rest is `rest`."""

    latent_channels, noisy_channels, global_context, residual = 2, 4, False, True
    mean, rest = 0.75, -0.5
    residual_std = torch.tensor([2.0, 0.5])

    def encode_condition(self, pooled, tokens, grid, xray, camera, drop):
        return drop.float()

    def forward(self, x, t, condition, positions, spacing):
        noisy, beside = x.chunk(2, 1)
        if not x.any():
            return torch.full_like(noisy, self.mean)
        assert torch.allclose(beside, torch.full_like(beside, self.mean))
        a, s = (level.view(-1, 1, 1, 1, 1).to(noisy) for level in CosineDDPM(100).levels(t))
        return (a * noisy - self.rest) / s  # v, where x0 is `rest`


@pytest.mark.parametrize("mode", ["fused", "whole"])
def test_a_drawn_latent_is_the_expected_one_and_what_is_drawn_beside_it(mode):
    generator = make_generator(CosineDDPM(100))
    generator.denoiser = Oracle()
    plan = SamplingPlan(3, mode=mode, window_batch=2, bf16=False)
    steps = []
    drawn = generator.latent(XRAY, GRID, plan, 1, progress=lambda: steps.append(1))
    whole = Oracle.mean + Oracle.rest * Oracle.residual_std.view(1, 2, 1, 1, 1).expand(1, *drawn.shape)
    restored = generator.latent_scale.restore(whole)[0]
    torch.testing.assert_close(drawn, restored, atol=1e-4, rtol=1e-4)
    assert len(steps) == generator.evaluations(GRID, plan)
    expected = generator.latent(XRAY, GRID, replace(plan, sampler="mean"), 1)
    torch.testing.assert_close(expected, generator.latent_scale.restore(torch.full((1, *drawn.shape), Oracle.mean))[0])


def test_windows_apart_are_refused():
    generator = make_generator(CosineDDPM(100))
    generator.denoiser = Oracle()
    with pytest.raises(UserError, match=r"model\.residual.*mode=fused"):
        generator.latent(XRAY, GRID, SamplingPlan(2, mode="independent"), 1)


@pytest.mark.parametrize("other", ["model.global_context=true", "diffusion=regression"])
def test_what_does_not_go_with_it_is_refused(workshop, tiny_latents, elsewhere, refused, other):
    latents = f"dataset.latents_dir={tiny_latents}"
    assert "model.residual" in refused(train_ddpm_patches_4gpu, *workshop.ddpm, latents, RESIDUAL, other)


@pytest.mark.parametrize("prediction", ["v", "noise"])
def test_one_training_gives_a_checkpoint_that_draws_and_expects(workshop, elsewhere, prediction):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, RESIDUAL, f"diffusion.prediction={prediction}")
    from_it = [f"vqgan_ckpt={workshop.vqgan_ckpt}", f"xray={workshop.xray}", "steps=2", "device=cpu"]
    for sampler in ("ddim", "mean"):
        run(sample_ddpm_patches, *from_it, f"sampler={sampler}", f"output={elsewhere}/{sampler}")
    assert [len(list((elsewhere / sampler).glob("*.nii.gz"))) for sampler in ("ddim", "mean")] == [1, 1]
