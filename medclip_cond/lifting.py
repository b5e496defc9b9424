"""Trainable features of the X-ray, brought to the 3D places that project onto them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, grid_sample, pixel_unshuffle, silu

from common.errors import UserError
from common.layers import RMSNorm


class PyramidLevel(nn.Module):
    """A convolution that changes width (and halves the size when asked), then a residual one."""

    def __init__(self, in_channels: int, channels: int, halve: bool) -> None:
        super().__init__()
        # kernel 4 with padding 1 centres a pixel on the 2 x 2 it replaces; kernel 3 would shift it
        kernel, stride = (4, 2) if halve else (3, 1)
        self.enter = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=1)
        self.norm1 = RMSNorm(channels, axes=2)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = RMSNorm(channels, axes=2)

    def forward(self, x: Tensor) -> Tensor:
        x = silu(self.norm1(self.enter(x)))
        return silu(self.norm2(x + self.conv(x)))


def pixels_of(xray_camera: Tensor, positions: Tensor) -> Tensor:
    """Pixels (B, d, h, w, 2) as (column, row) of voxels of an axis-aligned grid.

    Args:
        xray_camera: (B or 1, 3, 4). positions: (B, 3, d, h, w), z, y, x in mm; each may vary along its own axis alone.
    """
    m = xray_camera[..., None, None, None]  # by element: autocast would round a matrix product to bfloat16, pixels off
    z, y, x = positions[:, 0, :, :1, :1], positions[:, 1, :1, :, :1], positions[:, 2, :1, :1, :]
    column, row, weight = (m[:, i, 0] * x + m[:, i, 2] * z + m[:, i, 3] + m[:, i, 1] * y for i in range(3))
    return torch.stack([column / weight, row / weight], -1)


def sample_plane(maps: Tensor, pixels: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Features (B, C, n, m) of maps (B, C, h, w) that tile the image, at its pixels (B, n, m, 2).

    Bilinear between the centres of the map's cells, 0 outside the image. Pixels are (column, row), centres at
    integers.
    """
    height, width = image_size
    x, y = ((2 * place + 1) / n - 1 for place, n in zip(pixels.unbind(-1), (width, height), strict=True))
    grid = torch.stack([x, y], -1)  # -1 and 1 are the outer edges of the image, and of every map that tiles it
    return grid_sample(maps.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class XrayLifter(nn.Module):
    """A small pyramid over the whole X-ray whose features are read where each voxel projects to.

    Args:
        channels: of the lifted features.
        widths: channels of the pyramid's levels, fine to coarse.
        first_stride: pixels of the image per cell of the finest level; each further level doubles it. Cells much
            smaller than a latent voxel cost time for nothing.
    """

    def __init__(self, channels: int = 32, widths: Sequence[int] = (16, 24, 32, 48), first_stride: int = 4) -> None:
        super().__init__()
        inputs = [first_stride**2, *widths[:-1]]
        self.channels = channels
        self.strides = [first_stride * 2**i for i in range(len(widths))]
        self.levels = nn.ModuleList(
            PyramidLevel(before, width, halve=i > 0)
            for i, (before, width) in enumerate(zip(inputs, widths, strict=True))
        )
        self.mix = nn.Linear(sum(widths), channels)

    def pyramid(self, xray: Tensor) -> list[Tensor]:
        """X-ray (B, 1, H, W) in [0, 1] -> maps (B, width, H / stride, W / stride), fine to coarse.

        Raises:
            ValueError: when the coarsest stride does not divide H or W.
        """
        coarsest = self.strides[-1]
        if xray.shape[-1] % coarsest or xray.shape[-2] % coarsest:
            raise UserError(
                f"{len(self.levels)} levels need an X-ray of a height and width that {coarsest} divides,"
                f" got {tuple(xray.shape[-2:])}: resize it to 512 x 512"
            )
        maps, x = [], pixel_unshuffle(2 * xray - 1, self.strides[0])
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps

    def lift(self, maps: Sequence[Tensor], xray_camera: Tensor, positions: Tensor) -> Tensor:
        """Features (B, channels, d, h, w) of the voxels of an axis-aligned grid.

        Args:
            maps: of `pyramid`, batch B, or 1 for windows of one patient.
            xray_camera: (B or 1, 3, 4), (x, y, z mm, 1) -> homogeneous (column, row) of the image.
            positions: (B, 3, d, h, w), z, y, x of voxel centres in mm from the volume's centre; each may vary along its
                own axis alone.
        """
        batch, _, *size = positions.shape
        # windows of one image become rows of one plane
        pixels = pixels_of(xray_camera, positions).reshape(len(maps[0]), -1, size[1] * size[2], 2)
        planes = [
            sample_plane(m, pixels, (m.shape[2] * s, m.shape[3] * s)) for m, s in zip(maps, self.strides, strict=True)
        ]
        mixed = conv2d(torch.cat(planes, 1), self.mix.weight[..., None, None], self.mix.bias)  # needs no copy turned
        return mixed.unflatten(2, (-1, size[0])).movedim(2, 1).reshape(batch, self.channels, *size)
