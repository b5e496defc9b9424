"""Latents with zero mean and a variance of at most 1 per channel, as the noise levels assume."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange
from torch import Tensor, nn

from common.moments import mean_and_variance


class LatentScale(nn.Module):
    """Mean and standard deviation (C,) of the training set's latents; saved with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("std", std.float().clone())

    @classmethod
    def unknown(cls, channels: int) -> LatentScale:
        """To be measured, or loaded from a checkpoint."""
        return cls(torch.zeros(channels), torch.zeros(channels))

    @property
    def is_known(self) -> bool:
        return bool((self.std > 0).all())

    def normalize(self, z: Tensor) -> Tensor:
        """Latents (B, C, d, h, w) of the codec -> of the diffusion."""
        return (z - self._like(self.mean, z)) / self._like(self.std, z)

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return x * self._like(self.std, x) + self._like(self.mean, x)

    @torch.no_grad()
    def measure(self, latents: Iterable[Tensor]) -> None:
        """Set mean and std from batches (B, C, d, h, w)."""
        mean, variance = mean_and_variance(rearrange(z, "b c ... -> c (b ...)") for z in latents)
        self.mean.copy_(mean)
        self.std.copy_(variance.clamp_min(1e-12).sqrt())

    @staticmethod
    def _like(values: Tensor, z: Tensor) -> Tensor:
        return values.to(z.device).view(-1, *[1] * (z.ndim - 2))
