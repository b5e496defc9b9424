"""Attention of the 3D UNet: among its own voxels, and from voxels to the tokens of the X-ray."""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from common.layers import RMSNorm, zero_init
from ddpm.position import AXIS_FEATURES

GEOMETRY_LOGIT = 4.0  # at the start, a token exactly where the voxel projects outweighs a far one by about e^4


def num_heads(channels: int) -> int:
    """Heads of 64 channels in wide layers, else of 32; other widths the largest size that divides them."""
    sizes = (64, 32) if channels >= 256 else (32, 64)
    size = next((s for s in sizes if channels % s == 0), None)
    size = size or max(s for s in range(1, 65) if channels % s == 0)
    return channels // size


def to_rows(x: Tensor) -> Tensor:
    return rearrange(x, "b c d h w -> b (d h w) c")


def to_volume(rows: Tensor, like: Tensor) -> Tensor:
    """Inverse of `to_rows`, for a volume of the shape of `like`."""
    d, h, w = like.shape[2:]
    return rearrange(rows, "b (d h w) c -> b c d h w", d=d, h=h, w=w)


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Multi-head attention of rows (B, N, C) to rows (B, M, C) -> (B, N, C)."""
    q, k, v = (rearrange(rows, "b n (h c) -> b h n c", h=heads) for rows in (queries, keys, values))
    if q.device.type == "cpu":  # whose backward pass takes two to three times as long in half precision
        with torch.autocast("cpu", enabled=False):
            rows = scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
    else:
        rows = scaled_dot_product_attention(q, k, v)
    return rearrange(rows, "b h n c -> b n (h c)")


class SelfAttention(nn.Module):
    """Residual attention among the voxels of a volume (B, C, d, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = num_heads(channels)
        self.norm = RMSNorm(channels, axes=0)
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.norm(to_rows(x))).chunk(3, -1)
        return x + to_volume(self.out(attend(q, k, v, self.heads)), x)


class CrossAttention(nn.Module):
    """Residual attention from voxels (B, C, d, h, w) to X-ray tokens, by content and by place.

    Queries carry features of the voxel's position, keys those of the token's position on the X-ray, through
    projections that start equal on the axes both have: each voxel first looks where it projects to.

    Args:
        token_axes: 2, of one frontal X-ray's tokens x and z; 3, of several views' x, z and y.
    """

    def __init__(self, channels: int, token_dim: int, token_axes: int = 2) -> None:
        super().__init__()
        self.heads = num_heads(channels)
        self.norm = RMSNorm(channels, axes=0)
        self.token_norm = RMSNorm(token_dim, axes=0)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_kv = nn.Linear(token_dim, 2 * channels, bias=False)
        self.query_place = nn.Linear(3 * AXIS_FEATURES, channels, bias=False)  # z, y, x
        self.key_place = nn.Linear(token_axes * AXIS_FEATURES, channels, bias=False)  # x, z, y
        self.out = zero_init(nn.Linear(channels, channels))
        self._match_places(channels // self.heads, token_axes)

    @torch.no_grad()
    def _match_places(self, head_dim: int, token_axes: int) -> None:
        """Equal random projections of the axes of both; a query's y that keys do not have starts at 0."""
        scale = (GEOMETRY_LOGIT / AXIS_FEATURES) ** 0.5 * head_dim**-0.25
        for axis_of_query, axis_of_key in ((2, 0), (0, 1), (1, 2))[:token_axes]:
            weight = (
                torch.randn(self.query_place.out_features, AXIS_FEATURES, device=self.query_place.weight.device) * scale
            )
            self.query_place.weight[:, axis_of_query * AXIS_FEATURES :][:, :AXIS_FEATURES] = weight
            self.key_place.weight[:, axis_of_key * AXIS_FEATURES :][:, :AXIS_FEATURES] = weight
        if token_axes == 2:
            self.query_place.weight[:, AXIS_FEATURES : 2 * AXIS_FEATURES] = 0

    def forward(self, x: Tensor, places: Tensor, tokens: Tensor, token_places: Tensor) -> Tensor:
        """places (B, d*h*w, 3 AXIS_FEATURES), tokens (B, N, T), token_places (B, N, token_axes AXIS_FEATURES)."""
        q = self.to_q(self.norm(to_rows(x))) + self.query_place(places)
        k, v = self.to_kv(self.token_norm(tokens)).chunk(2, -1)
        k = k + self.key_place(token_places)
        return x + to_volume(self.out(attend(q, k, v, self.heads)), x)
