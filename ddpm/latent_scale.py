"""Latents with zero mean and unit variance per channel, as the noise levels assume."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


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
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        for z in latents:
            wide = z.double().transpose(0, 1).flatten(1)
            count += wide.shape[1]
            total, square = total + wide.sum(1), square + wide.square().sum(1)
        if count == 0:
            raise ValueError("no latents to measure mean and std of")
        mean = total / count
        self.mean.copy_(mean)
        self.std.copy_((square / count - mean**2).clamp(min=1e-12).sqrt())

    @staticmethod
    def _like(values: Tensor, z: Tensor) -> Tensor:
        return values.to(z.device).view(-1, *[1] * (z.ndim - 2))
