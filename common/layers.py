"""What layers of several networks are made of."""

import torch
from torch import Tensor, nn

EPSILON = 1e-5


def inverse_rms(x: Tensor, dim: int, eps: float = EPSILON) -> Tensor:
    """1 / root mean square of x over `dim` (kept, size 1), computed in at least float32, in x's dtype."""
    wide = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=wide)
    return (norm.square() / x.shape[dim] + eps).rsqrt().to(x.dtype)


class RMSNorm(nn.Module):
    """Scales every channel vector to unit root mean square (Zhang & Sennrich 2019), then by a learned gain per channel.

    `torch.nn.RMSNorm` for channels that `axes` others follow: 0 in rows (B, N, C), 2 in images (B, C, h, w), 3 in
    volumes. Statistics never cross places, so the result at one does not depend on the window it is computed in.
    """

    def __init__(self, channels: int, axes: int, eps: float = EPSILON) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, *[1] * axes))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype."""
        return x * inverse_rms(x, -self.gain.ndim, self.eps) * self.gain.to(x.dtype)


def zero_init(module: nn.Module) -> nn.Module:
    """The same module with all parameters 0, so that a residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def use_channels_last(network: nn.Module) -> None:
    """Lays out the kernels of all 3D convolutions channels last: they then keep their activations so, too."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
