"""Validation losses told apart by how much noise there was."""

import torch
from torch import Tensor

from common.collectives import sum_over_ranks

LEVELS = 5  # equal parts of time, 0 clean and 1 noise


class LossByNoise:
    """Mean errors of the draws in each part of time."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, LEVELS, dtype=torch.float64, device=device)  # of errors, and of draws

    def add(self, errors: Tensor, t: Tensor) -> None:
        """Errors (B,) at times (B,)."""
        level = (t * LEVELS).ceil().long().clamp(1, LEVELS) - 1
        self._sums.index_add_(1, level, torch.stack([errors, torch.ones_like(errors)]).double())

    def means(self) -> dict[str, float]:
        """Over all ranks, by the ends of the part; parts without draws are left out."""
        errors, draws = sum_over_ranks(self._sums).tolist()
        ends = [f"{i / LEVELS:.1f}-{(i + 1) / LEVELS:.1f}" for i in range(LEVELS)]
        return {name: error / count for name, error, count in zip(ends, errors, draws, strict=True) if count}
