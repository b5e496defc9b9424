"""Pictures of reconstructions for TensorBoard."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def middle_planes(volume: Tensor) -> Tensor:
    """The middle slice of each axis side by side: (1, D, H, W) in [-1, 1] -> (1, h, w) in [0, 1].

    Head and front are up; planes of different height are padded with black.
    """
    d, h, w = (n // 2 for n in volume.shape[1:])
    axial, coronal, sagittal = volume[:, d], volume[:, :, h].flip(1), volume[:, :, :, w].flip(1)
    planes = [((plane.float() + 1) / 2).clamp(0, 1) for plane in (axial, coronal, sagittal)]
    height = max(plane.shape[1] for plane in planes)
    return torch.cat([pad(plane, (0, 0, 0, height - plane.shape[1])) for plane in planes], dim=2)


def above_each_other(original: Tensor, reconstruction: Tensor) -> Tensor:
    """Middle planes of a volume (1, D, H, W) above those of its reconstruction, (1, 2h, w) in [0, 1]."""
    return torch.cat([middle_planes(original), middle_planes(reconstruction)], dim=1)
