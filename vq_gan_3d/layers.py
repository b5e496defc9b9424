"""Building blocks of the 3D autoencoder. Each looks a few voxels far at most: no attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


class ChannelRMSNorm(nn.Module):
    """Scales the channel vector of every voxel to unit root mean square, then by a learned gain per channel.

    Statistics never cross voxels, so the result at a voxel does not depend on the tile it is computed in.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1, 1))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) -> same shape and dtype; the mean square is taken in float32 at least."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(length.square() / x.shape[1] + self.eps)
        return x * scale.to(x.dtype) * self.gain.to(x.dtype)


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
            ChannelRMSNorm(channels),
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


class SpaceToChannels(_ByFactor):
    """(B, C, f·D, f·H, f·W) -> (B, C·f³, D, H, W): every f³ block of voxels becomes one voxel's channels."""

    def forward(self, x: Tensor) -> Tensor:
        f = self.factor
        b, c, d, h, w = x.shape
        x = x.reshape(b, c, d // f, f, h // f, f, w // f, f)
        return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * f**3, d // f, h // f, w // f)


class RepeatVoxels(_ByFactor):
    """(B, C, d, h, w) with each voxel `factor` times along each axis: nearest up-sampling.

    torch's own becomes float32 under a GPU's autocast, at the decoder's largest tensors.
    """

    def forward(self, x: Tensor) -> Tensor:
        f = self.factor
        b, c, d, h, w = x.shape
        cells = x[:, :, :, None, :, None, :, None].expand(b, c, d, f, h, f, w, f)
        return cells.reshape(b, c, d * f, h * f, w * f)


class ChannelsToSpace(_ByFactor):
    """Inverse of `SpaceToChannels`: (B, C·f³, D, H, W) -> (B, C, f·D, f·H, f·W)."""

    def forward(self, x: Tensor) -> Tensor:
        f = self.factor
        b, c, d, h, w = x.shape
        x = x.reshape(b, c // f**3, f, f, f, d, h, w)
        return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // f**3, d * f, h * f, w * f)


def crop(x: Tensor, margin: int) -> Tensor:
    """Cuts `margin` voxels off both ends of the last three axes."""
    if margin == 0:
        return x
    return x[..., margin:-margin, margin:-margin, margin:-margin]


def use_channels_last(network: nn.Module) -> None:
    """Lays out the kernels of all 3D convolutions channels last: they then keep their activations so, too."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
