"""Latents with zero mean and a variance of at most 1 per channel, as the noise levels assume."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange
from torch import Tensor, nn

from common.moments import mean_and_variance


class LatentScale(nn.Module):
    """Mean and standard deviation (C,) of the training set's latents; saved with the weights.

    Args:
        floor: standard deviations count as no less than this share of the largest, so that channels that hold little of
            a CT weigh little: 0 makes all channels alike, 1 scales them by one number.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, floor: float = 0.0) -> None:
        super().__init__()
        self.floor = floor
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("std", self._raised(std.float()))

    @classmethod
    def unknown(cls, channels: int, floor: float = 0.0) -> LatentScale:
        """To be measured, or loaded from a checkpoint."""
        return cls(torch.zeros(channels), torch.zeros(channels), floor)

    @property
    def is_known(self) -> bool:
        return bool((self.std > 0).all())

    def normalize(self, z: Tensor, share: Tensor | float = 1.0) -> Tensor:
        """Latents (B, C, d, h, w) of the codec -> of the diffusion.

        Args:
            share: of what a value is the mean of, that which are latents, the rest being zeros before and after.
        """
        return (z - share * self._like(self.mean, z)) / self._like(self.std, z)

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return x * self._like(self.std, x) + self._like(self.mean, x)

    @torch.no_grad()
    def measure(self, latents: Iterable[Tensor]) -> None:
        """Set mean and std from batches (B, C, d, h, w)."""
        mean, variance = mean_and_variance(rearrange(z, "b c ... -> c (b ...)") for z in latents)
        self.mean.copy_(mean)
        self.std.copy_(self._raised(variance.clamp_min(1e-12).sqrt()))

    def _raised(self, std: Tensor) -> Tensor:
        return std.clamp_min(self.floor * float(std.max()))

    @staticmethod
    def _like(values: Tensor, z: Tensor) -> Tensor:
        return values.to(z.device).view(-1, *[1] * (z.ndim - 2))
