"""Noise levels, prediction targets and keyed randomness."""

import math

import pytest
import torch

from ddpm.diffusion import CosineDDPM, RectifiedFlow, draw_like

PATHS = {
    "noise": CosineDDPM(1000, "noise"),
    "x0": CosineDDPM(1000, "x0"),
    "v": CosineDDPM(1000, "v"),
    "velocity": RectifiedFlow(),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@every_path
def test_the_prediction_tells_clean_data_and_noise(path):
    x0, noise = torch.randn(2, 6, 3, 2, 2, 2, dtype=torch.float64)
    t = torch.tensor([0.02, 0.1, 0.5, 0.8, 0.95, 0.99], dtype=torch.float64)
    found_x0, found_noise = path.split(path.add_noise(x0, noise, t), path.target(x0, noise, t), t)
    torch.testing.assert_close(found_x0, x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_noise, noise, rtol=1e-6, atol=1e-6)


@every_path
def test_noise_rises_from_clean_data_to_pure_noise(path):
    alpha, sigma = path.levels(path.times(100))
    assert (alpha.diff() > 0).all()  # sampling times fall
    assert (sigma.diff() < 0).all()
    assert (float(alpha[-1]), float(sigma[-1])) == pytest.approx((1, 0))
    nearly = path.prediction == "noise"  # which does not tell x0 where it is all there is
    assert float(alpha[0]) < (0.1 if nearly else 1e-2)
    assert float(sigma[0]) == pytest.approx(1, abs=5e-3 if nearly else 1e-4)


def test_noisy_latents_have_the_levels_standard_deviation():
    path = PATHS["v"]
    x0, noise = torch.full((4, 200_000), 2.0), torch.randn(4, 200_000)
    t = torch.tensor([0.1, 0.4, 0.7, 1.0])
    noisy = path.add_noise(x0, noise, t)
    alpha, sigma = (level.float() for level in path.levels(t))
    torch.testing.assert_close(noisy.mean(1), 2 * alpha, atol=0.01, rtol=0)
    torch.testing.assert_close(noisy.std(1), sigma, atol=0.01, rtol=0)


def test_the_cosine_path_keeps_variance_and_follows_its_formula():
    path = PATHS["v"]
    t = torch.linspace(0, 0.99, 100, dtype=torch.float64)
    t = (t * 1000).round() / 1000
    alpha, sigma = path.levels(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(100, dtype=torch.float64))
    f = [math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (0, *t.tolist())]
    torch.testing.assert_close(alpha**2, torch.tensor(f[1:], dtype=torch.float64) / f[0], atol=1e-6, rtol=1e-4)


def test_ddpm_trains_every_step_alike_and_never_clean_data():
    path = CosineDDPM(8)
    steps = (path.training_time((torch.arange(800) + 0.5) / 800) * 8).round().long()
    assert torch.bincount(steps, minlength=9).tolist() == [0] + [100] * 8
    assert float(path.training_time(torch.tensor(1.0))) == 1


def test_a_training_shift_trains_more_at_high_noise_and_draws_as_before():
    plain, path = CosineDDPM(1000), CosineDDPM(1000, training_shift=3)
    t = path.training_time((torch.arange(10_000) + 0.5) / 10_000)
    assert (float(t.min()), float(t.max())) == pytest.approx((0.001, 1))
    for quarter, share in ((0.25, 0.1), (0.5, 0.25), (0.75, 0.5)):  # t' = 3 t / (1 + 2 t), and back t' / (3 - 2 t')
        assert float((t <= quarter).double().mean()) == pytest.approx(share, abs=2e-3)
    assert torch.equal(path.times(8), plain.times(8))
    torch.testing.assert_close(path.levels(t), plain.levels(t))


def test_flow_trains_logit_normal_times():
    u = (torch.arange(10_000) + 0.5) / 10_000
    t = RectifiedFlow(time_std=0.7).training_time(u)
    logit = torch.logit(t.double())
    assert float(logit.mean()) == pytest.approx(0, abs=1e-3)
    assert float(logit.std()) == pytest.approx(0.7, abs=5e-3)
    torch.testing.assert_close(RectifiedFlow(time_std=None).training_time(u[1:-1]), u[1:-1])


def test_a_shift_spends_more_steps_at_high_noise():
    plain, shifted = RectifiedFlow().times(10), RectifiedFlow(shift=3).times(10)
    assert (shifted[1:-1] > plain[1:-1]).all()
    assert (float(shifted[0]), float(shifted[-1])) == (1, 0)
    assert float(shifted[5]) == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))


