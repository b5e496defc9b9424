"""Randomness with a key: what a sample draws depends on its key alone, not on rank, batch, workers or restarts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class KeyedRandom:
    """One random stream per sample of a batch; draws advance all of them.

    Args:
        keys: integers (B,) in [0, 2**32), on the CPU (torch's CPU generator keeps the low 32 bits of a seed).
        device: where the draws are made and live.
    """

    def __init__(self, keys: Tensor, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._streams = [torch.Generator(self.device).manual_seed(key) for key in keys.tolist()]

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape), evenly from [0, 1)."""
        return self._draw(torch.rand, shape)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape), standard normal."""
        return self._draw(torch.randn, shape)

    def _draw(self, draw: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        return torch.stack([draw(shape, generator=stream, device=self.device) for stream in self._streams])
