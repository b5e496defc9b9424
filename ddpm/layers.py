"""Building blocks of the 3D UNet: per-voxel normalisation, residual blocks, changes of resolution."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.functional import pad, silu

from common.layers import inverse_rms, zero_init


class _NormScaleShiftSilu(torch.autograd.Function):
    """silu(x / rms(x) * scale + shift), keeping only x for the backward pass.

    Autograd would keep three tensors of x's size; recomputing them is a few passes over memory, next to
    nothing beside a 3x3x3 convolution.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        inverse = inverse_rms(x, 1)
        ctx.save_for_backward(x, inverse, scale, shift)
        return silu(torch.addcmul(shift, x * inverse, scale), inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, inverse, scale, shift = ctx.saved_tensors  # type: ignore[attr-defined]
        normed = x * inverse
        before_silu = torch.addcmul(shift, normed, scale)
        grad = torch.ops.aten.silu_backward(grad, before_silu)
        grad_shift = grad.sum_to_size(shift.shape)
        grad_scale = (grad * normed).sum_to_size(scale.shape)
        grad_normed = grad * scale
        along = (grad_normed * normed).mean(1, keepdim=True)
        return torch.addcmul(grad_normed, normed, along, value=-1).mul_(inverse), grad_scale, grad_shift


def norm_scale_shift_silu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalise each voxel of x (B, C, d, h, w) over its channels, scale and shift by (B or 1, C), SiLU."""
    scale, shift = (v.to(x.dtype)[:, :, None, None, None] for v in (scale, shift))
    return _NormScaleShiftSilu.apply(x, scale, shift)


class NormSilu(nn.Module):
    """Per-voxel RMS normalisation over channels with learned gain and bias, then SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels))
        self.bias = nn.Parameter(torch.zeros(1, channels))

    def forward(self, x: Tensor) -> Tensor:
        return norm_scale_shift_silu(x, self.gain, self.bias)


class ResBlock(nn.Module):
    """x + conv(silu(scale, shift of norm(conv(silu(norm(x)))))), which starts as the identity.

    With a skip, a 1x1x1 convolution of what the mirror image of this block was given is added.
    """

    def __init__(self, channels: int, embedding_dim: int, skip: bool = False) -> None:
        super().__init__()
        self.norm1 = NormSilu(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.scale_shift = nn.Linear(embedding_dim, 2 * channels)
        self.conv2 = zero_init(nn.Conv3d(channels, channels, 3, padding=1))
        self.from_skip = nn.Conv3d(channels, channels, 1) if skip else None

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        """x and, for a block with a skip, `skip` (B, C, d, h, w), and embedding (B, E) -> (B, C, d, h, w)."""
        scale, shift = self.scale_shift(embedding).chunk(2, 1)
        h = self.conv1(self.norm1(x))
        x = x + self.conv2(norm_scale_shift_silu(h, 1 + scale, shift))
        return x if self.from_skip is None else x + self.from_skip(skip)


class AlignedConv3d(nn.Conv3d):
    """A convolution of any number of channels which, on a GPU, are filled up with zeros to a multiple of `ALIGNED`.

    Tensor cores take half-precision numbers eight at a time; where a kernel would not be chosen for the odd rest, or
    fill it up itself at every call, this costs a copy and no other result.
    """

    ALIGNED = 8

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        weight, missing = self.weight, -self.in_channels % self.ALIGNED
        if input.is_cuda and missing:
            input, weight = (pad(tensor, (0, 0) * 3 + (0, missing)) for tensor in (input, weight))
        return self._conv_forward(input, weight, self.bias)


class UpMerge(nn.Module):
    """Bring coarse features to the next finer level and add the encoder's features there.

    Equals nearest up-sampling, concatenation and a 1x1x1 convolution, but works on the coarse grid and holds neither
    the concatenation nor the up-sampled features (which autocast would make float32).
    """

    def __init__(self, coarse_channels: int, channels: int) -> None:
        super().__init__()
        self.from_coarse = nn.Conv3d(coarse_channels, channels, 1)
        self.from_skip = nn.Conv3d(channels, channels, 1)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """coarse (B, C', d, h, w) and skip (B, C, 2d, 2h, 2w) -> (B, C, 2d, 2h, 2w)."""
        coarse, fine = self.from_coarse(coarse), self.from_skip(skip)
        cells = rearrange(fine, "b c (d i) (h j) (w k) -> b c d i h j w k", i=2, j=2, k=2)
        return (cells + rearrange(coarse, "b c d h w -> b c d 1 h 1 w 1")).reshape(fine.shape)
