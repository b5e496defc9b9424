"""Frozen X-ray encoders behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.frozen import Frozen


@dataclass(frozen=True)
class XrayFeatures:
    """What an encoder says of a batch of X-rays.

    Attributes:
        pooled: float32 (B, P), one vector per X-ray.
        tokens: float32 (B, N, T), the token grid row by row from the image's top left.
    """

    pooled: Tensor
    tokens: Tensor


class XrayEncoder(Frozen, ABC):
    """A pretrained network, frozen.

    Attributes:
        size: side of the square image it takes, in pixels.
        mean, std: per channel (3), of the normalisation its images need.
        pooled_dim, token_dim: widths of its features.
        grid: (rows, columns) of its tokens; together they tile the image.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pooled_dim: int
    token_dim: int
    grid: tuple[int, int]

    @abstractmethod
    def encode(self, cxr: Tensor) -> XrayFeatures:
        """Features of images whose size is already checked."""

    @abstractmethod
    def network(self) -> dict[str, Any]:
        """Plain data: the `part` and arguments that build this network from no file, to load a state dict into."""

    @torch.no_grad()
    def forward(self, cxr: Tensor) -> XrayFeatures:
        """Encode normalised X-rays (B, 3, size, size); in float32 also within autocast, as for the latent cache.

        Raises:
            ValueError: for another shape.
        """
        if cxr.ndim != 4 or tuple(cxr.shape[1:]) != (3, self.size, self.size):
            raise ValueError(
                f"this encoder takes images (B, 3, {self.size}, {self.size}), got {tuple(cxr.shape)}:"
                " make them with dataset.xray_io.encoder_view"
            )
        with torch.autocast(cxr.device.type, enabled=False):
            features = self.encode(cxr)
        return XrayFeatures(features.pooled.float(), features.tokens.float())
