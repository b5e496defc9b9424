"""Latents with noise, and what the network should answer to them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm.diffusion import Diffusion


@dataclass(frozen=True)
class Noised:
    """What a batch of B patches is trained with.

    Attributes:
        inputs: of `Prediction`, first x and the times (B,).
        x0, noise: clean latents and the noise in them, (B, C, d, h, w).
        mean: with `residual`, the expected latents, shaped as x0; zeros for those
            asked: (B,) bool, whose answer is to be x0 itself.
        std: (C, 1, 1, 1), that of x0 - mean, which the diffusion draws in terms of it.
    """

    inputs: list[Tensor]
    x0: Tensor
    noise: Tensor
    mean: Tensor | None = None
    asked: Tensor | None = None
    std: Tensor | float = 1.0

    @property
    def t(self) -> Tensor:
        return self.inputs[1]

    def target(self, diffusion: Diffusion) -> Tensor:
        """What the network should answer."""
        if self.mean is None or self.asked is None:
            return diffusion.target(self.x0, self.noise, self.t)
        drawn = diffusion.target((self.x0 - self.mean) / self.std, self.noise, self.t)
        return torch.where(like(drawn, self.asked), self.x0, drawn)

    def weight(self, diffusion: Diffusion) -> Tensor:
        """Of the squared errors, (B,)."""
        weight = diffusion.loss_weight(self.t)
        return weight if self.asked is None else weight.masked_fill(self.asked, 1)

    def x0_of(self, predicted: Tensor, diffusion: Diffusion) -> Tensor:
        """The clean latents that an answer stands for."""
        drawn = diffusion.split(self.inputs[0][:, : predicted.shape[1]], predicted, self.t)[0]
        if self.mean is None or self.asked is None:
            return drawn
        return torch.where(like(drawn, self.asked), predicted, self.mean + self.std * drawn)


def like(x: Tensor, values: Tensor) -> Tensor:
    """Values (B,) that broadcast over x (B, ...)."""
    return values.view(-1, *[1] * (x.ndim - 1))
