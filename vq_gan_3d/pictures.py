"""Pictures of reconstructions for TensorBoard."""

import numpy as np
import torch
from torch import Tensor

from common.planes import planes_at
from common.voxel_file import box_of


def middle_planes(volume: Tensor) -> Tensor:
    """The middle slice of each axis side by side: (1, D, H, W) in [-1, 1] -> (1, h, w) in [0, 1].

    Planes of different height are padded with black.
    """
    grey = ((volume[0].float().cpu() + 1) / 2).clamp(0, 1).numpy()
    planes = planes_at(box_of(grey), grey.shape).values()
    height = max(map(len, planes))
    padded = [np.pad(plane, ((0, height - len(plane)), (0, 0))) for plane in planes]
    return torch.from_numpy(np.concatenate(padded, axis=1))[None]


def above_each_other(original: Tensor, reconstruction: Tensor) -> Tensor:
    """Middle planes of a volume (1, D, H, W) above those of its reconstruction, (1, 2h, w) in [0, 1]."""
    return torch.cat([middle_planes(original), middle_planes(reconstruction)], dim=1)
