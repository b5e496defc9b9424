"""Samplers against distributions whose exact denoiser is known."""

import math

import pytest
import torch

from ddpm.diffusion import PREDICTIONS, CosineDDPM, RectifiedFlow
from ddpm.samplers import SAMPLERS, ancestral, ddim

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
@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"mean"}))
def test_every_sampler_draws_the_distribution(name, path):
    n = 20_000
    start = noise(n)
    start = (start - start.mean()) / start.std()  # leaves no sampling error to those that draw nothing more
    drawn = SAMPLERS[name](gaussian(path), path, start, 512, torch.Generator().manual_seed(1))
    random = name == "ddpm"
    sampling_error = STD / math.sqrt(n) if random else 0
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=4 * sampling_error + 2e-3)
    # The posterior's noise is that of known clean data (Ho et al. 2020, section 3.2): a little too small for others.
    assert float(drawn.std()) == pytest.approx(STD, rel=4 / math.sqrt(2 * n) if random else 5e-3)


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


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("steps", [3, 10, 64])
def test_strided_ancestral_steps_draw_the_posterior_between_sampled_times(steps, path):
    clean, n = 2.0, 20_000
    exact, given = gaussian(path, mean=clean, std=0.0), []

    def predict(x, t):
        given.append((x, *(float(level) for level in path.levels(t[:1]))))
        return exact(x, t)

    ancestral(predict, path, noise(n), steps, torch.Generator().manual_seed(1))
    for (x, a, s), (x_next, a_next, s_next) in zip(given, given[1:], strict=False):
        # The forward path as a chain, x = (a / a_next) x_next + new noise, so x_next given x is a conditional Gaussian.
        covariance, variance, variance_next = (a / a_next) * s_next**2, s**2, s_next**2
        mean = a_next * clean + covariance / variance * (x - a * clean)
        fresh = x_next - mean
        std = math.sqrt(variance_next - covariance**2 / variance)
        assert float(fresh.std()) == pytest.approx(std, rel=4 / math.sqrt(2 * n))
        assert float(fresh.mean()) == pytest.approx(0, abs=4 * std / math.sqrt(n))
        correlation = torch.corrcoef(torch.stack([fresh.flatten(), x.flatten()]))[0, 1]
        assert abs(float(correlation)) < 4 / math.sqrt(n)


def test_ancestral_steps_of_one_are_those_of_the_paper():
    path = CosineDDPM(20, "noise", x0_limit=1e9)
    alpha_bar = path.alpha_bar
    given = []

    def predict(x, t):
        given.append((x.clone(), round(float(t[0]) * 20)))
        return torch.zeros_like(x)

    ancestral(predict, path, noise(50_000), 19, torch.Generator().manual_seed(1))
    for (x, step), (x_next, _) in zip(given[5:], given[6:], strict=False):
        beta = 1 - alpha_bar[step] / alpha_bar[step - 1]
        posterior = math.sqrt((1 - alpha_bar[step - 1]) / (1 - alpha_bar[step]) * beta)  # Ho et al. 2020, eq. 7
        mean = x / (1 - beta).sqrt()  # eq. 11 for a prediction of no noise
        assert float((x_next - mean).std()) == pytest.approx(posterior, rel=0.03)


@pytest.mark.parametrize("path", [CosineDDPM(1000, "noise"), RectifiedFlow(prediction="noise")], ids=PATHS.keys())
@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m"])
def test_noise_that_is_predicted_nearly_right_draws_nearly_what_it_should(name, path):
    """At t = 1 its error is thousands of times as large in x0: what is drawn from there has twice the spread."""
    exact, wrong = gaussian(path), 0.03 * noise(4000, seed=2)
    drawn = SAMPLERS[name](lambda x, t: exact(x, t) + wrong.to(x), path, noise(4000), 8)
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.1)
    assert float(drawn.std()) == pytest.approx(STD, rel=0.25)


def exact_end(path, x):
    """Where the probability flow takes x from t = 1, for data N(MEAN, STD²)."""
    a, s = (float(level) for level in path.levels(torch.ones((), dtype=torch.float64)))
    return MEAN + STD / math.sqrt(a**2 * STD**2 + s**2) * (x - a * MEAN)


ORDERS = [("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)]  # as published


class Between:
    """Times from 3/4 to 1/4, away from pure noise and clean data, where log-SNR is infinite."""

    def times(self, steps):
        return torch.linspace(0.75, 0.25, steps + 1, dtype=torch.float64)


class FlowBetween(Between, RectifiedFlow): ...


class CosineBetween(Between, CosineDDPM): ...


@pytest.mark.parametrize("path", [FlowBetween(), CosineBetween(1024)], ids=PATHS.keys())
@pytest.mark.parametrize(("name", "order"), ORDERS)
def test_errors_fall_with_the_samplers_order(name, order, path):
    x, (a, s) = noise(64), path.levels(path.times(1))
    spread = (a**2 * STD**2 + s**2).sqrt()  # along the probability flow a Gaussian only moves and scales
    exact = a[1] * MEAN + (x - a[0] * MEAN) * spread[1] / spread[0]
    counts = [32, 64, 128, 256]
    errors = [(SAMPLERS[name](gaussian(path), path, x, n, None) - exact).abs().mean() for n in counts]
    log_n, log_error = torch.tensor(counts).log(), torch.stack(errors).log().float()
    slope = torch.linalg.lstsq(torch.stack([log_n, torch.ones(len(counts))], 1), log_error[:, None]).solution[0]
    assert float(slope) == pytest.approx(-order, abs=0.06)


@pytest.mark.parametrize(("name", "order"), ORDERS)
def test_from_pure_noise_to_clean_data_little_of_the_order_is_lost(name, order):
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
