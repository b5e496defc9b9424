"""Windows against the whole, and what a draw depends on."""

import pytest
import torch
from torch import nn

from common.errors import UserError
from ddpm.diffusion import RectifiedFlow
from ddpm.generator import VolumeGenerator
from ddpm.latent_scale import LatentScale
from ddpm.plan import Grid, SamplingPlan, XrayInput
from ddpm.samplers import SAMPLERS
from ddpm.windows import fused

SHAPE, WINDOW, STRIDE = (11, 6, 9), (4, 4, 4), (3, 2, 4)


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_fused_windows_of_an_element_wise_denoiser_are_the_whole(batch):
    x, t = torch.randn(1, 2, *SHAPE), torch.tensor([0.3])
    windows = fused(lambda x, t, at: torch.sin(3 * x) + t.view(-1, 1, 1, 1, 1), SHAPE, WINDOW, STRIDE, batch)
    torch.testing.assert_close(windows(x, t), torch.sin(3 * x) + 0.3, rtol=0, atol=1e-6)


def test_windows_know_where_they_are():
    def places(x, t, coords):
        assert x.shape[2:] == WINDOW
        axes = [torch.arange(n) for n in WINDOW]
        inside = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return (coords.view(-1, 3, 1, 1, 1) + inside).float()

    expected = torch.stack(torch.meshgrid(*[torch.arange(n) for n in SHAPE], indexing="ij")).float()
    blended = fused(places, SHAPE, WINDOW, STRIDE, 3)(torch.zeros(1, 3, *SHAPE), torch.ones(1))
    torch.testing.assert_close(blended[0], expected)


def test_a_window_larger_than_the_latent_shrinks_to_it():
    seen = []
    fused(lambda x, t, at: seen.append(x.shape) or x, (3, 6, 4), (4, 4, 4), (3, 3, 3), 1)(
        torch.zeros(1, 1, 3, 6, 4), torch.ones(1)
    )
    assert set(seen) == {(1, 1, 3, 4, 4)}


class ElementWise(nn.Module):
    """A denoiser whose answer at a voxel depends on that voxel's value, place and time only."""

    latent_channels = 2
    knows_no_xray = True

    def encode_condition(self, pooled, tokens, grid, xray, camera, drop):
        return drop.float()

    def forward(self, x, t, condition, positions, spacing):
        return torch.tanh(x + 0.01 * positions[:, :2]) * (1 - t.view(-1, 1, 1, 1, 1)) + 0.5 * condition


class Features(nn.Module):
    grid = (1, 1)

    def forward(self, cxr):
        return type("Seen", (), {"pooled": cxr.mean((2, 3)), "tokens": cxr.flatten(2).mean(2)[:, None]})()


@pytest.fixture
def generator():
    scale = LatentScale(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5]))
    return VolumeGenerator(ElementWise(), RectifiedFlow(), scale, nn.Identity(), Features(), WINDOW, STRIDE)


GRID = Grid((41, 22, 34), (2.0, 1.0, 1.5))
XRAY = XrayInput(torch.rand(1, 8, 8), torch.rand(3, 8, 8), torch.eye(3, 4))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_fused_draw_of_an_element_wise_denoiser_is_the_whole_one(generator, sampler):
    whole, apart = (generator.latent(XRAY, GRID, SamplingPlan(6, sampler, mode), 5) for mode in ("whole", "fused"))
    assert whole.shape == (2, 11, 6, 9)
    torch.testing.assert_close(apart, whole, rtol=0, atol=1e-5)


def test_the_window_batch_changes_nothing(generator):
    one, many = (generator.latent(XRAY, GRID, SamplingPlan(4, window_batch=n), 5) for n in (1, 7))
    torch.testing.assert_close(one, many, rtol=0, atol=1e-6)


def test_a_seed_names_a_latent(generator):
    plan = SamplingPlan(3, "ddpm")
    first, again, other = (generator.latent(XRAY, GRID, plan, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_guidance_moves_away_from_the_answer_without_xray(generator):
    # The null condition adds 0.5 to the prediction of a velocity, so guidance g adds 0.5 (1 - g) instead.
    plans = [SamplingPlan(1, mode="whole", guidance=g) for g in (1.0, 3.0)]
    normal, guided = (generator.latent_scale.normalize(generator.latent(XRAY, GRID, p, 5)[None]) for p in plans)
    torch.testing.assert_close(guided - normal, torch.full_like(normal, 1.0))  # one step from 1 to 0: minus velocity


def test_guidance_needs_a_network_that_has_learned_to_do_without_an_xray(generator):
    generator.denoiser.knows_no_xray = False
    with pytest.raises(UserError, match=r"guidance=2 .*never learned.*guidance=1.*model\.condition_dropout above 0"):
        generator.latent(XRAY, GRID, SamplingPlan(1, guidance=2), 5)
    generator.latent(XRAY, GRID, SamplingPlan(1), 5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("mode", "batch"), [("whole", 1), ("fused", 1), ("fused", 4), ("independent", 1)])
def test_progress_is_told_as_often_as_promised(generator, sampler, mode, batch):
    plan, calls = SamplingPlan(3, sampler, mode, window_batch=batch), []
    generator.latent(XRAY, GRID, plan, 0, lambda: calls.append(1))
    assert len(calls) == generator.evaluations(GRID, plan)


def test_a_plan_names_what_there_is():
    with pytest.raises(ValueError, match=r"dpmpp_2m.*'euler'"):
        SamplingPlan(1, "euler")
    with pytest.raises(ValueError, match=r"fused.*'tiles'"):
        SamplingPlan(1, mode="tiles")
