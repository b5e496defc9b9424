"""Group normalisation by statistics recorded once, so that a network that was trained with it works in tiles."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice

import torch
from einops import rearrange
from torch import Tensor, nn

from common.moments import mean_and_variance
from vq_gan_3d.layers import Residual, crop


class RecordedGroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) by stored means and variances instead of the input's own.

    Its own statistics would make a voxel's result depend on the tile it is computed in.

    Args:
        channels: divisible by `groups`.
    """

    mean: Tensor  # (groups,)
    variance: Tensor  # (groups,)

    def __init__(self, channels: int, groups: int, eps: float = 1e-6) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"groups must divide the channels, got {groups} groups and {channels} channels")
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps
        self.register_buffer("mean", torch.zeros(groups))
        self.register_buffer("variance", torch.ones(groups))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> same shape and dtype, computed in float32 at least."""
        width = len(self.weight) // len(self.mean)
        scale = self.weight * (self.variance + self.eps).rsqrt().repeat_interleave(width)
        shift = self.bias - self.mean.repeat_interleave(width) * scale
        view = (-1, 1, 1, 1)
        return torch.addcmul(shift.view(view), x, scale.view(view)).to(x.dtype)

    @torch.no_grad()
    def record(self, inputs: Iterable[Tensor]) -> None:
        """Takes mean and variance of each group over all voxels of all inputs (B, C, D, H, W)."""
        groups = len(self.mean)
        mean, variance = mean_and_variance(rearrange(x, "b (g c) ... -> g (b c ...)", g=groups) for x in inputs)
        self.mean.copy_(mean)
        self.variance.copy_(variance)


def recorded_norms(network: nn.Sequential) -> list[RecordedGroupNorm]:
    """In the order in which the network uses them."""
    return [layer for layer in network.modules() if isinstance(layer, RecordedGroupNorm)]


def norm_inputs(layers: Iterable[nn.Module], x: Tensor) -> Generator[Tensor, None, Tensor]:
    """Runs the layers one by one and hands out what each `RecordedGroupNorm` receives; returns the result."""
    for layer in layers:
        if isinstance(layer, RecordedGroupNorm):
            yield x
        if isinstance(layer, Residual):
            change = yield from norm_inputs(layer.body, x)
            x = x + change
        else:
            x = layer(x)
    return x


@torch.no_grad()
def record_statistics(
    network: nn.Sequential,
    boxes: Callable[[], Iterable[Tensor]],
    halo: int,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Records the statistics of every `RecordedGroupNorm`, one after the other.

    A norm's input depends on the statistics of those before it, so each takes a pass over the data of its own.
    With boxes that tile a volume the result is exactly that of group normalisation of the whole volume.

    Args:
        boxes: makes the network's inputs (B, C, d, h, w), anew for each pass.
        halo: their voxels on every side that are only context, at least the network's receptive field.
        progress: called after each norm.
    """

    def inner(number: int) -> Iterator[Tensor]:
        for box in boxes():
            x = next(islice(norm_inputs(network, box), number, None))
            yield crop(x, halo * x.shape[-1] // box.shape[-1])

    for number, norm in enumerate(recorded_norms(network)):
        norm.record(inner(number))
        progress()
