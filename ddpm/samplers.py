"""From noise to data along a Gaussian path. Pure functions of the network's prediction.

`predict(x, t)` gets x (B, ...) and times t (B,) and returns what the diffusion's network predicts there.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm.diffusion import Diffusion

Predict = Callable[[Tensor, Tensor], Tensor]
Stream = torch.Generator | None
Sampler = Callable[[Predict, Diffusion, Tensor, int, Stream], Tensor]


def ddim(
    predict: Predict, diffusion: Diffusion, noise: Tensor, steps: int, generator: Stream = None, eta: float = 0.0
) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12). On a rectified flow, eta 0 is exactly Euler's method.

    Args:
        noise: (B, ...), unit variance.
        eta: 0 draws no further noise, 1 is ancestral DDPM sampling at any stride (eq. 16).
    """
    x = noise
    for t, _, (a, s), (a_next, s_next) in _walk(diffusion, noise, steps):
        x0, eps = diffusion.split(x, predict(x, t), t)
        # Std of x_next given x and x0, on any Gaussian path; where variance is kept it is that of eq. 16.
        fresh = eta * (s_next / s) * (s**2 - (a / a_next * s_next) ** 2).clamp(min=0).sqrt()
        x = a_next * x0 + (s_next**2 - fresh**2).clamp(min=0).sqrt() * eps
        if eta > 0:
            x = x + fresh * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    return x


def ancestral(predict: Predict, diffusion: Diffusion, noise: Tensor, steps: int, generator: Stream = None) -> Tensor:
    """DDPM's ancestral sampling (Ho et al. 2020, algorithm 2), at any stride."""
    return ddim(predict, diffusion, noise, steps, generator, eta=1.0)


def heun(predict: Predict, diffusion: Diffusion, noise: Tensor, steps: int, generator: Stream = None) -> Tensor:
    """Heun's second-order method in x/alpha over sigma/alpha (Karras et al. 2022, algorithm 1).

    Two evaluations per step, but one in the first (alpha is 0 at pure noise) and in the last.
    """
    x = noise
    for t, t_next, (a, s), (a_next, s_next) in _walk(diffusion, noise, steps):
        x0, eps = diffusion.split(x, predict(x, t), t)
        guess = a_next * x0 + s_next * eps
        if s_next == 0 or t.max() == 1:
            x = guess
            continue
        _, eps_next = diffusion.split(guess, predict(guess, t_next), t_next)
        change = (s_next / a_next - s / a) * (eps + eps_next) / 2
        x = a_next * (x / a + change)
    return x


def dpmpp_2m(predict: Predict, diffusion: Diffusion, noise: Tensor, steps: int, generator: Stream = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); first order in the first and last step."""
    x, x0_before, h_before = noise, None, None
    for t, _, (a, s), (a_next, s_next) in _walk(diffusion, noise, steps):
        x0, eps = diffusion.split(x, predict(x, t), t)
        # Log-SNR is -inf at pure noise and +inf at clean data: there the first-order step, which is DDIM's.
        h = (a_next / s_next).log() - (a / s).log() if s_next > 0 and a > 1e-4 else None
        if h is not None and h_before is not None and x0_before is not None:
            ratio = h_before / h
            mixed = x0 + (x0 - x0_before) / (2 * ratio)
            x = (s_next / s) * x - a_next * torch.expm1(-h) * mixed
        else:
            x = a_next * x0 + s_next * eps
        x0_before, h_before = x0, h
    return x


def expected(predict: Predict, diffusion: Diffusion, noise: Tensor, steps: int, generator: Stream = None) -> Tensor:
    """The expected x0, in one evaluation: no draw. At pure noise all that is known of x0 is the condition."""
    t = noise.new_ones(len(noise))
    x = diffusion.add_noise(torch.zeros_like(noise), noise, t)
    return diffusion.split(x, predict(x, t), t)[0]


MEAN = "mean"
SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "ddpm": ancestral,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    MEAN: expected,
}

Levels = tuple[Tensor, Tensor]


def _walk(diffusion: Diffusion, noise: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor, Levels, Levels]]:
    """Times (B,) at each step's start and end, and the levels there."""
    times = diffusion.times(steps).to(noise.device)
    a, s = (level.to(noise.dtype) for level in diffusion.levels(times))
    now = times.to(noise.dtype)[:, None].expand(-1, len(noise))
    for i in range(steps):
        yield now[i], now[i + 1], (a[i], s[i]), (a[i + 1], s[i + 1])
