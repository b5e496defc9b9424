"""Stage 2's optional loss on what the predicted latents look like as CT."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.errors import UserError

_STREAM = 0x9E3779B9  # tells the crops' random stream from that of time and noise, which share the key
_FIRST_SLICE, _SLICE_STEP = 2, 5  # a step prime to the codec's 4 meets every place within a latent voxel


class PerceptualLoss(nn.Module):
    """Distance between decoded predicted and true latents, on slices of a small crop, at low noise only.

    Decoding is dear and means little at high noise, hence the crop, the limit and the pauses. At the guide's
    sizes and batch 2 a step of the UNet takes 850 GFLOP, forward and backward. Decoding 12³ latents takes 130
    forward and as much backward, so prediction and truth take 2 · 3 · 130 = 780; the ResNet-50 takes
    0.43 per slice, 2 · 3 · 30 · 0.43 = 77. Every 8th step: 107 on average, 13 % more.

    Args:
        network: frozen; (N, 1, n, n) predicted and true slices in about [-1, 1] -> scalar distance.
        weight: of the distance in the steps that have it.
        every: steps from one use to the next.
        crop: side of the decoded cube in latent voxels; smaller latents are taken whole.
        noise_limit: samples at this time or later count as a distance of 0; a regression's, without noise, all count.
    """

    def __init__(self, network: nn.Module, weight: float, every: int, crop: int, noise_limit: float) -> None:
        super().__init__()
        if not (weight > 0 and every >= 1 and crop >= 1 and 0 < noise_limit <= 1):
            raise UserError(
                "need a perceptual weight > 0, every >= 1, crop >= 1 and 0 < noise_limit <= 1,"
                f" got {weight}, {every}, {crop} and {noise_limit}"
            )
        self.network = network
        self.weight, self.every, self.crop, self.noise_limit = weight, every, crop, noise_limit

    def is_due(self, step: int) -> bool:
        """Whether the step, counted from 0, has this loss: the last one of every `every`."""
        return (step + 1) % self.every == 0

    def forward(
        self, decode: Callable[[Tensor], Tensor], predicted: Tensor, x0: Tensor, t: Tensor, keys: Tensor
    ) -> Tensor:
        """Mean distance over the batch, a scalar, not yet weighted.

        Args:
            decode: (B, C, n, n, n) -> CT (B, 1, m, m, m) in about [-1, 1], with a gradient.
            predicted, x0: (B, C, d, h, w), clean latents; only `predicted` gets a gradient.
            t: (B,) in [0, 1], the times of the predictions, as `Diffusion.noise_times` has them.
            keys: (B,), sample keys; they choose the crops.
        """
        low = (t < self.noise_limit).view(-1, *[1] * (x0.ndim - 1))
        # A selection, not a branch: beyond the limit the truth meets itself, which gives 0 and no gradient.
        predicted = torch.where(low, predicted, x0)
        corners = crop_corners(keys, (x0.shape[2], x0.shape[3], x0.shape[4]), self.crop)
        with torch.no_grad():
            real = slices(decode(cut(x0, corners, self.crop)))
        return self.network(slices(decode(cut(predicted, corners, self.crop))), real)


def crop_corners(keys: Tensor, shape: tuple[int, int, int], side: int) -> list[list[int]]:
    """First latent voxel (d, h, w) of each sample's crop, one random stream per key."""
    room = torch.tensor([n - min(side, *shape) + 1 for n in shape])
    streams = (torch.Generator().manual_seed(key ^ _STREAM) for key in keys.tolist())
    return [(torch.rand(3, generator=stream) * room).long().tolist() for stream in streams]


def cut(x: Tensor, corners: list[list[int]], side: int) -> Tensor:
    """(B, C, d, h, w) -> cubes (B, C, n, n, n) at the corners; n is `side` or the smallest axis."""
    n = min(side, *x.shape[2:])
    cubes = [s[:, d : d + n, h : h + n, w : w + n] for s, (d, h, w) in zip(x, corners, strict=True)]
    return torch.stack(cubes)


def slices(volumes: Tensor) -> Tensor:
    """Every fifth slice of cubes (B, 1, n, n, n) in each of the three planes -> (B·S, 1, n, n)."""
    planes = [volumes.movedim(axis, 1)[:, _FIRST_SLICE::_SLICE_STEP] for axis in (2, 3, 4)]
    return torch.cat(planes, 1).flatten(0, 1)
