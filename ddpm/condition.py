"""What X-rays tell the denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """All that one batch of X-rays tells the denoiser; encoded once per X-ray.

    Attributes:
        pooled: (B, P), one vector per X-ray.
        tokens: (B, N, T) with token_positions (B, N, 2), x and z in mm from the volume's centre; of a network that
            takes several views (B, N, 3), x, z and y, NaN along the rays.
        maps: features of the X-ray (B, c, h, w), fine to coarse, to lift along the rays of
            xray_camera (B, 3, 4).
        dropped: (B,) bool, X-rays that the network must do without.
        views: the same of each further view.
    """

    pooled: Tensor
    tokens: Tensor
    token_positions: Tensor
    maps: tuple[Tensor, ...]
    xray_camera: Tensor
    dropped: Tensor
    views: tuple[Condition, ...] = ()

    def __len__(self) -> int:
        return len(self.dropped)

    def apply(self, function: Callable[[Tensor], Tensor]) -> Condition:
        """The condition with `function` applied to each tensor."""
        single = [f.name for f in fields(self) if f.name not in ("maps", "views")]
        views = tuple(view.apply(function) for view in self.views)
        values = {name: function(getattr(self, name)) for name in single}
        return Condition(maps=tuple(map(function, self.maps)), views=views, **values)

    def to(self, device: torch.device | str) -> Condition:
        return self.apply(lambda tensor: tensor.to(device))

    def __getitem__(self, index: Tensor | slice) -> Condition:
        """The condition of some of the X-rays, or of one of them several times."""
        return self.apply(lambda tensor: tensor[index])
