"""Building blocks of the 3D autoencoder. Each looks a few voxels far at most: no attention."""

from __future__ import annotations

from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn.functional import pad

from common.layers import RMSNorm

NORM_EPSILON = 1e-6


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResBlock(Residual):
    """x + conv1(silu(conv3(norm(x)))): one 3x3x3 convolution per block keeps the receptive field small."""

    def __init__(self, channels: int) -> None:
        body = nn.Sequential(
            RMSNorm(channels, axes=3, eps=NORM_EPSILON),
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv3d(channels, channels, 1),
        )
        super().__init__(body)


class TransposedConv3d(nn.Module):
    """Doubles each axis by a transposed 4x4x4 convolution with stride 2; beyond its faces the input repeats itself."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(in_channels, out_channels, 4, stride=2, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad(x, [1] * 6, mode="replicate"))


class _ByFactor(nn.Module):
    """Changes the number of voxels by a whole factor along each axis."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.sides = {"i": factor, "j": factor, "k": factor}


class SpaceToChannels(_ByFactor):
    """Every block of `factor`³ voxels becomes one voxel's channels."""

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(x, "b c (d i) (h j) (w k) -> b (c i j k) d h w", **self.sides)


class ChannelsToSpace(_ByFactor):
    """Inverse of `SpaceToChannels`."""

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(x, "b (c i j k) d h w -> b c (d i) (h j) (w k)", **self.sides)


class RepeatVoxels(_ByFactor):
    """Each voxel `factor` times along each axis: nearest up-sampling.

    torch's own becomes float32 under a GPU's autocast, at the decoder's largest tensors.
    """

    def forward(self, x: Tensor) -> Tensor:
        return repeat(x, "b c d h w -> b c (d i) (h j) (w k)", **self.sides)


def crop(x: Tensor, margin: int) -> Tensor:
    """Cuts `margin` voxels off both ends of the last three axes."""
    if margin == 0:
        return x
    return x[..., margin:-margin, margin:-margin, margin:-margin]