@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
def test_sampling_times_of_ddpm_are_its_steps(steps):
    times = CosineDDPM(1000).times(steps)
    assert len(times) == steps + 1
    assert (times.diff() < 0).all()
    assert (float(times[0]), float(times[-1])) == (1, 0)
    torch.testing.assert_close((times * 1000).round() / 1000, times)


@pytest.mark.parametrize(("prediction", "weight"), [("noise", 5 / 16), ("x0", 5.0), ("v", 5 / 17)])
def test_min_snr_weights(prediction, weight):
    path = CosineDDPM(1000, prediction, snr_limit=5)
    alpha, sigma = path.levels(torch.arange(1, 1001) / 1000)
    near = int(((alpha / sigma) ** 2 - 16).abs().argmin()) + 1  # a time with a signal-to-noise ratio of 16
    assert float(path.loss_weight(torch.tensor([near / 1000]))) == pytest.approx(weight, rel=0.02)
    assert float(CosineDDPM(1000, prediction).loss_weight(torch.tensor([0.3]))) == 1


def test_clean_data_stay_bounded_where_the_prediction_is_wrong():
    path = CosineDDPM(1000, "noise", x0_limit=3)
    x0, _ = path.split(torch.full((1, 4), 50.0), torch.zeros(1, 4), torch.tensor([0.999]))
    assert float(x0.abs().max()) == 3


def test_a_key_draws_the_same_in_any_batch_and_order():
    x0, keys = torch.zeros(4, 2, 3, 3, 3), torch.tensor([11, 2**32 - 1, 5, 7])
    whole = draw_like(x0, keys)
    turned = draw_like(x0, keys.flip(0))
    for a, b in zip(whole, turned, strict=True):
        assert torch.equal(a, b.flip(0))
    for i in range(4):
        for a, b in zip(whole, draw_like(x0[:1], keys[i : i + 1]), strict=True):
            assert torch.equal(a[i : i + 1], b)


def test_different_keys_draw_different_times_and_noise():
    x0, keys = torch.zeros(500, 1, 4, 4, 4), torch.arange(500)
    u, drop, noise = draw_like(x0, keys)
    assert len(set(u.tolist())) > 490
    assert len(set(noise[:, 0, 0, 0, 0].tolist())) > 490
    assert float(u.mean()) == pytest.approx(0.5, abs=0.05)
    assert (float(noise.mean()), float(noise.std())) == pytest.approx((0, 1), abs=0.02)
    assert abs(float(torch.corrcoef(torch.stack([u, drop]))[0, 1])) < 0.15


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CosineDDPM(0), "timesteps 0"),
        (lambda: CosineDDPM(10, training_shift=0), "training_shift > 0"),
        (lambda: CosineDDPM(10, "energy"), "'energy'"),
        (lambda: CosineDDPM(10, "velocity"), "rectified flow"),
        (lambda: CosineDDPM(10).times(11), "1 to 10"),
        (lambda: CosineDDPM(10).times(0), "got 0"),
        (lambda: RectifiedFlow(time_std=0), "time_std"),
        (lambda: RectifiedFlow(shift=0), "shift"),
        (lambda: RectifiedFlow().times(0), "got 0"),
    ],
)
def test_impossible_settings_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
