"""The 3D UNet that predicts noise, velocity or the clean latent from a noisy latent and its conditions."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, pad
from torch.utils.checkpoint import checkpoint

from common.errors import UserError
from common.layers import zero_init
from ddpm.attention import CrossAttention, SelfAttention, to_rows
from ddpm.layers import AlignedConv3d, NormSilu, ResBlock, UpMerge
from ddpm.position import axis_waves

TIME_FEATURES = 128
TIME_SCALE = 1000.0  # t in [0, 1] becomes the usual number of steps
EMBEDDING_MULT = 4  # width of the time and vector embedding, in units of dim


def time_features(t: Tensor) -> Tensor:
    """Sines and cosines (B, TIME_FEATURES) of times (B,) in [0, 1] at geometric frequencies."""
    half = TIME_FEATURES // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(1e4) / half))
    angles = TIME_SCALE * t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def two_linear(in_features: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_features, out_features), nn.SiLU(), nn.Linear(out_features, out_features))


def coarsest_levels(num_levels: int, count: int, finest_allowed: int) -> tuple[int, ...]:
    """The `count` coarsest levels, none finer than `finest_allowed` (0 is the full resolution)."""
    return tuple(range(max(num_levels - count, finest_allowed, 0), num_levels))


def level_widths(dim: int, dim_mults: Sequence[int]) -> list[int]:
    """Channels of each level."""
    widths = [dim * mult for mult in dim_mults]
    if not widths or min(widths) < 1:
        raise UserError(
            f"dim and dim_mults (one or more) must be positive integers, got dim={dim} and dim_mults={list(dim_mults)}"
        )
    return widths


def self_attention_levels(num_levels: int, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """`wanted` once checked, or else the two coarsest levels, where tokens are few."""
    if wanted is None:
        return coarsest_levels(num_levels, 2, 1)
    if not set(wanted) <= set(range(num_levels)):
        raise UserError(
            f"attention_levels must lie in 0..{num_levels - 1} for {num_levels} dim_mults, got {list(wanted)}"
        )
    return tuple(wanted)


class Stage(nn.Module):
    """Residual blocks at one resolution, then self-attention and attention to the X-ray where asked for.

    With `skips`, each block also sees what its mirror image on the way down was given.
    """

    def __init__(
        self,
        channels: int,
        embedding_dim: int,
        num_blocks: int,
        self_attention: bool,
        token_dim: int | None,
        token_axes: int,
        checkpointing: bool,
        skips: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.blocks = nn.ModuleList(ResBlock(channels, embedding_dim, skips) for _ in range(num_blocks))
        self.self_attention = SelfAttention(channels) if self_attention else None
        self.cross_attention = None if token_dim is None else CrossAttention(channels, token_dim, token_axes)

    def _run(self, layer: Callable[..., Tensor], *args: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            # nothing here draws random numbers, and their state cannot be asked for while a graph is recorded
            return checkpoint(layer, *args, use_reentrant=False, preserve_rng_state=False)
        return layer(*args)

    def forward(
        self, x: Tensor, embedding: Tensor, xray: tuple[Tensor, ...], skips: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """The stage's output, and what each of its blocks was given.

        Args:
            xray: places, tokens and token places of `CrossAttention`; unused in stages without it.
            skips: what the blocks of the stage on the way down were given.
        """
        given, mirrored = [], skips[::-1]
        for i, block in enumerate(self.blocks):
            given.append(x)
            x = self._run(block, x, embedding, *mirrored[i : i + 1])
        if self.self_attention is not None:
            x = self._run(self.self_attention, x)
        if self.cross_attention is not None:
            x = self._run(self.cross_attention, x, *xray)
        return x, given


class UNet3D(nn.Module):
    """UNet over (B, C, d, h, w) latents of any size; all three axes are convolved and halved alike.

    Every voxel is normalised over its own channels only, so a result depends on what the network sees, not
    on the statistics of the window it is cut to.

    Args:
        in_channels, out_channels: of the tensors that go in and come out.
        vector_dim: width of the vector that, with the time, scales and shifts every block.
        token_dim: width of the X-ray tokens; None builds a network without attention to them.
        dim: channels at full resolution; level i has `dim * dim_mults[i]` and is 2**i times coarser.
        num_res_blocks: residual blocks per level on the way down, and again on the way up.
        middle_blocks: residual blocks more at the coarsest level, where parameters cost least time.
        attention_levels: levels with self-attention; None means the two coarsest, without level 0.
        checkpointing: recompute blocks in the backward pass instead of keeping their activations.
        channels_last: memory layout of the activations.
        token_axes: coordinates of a token, see `CrossAttention`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        vector_dim: int,
        token_dim: int | None,
        dim: int = 64,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        num_res_blocks: int = 2,
        middle_blocks: int = 6,
        attention_levels: Sequence[int] | None = None,
        checkpointing: bool = False,
        channels_last: bool = True,
        token_axes: int = 2,
    ) -> None:
        super().__init__()
        widths = level_widths(dim, dim_mults)
        self.levels = levels = len(widths)
        self.token_dim, self.channels_last = token_dim, channels_last
        self.cross_levels = coarsest_levels(levels, 2, 0) if token_dim is not None else ()
        attended = self_attention_levels(levels, attention_levels)
        embedding_dim = EMBEDDING_MULT * dim
        steps = list(zip(widths, widths[1:], strict=False))  # (fine, coarse)

        def stage(level: int, num_blocks: int, skips: bool = False) -> Stage:
            dim_here = token_dim if level in self.cross_levels else None
            attends = level in attended
            return Stage(widths[level], embedding_dim, num_blocks, attends, dim_here, token_axes, checkpointing, skips)

        self.embed_time = two_linear(TIME_FEATURES, embedding_dim)
        self.embed_vector = two_linear(vector_dim, embedding_dim)
        self.stem = AlignedConv3d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(stage(level, num_res_blocks) for level in range(levels))
        self.halve = nn.ModuleList(nn.Conv3d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.middle = stage(levels - 1, middle_blocks)
        self.merge = nn.ModuleList(UpMerge(coarse, fine) for fine, coarse in steps)
        self.up = nn.ModuleList(stage(level, num_res_blocks, skips=True) for level in range(levels - 1))
        self.head = nn.Sequential(NormSilu(widths[0]), zero_init(nn.Conv3d(widths[0], out_channels, 3, padding=1)))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        vector: Tensor,
        tokens: Tensor | None = None,
        token_positions: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Predict (B, out_channels, d, h, w).

        Args:
            x: (B, in_channels, d, h, w).
            t: (B,) in [0, 1].
            vector: (B, vector_dim).
            tokens: (B, N, token_dim); this and the next two are needed where `token_dim` is not None.
            token_positions: (B, N, token_axes), x and z (and y) of each token in mm from the volume's centre; NaN
                where it is not known.
            positions: (B, 3, d, h, w), z, y and x of each voxel in mm from the volume's centre.
        """
        size = x.shape[2:]
        embedding = nn.functional.silu(self.embed_time(time_features(t)) + self.embed_vector(vector))
        xray = self._xray_inputs(tokens, token_positions, positions)
        x = self.pad_to_levels(x)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        x = self.stem(x)
        skips = []
        for level in range(self.levels):
            x, given = self.down[level](x, embedding, xray[level])
            if level < self.levels - 1:
                skips.append((x, given))
                x = self.halve[level](x)
        x, _ = self.middle(x, embedding, xray[-1])
        for level in reversed(range(self.levels - 1)):
            fine, given = skips.pop()
            x, _ = self.up[level](self.merge[level](x, fine), embedding, xray[level], given)
        d, h, w = size
        return self.head(x)[..., :d, :h, :w]

    def pad_to_levels(self, x: Tensor) -> Tensor:
        """Repeat the last voxels of each axis of (B, C, d, h, w) up to a size that every level divides."""
        multiple = 2 ** (self.levels - 1)
        missing = [-n % multiple for n in x.shape[2:]]
        if not any(missing):
            return x
        d, h, w = missing
        return pad(x, (0, w, 0, h, 0, d), mode="replicate")

    def _xray_inputs(
        self, tokens: Tensor | None, token_positions: Tensor | None, positions: Tensor | None
    ) -> list[tuple[Tensor, ...]]:
        """Per level, what its `CrossAttention` needs beside x; empty where there is none."""
        if self.token_dim is None:
            return [()] * self.levels
        if tokens is None or token_positions is None or positions is None:
            raise ValueError("a UNet3D with a token_dim needs tokens, token_positions and positions in forward")
        token_places, positions = axis_waves(token_positions).nan_to_num(0.0), self.pad_to_levels(positions)
        places = {n: axis_waves(to_rows(avg_pool3d(positions, 2**n))) for n in self.cross_levels}
        return [(places[n], tokens, token_places) if n in places else () for n in range(self.levels)]
