"""Samplers against distributions whose exact denoiser is known; windows against the whole."""

import math

import pytest
import torch
from torch import nn

from ddpm.diffusion import PREDICTIONS, CosineDDPM, RectifiedFlow
from ddpm.generator import Grid, SamplingPlan, VolumeGenerator, XrayInput
from ddpm.latent_scale import LatentScale
from ddpm.samplers import SAMPLERS, ancestral, ddim
from ddpm.windows import fused

MEAN, STD = 1.5, 0.4
PATHS = {"ddpm": CosineDDPM(1024), "flow": RectifiedFlow()}


def gaussian(path, mean=MEAN, std=STD):
    """What a perfect network predicts when all clean values are N(mean, std²)."""

    def predict(x, t):
        a, s = (level.view(-1, *[1] * (x.ndim - 1)) for level in path.levels(t))
        x0 = mean + a * std**2 / (a**2 * std**2 + s**2) * (x - a * mean)
        p, q = PREDICTIONS[path.prediction](a, s)
        return p * x0 + q * (x - a * x0) / s

    return predict


def noise(n, seed=0):
    return torch.randn(n, 1, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_the_distribution(name, path):
    drawn = SAMPLERS[name](gaussian(path), path, noise(20_000), 512, torch.Generator().manual_seed(1))
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(drawn.std()) == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("steps", [4, 10, 64])
def test_strided_ancestral_steps_have_the_noise_of_their_level(steps, path):
    seen = []
    exact = gaussian(path, mean=2.0, std=0.0)

    def predict(x, t):
        a, s = path.levels(t[:1])
        seen.append((float(a), float(s), float(x.mean()), float(x.std())))
        return exact(x, t)

    ancestral(predict, path, noise(20_000), steps, torch.Generator().manual_seed(1))
    assert len(seen) == steps
    for a, s, mean, std in seen:
        assert mean == pytest.approx(2 * a, abs=0.03)
        assert std == pytest.approx(s, rel=0.03)


def test_ancestral_steps_of_one_are_those_of_the_paper():
    path = CosineDDPM(20, "noise", x0_limit=1e9)
    alpha_bar = path.alpha_bar
    given = []

    def predict(x, t):
        given.append((x.clone(), round(float(t[0]) * 20)))
        return torch.zeros_like(x)

    ancestral(predict, path, noise(50_000), 20, torch.Generator().manual_seed(1))
    for (x, step), (x_next, _) in zip(given[5:], given[6:], strict=False):
        beta = 1 - alpha_bar[step] / alpha_bar[step - 1]
        posterior = math.sqrt((1 - alpha_bar[step - 1]) / (1 - alpha_bar[step]) * beta)  # Ho et al. 2020, eq. 7
        mean = x / (1 - beta).sqrt()  # eq. 11 for a prediction of no noise
        assert float((x_next - mean).std()) == pytest.approx(posterior, rel=0.03)


def exact_end(path, x):
    """Where the probability flow takes x from t = 1, for data N(MEAN, STD²)."""
    a, s = (float(level) for level in path.levels(torch.ones((), dtype=torch.float64)))
    return MEAN + STD / math.sqrt(a**2 * STD**2 + s**2) * (x - a * MEAN)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_samplers_converge_with_their_order(name, order):
    path, x = PATHS["flow"], noise(64)  # not on the cosine path: its sigma rises like the root of t at clean data
    errors = [
        float((SAMPLERS[name](gaussian(path), path, x, steps, None) - exact_end(path, x)).abs().mean())
        for steps in (256, 1024)
    ]
    assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_second_order_samplers_need_fewer_steps(path):
    x = noise(64)
    error = {
        name: float((sampler(gaussian(path), path, x, 32, None) - exact_end(path, x)).abs().mean())
        for name, sampler in SAMPLERS.items()
        if name != "ddpm"
    }
    assert max(error["heun"], error["dpmpp_2m"]) < error["ddim"] / 5


def test_ddim_is_eulers_method_on_a_flow():
    path, x = PATHS["flow"], noise(8)
    predict, times = gaussian(path), path.times(5)
    expected = x
    for now, later in zip(times, times[1:], strict=False):
        expected = expected + (later - now) * predict(expected, now.expand(8))
    torch.testing.assert_close(ddim(predict, path, x, 5), expected)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_the_mean_that_the_network_predicts(name):
    path = PATHS["flow"]
    drawn = SAMPLERS[name](gaussian(path), path, noise(6), 1, torch.Generator())
    torch.testing.assert_close(drawn, torch.full_like(drawn, MEAN))


def test_only_ancestral_sampling_needs_randomness_of_its_own():
    path, x = PATHS["ddpm"], noise(4)
    for name, sampler in SAMPLERS.items():
        runs = [sampler(gaussian(path), path, x, 8, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        assert torch.equal(runs[0], runs[1])
        assert torch.equal(runs[0], runs[2]) == (name != "ddpm")


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

    def encode_condition(self, pooled, tokens, grid, xray, affine, drop):
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
XRAY = XrayInput(torch.rand(1, 8, 8), torch.rand(3, 8, 8), torch.eye(3)[:2])


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
