"""Noise levels, what the network predicts, and in terms of what it errs: DDPM and rectified flow behind one interface.

Both are Gaussian paths x_t = alpha(t) x0 + sigma(t) noise for t in [0, 1], from data at 0 to noise at 1. Every
prediction target is a fixed combination p x0 + q noise, so x0 and noise follow from it by a 2×2 linear system.
A regression stands beside them: no noise, and the network tells x0 from its conditions alone.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.keyed import KeyedRandom

Coefficients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# (alpha, sigma) -> (p, q). v: Salimans & Ho 2022, eq. 10; velocity: Liu et al. 2022, eq. 1, with time reversed.
PREDICTIONS: dict[str, Coefficients] = {
    "noise": lambda a, s: (torch.zeros_like(a), torch.ones_like(s)),
    "x0": lambda a, s: (torch.ones_like(a), torch.zeros_like(s)),
    "v": lambda a, s: (-s, a),
    "velocity": lambda a, s: (-torch.ones_like(a), torch.ones_like(s)),
}

_FIRST_BY_NOISE = 0.95  # signal / noise: 1/13 by the cosine, 1/19 by the flow


class Diffusion(nn.Module, ABC):
    """A Gaussian path and the quantity that the network predicts on it.

    Args:
        prediction: a name in `PREDICTIONS`.
        x0_limit: bound on |x0| of latents with unit variance.
        snr_limit: weigh the loss by min(SNR, limit) / SNR in terms of noise (Hang et al. 2023); None: no weights.
    """

    def __init__(self, prediction: str, x0_limit: float = 12.0, snr_limit: float | None = None) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise UserError(f"prediction must be one of {sorted(PREDICTIONS)}, got {prediction!r}")
        self.prediction, self.x0_limit, self.snr_limit = prediction, x0_limit, snr_limit

    @abstractmethod
    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at times t in [0, 1], shaped as t."""

    @abstractmethod
    def training_time(self, u: Tensor) -> Tensor:
        """Times to train at, from uniform numbers u in [0, 1)."""

    def noise_times(self, t: Tensor) -> Tensor:
        """The times, of t (B,), whose noise makes what is predicted at t uncertain; 0: none does."""
        return t

    @property
    def first_time(self) -> float:
        """Where drawing begins: where hardly any signal is left, noise that was predicted does not tell x0."""
        return _FIRST_BY_NOISE if self.prediction == "noise" else 1.0

    def times(self, steps: int) -> Tensor:
        """`steps` + 1 sampling times, falling from `first_time` to 0."""
        return torch.linspace(self.first_time, 0, steps + 1, dtype=torch.float64)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (B, ...) for clean x0, unit noise and times t (B,)."""
        a, s = self._levels_like(x0, t)
        return a * x0 + s * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict at times t (B,)."""
        a, s = self._levels_like(x0, t)
        p, q = PREDICTIONS[self.prediction](a, s)
        return p * x0 + q * noise

    def split(self, x: Tensor, predicted: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x0 and noise that the prediction at x_t stands for."""
        a, s = self._levels_like(x, t)
        p, q = PREDICTIONS[self.prediction](a, s)
        x0 = ((q * x - s * predicted) / (a * q - s * p)).clamp(-self.x0_limit, self.x0_limit)
        return x0, (x - a * x0) / s

    def loss_weight(self, t: Tensor) -> Tensor:
        """Weights (B,) of the squared error of the prediction: min-SNR-γ (Hang et al. 2023, §3.4)."""
        if self.snr_limit is None:
            return torch.ones_like(t)
        a, s = self.levels(t)
        p, q = PREDICTIONS[self.prediction](a, s)
        # An error e in the prediction is an error s/(aq - sp) e in x0.
        return (a / s).square().clamp(max=self.snr_limit) * (s / (a * q - s * p)) ** 2

    def _levels_like(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s = self.levels(t)
        view = (-1, *[1] * (x.ndim - 1))
        return a.view(view).to(x.dtype), s.view(view).to(x.dtype)


class CosineDDPM(Diffusion):
    """Variance-preserving path in T steps with the cosine schedule (Nichol & Dhariwal 2021, eq. 17).

    Time t stands for step round(t T); step 0 is clean data.

    Args:
        training_shift: r in t' = r t / (1 + (r - 1) t) of the training times: above 1 more of them are at high noise,
            where the X-ray decides what is drawn (the shift of Esser et al. 2024, eq. 23, in training alone).
    """

    alpha_bar: Tensor  # (T + 1,), from 1 to ~0

    def __init__(
        self,
        num_steps: int,
        prediction: str = "v",
        x0_limit: float = 12.0,
        snr_limit: float | None = None,
        training_shift: float = 1.0,
    ) -> None:
        super().__init__(prediction, x0_limit, snr_limit)
        if training_shift <= 0:
            raise UserError(f"need training_shift > 0, got {training_shift}")
        if not 1 <= num_steps <= 1_000_000:
            raise UserError(f"need 1 to 1,000,000 diffusion steps, got timesteps {num_steps}")
        if prediction == "velocity":
            raise UserError("prediction velocity belongs to rectified flow; DDPM takes noise, x0 or v")
        self.num_steps, self.training_shift = num_steps, training_shift
        grid = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
        f = torch.cos((grid + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
        alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        step = (t * self.num_steps).round().long().clamp(0, self.num_steps)
        alpha_bar = self.alpha_bar.to(t.device)[step]  # a sampler's latents need not live where the network does
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def training_time(self, u: Tensor) -> Tensor:
        u = shifted(u, self.training_shift)
        return ((u * self.num_steps).floor() + 1).clamp(max=self.num_steps) / self.num_steps

    def times(self, steps: int) -> Tensor:
        most = max(round(self.first_time * self.num_steps), 1)
        if not 1 <= steps <= most:
            raise UserError(f"steps must be 1 to {most} (model.timesteps={self.num_steps}), got {steps}")
        return (super().times(steps) * self.num_steps).round() / self.num_steps


class RectifiedFlow(Diffusion):
    """Straight path (Liu et al. 2022) with logit-normal training times (Esser et al. 2024, eq. 19).

    Args:
        time_std: spread of the logit of the training times; None trains at uniform times.
        shift: r in t' = r t / (1 + (r - 1) t): more steps at high noise for larger latents (Esser et al., eq. 23).
    """

    def __init__(
        self,
        time_std: float | None = 1.0,
        shift: float = 1.0,
        x0_limit: float = 12.0,
        prediction: str = "velocity",
    ) -> None:
        super().__init__(prediction, x0_limit)
        if shift <= 0 or (time_std is not None and time_std <= 0):
            raise UserError(f"need shift > 0 and time_std > 0 or null, got {shift} and {time_std}")
        self.time_std, self.shift = time_std, shift

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def training_time(self, u: Tensor) -> Tensor:
        u = u.clamp(1e-4, 1 - 1e-4)
        t = u if self.time_std is None else torch.sigmoid(self.time_std * torch.special.ndtri(u))
        return shifted(t, self.shift)

    def times(self, steps: int) -> Tensor:
        if steps < 1:
            raise UserError(f"need at least one sampling step, got {steps}")
        return shifted(super().times(steps), self.shift)


class Regression(Diffusion):
    """No noise at all: the network is given zeros in place of a noisy latent, and gives the expected x0 at once."""

    def __init__(self) -> None:
        super().__init__("x0")

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return (t <= 0).to(t), torch.zeros_like(t)

    def training_time(self, u: Tensor) -> Tensor:
        return torch.ones_like(u)

    def noise_times(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def split(self, x: Tensor, predicted: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return predicted, torch.zeros_like(predicted)


def shifted(t: Tensor, ratio: float) -> Tensor:
    """Times in [0, 1] moved towards 1, noise, by a ratio above 1 (Esser et al. 2024, eq. 23)."""
    return ratio * t / (1 + (ratio - 1) * t)


def draw_like(x0: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two uniform numbers (B,), for time and for dropping the condition, and unit noise (B, ...).

    One random stream per key: a sample draws the same on any rank, in any batch, before and after a restart.
    """
    random = KeyedRandom(keys, x0.device)
    first, second = random.uniform(2).unbind(1)
    return first, second, random.normal(*x0.shape[1:])
