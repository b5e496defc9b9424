"""PatchGAN discriminators (Isola et al. 2017) over slices and over volumes, with the hinge loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, relu

_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_MAX_CHANNELS = 512


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of a grey image or volume.

    Instance normalisation keeps the verdict independent of the rest of the batch and of other ranks.

    Args:
        dims: 2 for slices (B, 1, H, W), 3 for volumes (B, 1, D, H, W).
        channels: of the first layer; they double per layer up to 512.
        num_layers: layers that halve the resolution.
    """

    def __init__(self, dims: int, channels: int = 64, num_layers: int = 3) -> None:
        super().__init__()
        if dims not in _CONVOLUTION:
            raise ValueError(f"dims must be 2 (slices) or 3 (volumes), got {dims}")
        conv, norm = _CONVOLUTION[dims], _NORM[dims]
        widths = [min(channels * 2**i, _MAX_CHANNELS) for i in range(num_layers + 1)]
        layers = [nn.Sequential(conv(1, widths[0], 4, stride=2, padding=2), nn.LeakyReLU(0.2))]
        for i, (before, width) in enumerate(zip(widths, widths[1:], strict=False)):
            stride = 1 if i == num_layers - 1 else 2
            layer = conv(before, width, 4, stride=stride, padding=2)
            layers.append(nn.Sequential(layer, norm(width, affine=True), nn.LeakyReLU(0.2)))
        layers.append(nn.Sequential(conv(widths[-1], 1, 4, padding=2)))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The features of every layer; the last entry holds the verdicts (high = real)."""
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features


@contextmanager
def without_gradients_of(network: nn.Module) -> Iterator[None]:
    """Gradients pass through the network but do not reach its parameters."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss on its verdicts (Lim & Ye 2017)."""
    return 0.5 * (relu(1 - real).mean() + relu(1 + fake).mean())


def feature_distance(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of the hidden features, averaged over layers (Wang et al. 2018)."""
    return torch.stack([l1_loss(f, r) for r, f in zip(real[:-1], fake[:-1], strict=True)]).mean()
