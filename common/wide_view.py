"""What lies around a window of a latent: pooled, so that the window's own size shows a region four times as wide."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from common.geometry import Triple, overlap, slices, triple

POOL = 4  # latent voxels along each side of a cell


def wide_view(latent: Tensor, start: Triple, size: Triple) -> Tensor:
    """Means (..., C + 1, d, h, w) over cells of 4×4×4 voxels around a window, which lies in their middle.

    Beyond the latent lie zeros; the last channel is the share of each cell that lies within it.

    Args:
        latent: floats (..., C, D, H, W). start, size: (d, h, w) of the window, whose first voxel begins a cell.
    """
    first = triple([s - POOL * ((n - n // POOL) // 2) for s, n in zip(start, size, strict=True)])
    reach = triple([POOL * n for n in size])
    *lead, channels = latent.shape[:-3]
    box = latent.new_zeros(*lead, channels + 1, *reach)
    inside = overlap(first, reach, triple(latent.shape[-3:]))
    if inside is not None:
        corner, length, where = inside
        box[(..., slice(channels), *where)] = latent[(..., *slices(corner, length))]
        box[(..., channels, *where)] = 1
    return avg_pool3d(box, POOL)


def noise_in_view(noise: Tensor, share: Tensor, others: Tensor) -> Tensor:
    """The wide view (B, C, d, h, w) of unit noise in a whole latent, of which `noise` is what lies in the window.

    Args:
        noise, others: unit noise (B, C, d, h, w); `others` stands for that around the window.
        share: (B, 1, d, h, w), last channel of the latent's wide view.
    """
    size = triple(noise.shape[-3:])
    own = wide_view(noise, (0, 0, 0), size)
    rest = (share - own[:, -1:]).clamp_min(0)  # of a cell: its mean of n of 64 voxels has a variance of n / 64²
    return torch.addcmul(own[:, :-1], (rest / POOL**3).sqrt(), others)
