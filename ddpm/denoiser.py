"""The network of stage 2 as training and sampling see it: noisy latent, time, X-ray and place in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.layers import inverse_rms
from ddpm.condition import Condition
from ddpm.position import (
    COORDINATE_CHANNELS,
    PATCH_EMBEDDING_DIM,
    coordinate_channels,
    patch_embedding,
    token_positions_mm,
    view_token_positions_mm,
)
from ddpm.protocols import Lifter

CONDITIONS = ("pooled", "tokens", "lifted")


def unit_rms(features: Tensor) -> Tensor:
    """Float32 features whose last axis has a root mean square of 1, whatever the encoder's scale."""
    features = features.float()
    return features * inverse_rms(features, -1)


class FurtherView(nn.Module):
    """What the network learns for one view besides the frontal one: arguments as of `PatchDenoiser`."""

    def __init__(self, pooled_dim: int, token_dim: int, lifter: Lifter | None, cond: Sequence[str]) -> None:
        super().__init__()
        self.lifter: Lifter | None = lifter
        self.null_pooled = nn.Parameter(torch.zeros(pooled_dim)) if "pooled" in cond else None
        self.null_lifted = None if lifter is None else nn.Parameter(torch.zeros(lifter.channels))
        self.token_mark = nn.Parameter(torch.zeros(token_dim)) if "tokens" in cond else None  # tells whose they are


class PatchDenoiser(nn.Module):
    """A UNet that knows where its patch lies and what the X-ray shows there.

    Args:
        unet: makes the network from in_channels, out_channels, vector_dim and token_dim.
        latent_channels: of the noisy latent and of the prediction.
        pooled_dim, token_dim: widths of the X-ray encoder's features.
        lifter: brings X-ray features to 3D places; needed when `cond` has "lifted", else left out.
        cond: what to use of the X-ray, any of "pooled", "tokens", "lifted".
        views: names of further X-rays that it takes, such as "lateral"; any of them may be missing. Each has a lifter
            of its own, and channels of its own for what is lifted: where two see a voxel, both tell.
    """

    def __init__(
        self,
        unet: Callable[..., nn.Module],
        latent_channels: int,
        pooled_dim: int,
        token_dim: int,
        lifter: Lifter | None = None,
        cond: Sequence[str] = CONDITIONS,
        views: Sequence[str] = (),
    ) -> None:
        super().__init__()
        unknown = sorted(set(cond) - set(CONDITIONS))
        if unknown:
            raise UserError(f"cond takes any of {list(CONDITIONS)}, got {unknown}: remove or correct them")
        if "lifted" in cond and lifter is None:
            raise UserError('cond has "lifted" but there is no lifter: give one, or take "lifted" out of cond')
        self.latent_channels = latent_channels
        self.lifter = lifter if "lifted" in cond else None
        self.null_pooled = nn.Parameter(torch.zeros(pooled_dim)) if "pooled" in cond else None
        self.null_token = nn.Parameter(torch.zeros(token_dim)) if "tokens" in cond else None
        self.null_lifted = None if self.lifter is None else nn.Parameter(torch.zeros(self.lifter.channels))
        self.views = nn.ModuleDict(
            {name: FurtherView(pooled_dim, token_dim, deepcopy(self.lifter), cond) for name in views}
        )
        lifted_channels = 0 if self.lifter is None else self.lifter.channels
        self.unet = unet(
            in_channels=latent_channels + COORDINATE_CHANNELS + lifted_channels * (1 + len(views)),
            out_channels=latent_channels,
            vector_dim=PATCH_EMBEDDING_DIM + (pooled_dim * (1 + len(views)) if "pooled" in cond else 0),
            token_dim=token_dim if "tokens" in cond else None,
            **({"token_axes": 3} if views else {}),
        )

    @property
    def knows_no_xray(self) -> bool:
        """Whether training has dropped X-rays: what stands for them begins at 0, where nothing else moves it."""
        nulls = [null for null in (self.null_pooled, self.null_token, self.null_lifted) if null is not None]
        return any(bool(null.any()) for null in nulls)

    def encode_condition(
        self,
        pooled: Tensor,
        tokens: Tensor,
        grid: tuple[int, int],
        xray: Tensor,
        xray_camera: Tensor,
        drop: Tensor | None = None,
        views: Sequence[Tensor] = (),
    ) -> Condition:
        """What the X-rays tell, once per X-ray: it serves any number of patches and steps.

        Args:
            pooled: (B, P) and
            tokens: (B, N, T) of the frozen encoder, its token `grid` (rows, columns) row by row.
            xray: (B, 1, H, W), the whole image, in [0, 1].
            xray_camera: (B, 3, 4), (x, y, z mm, 1) -> homogeneous (column, row) of `xray`.
            drop: (B,) bool, X-rays to replace by what the network learns for "no X-ray".
            views: of its V further views pooled (B, V, P), tokens (B, V, N, T), X-rays (B, V, 1, H, W), cameras
                (B, V, 3, 4) and which are missing, (B, V) bool; none of them: all are missing.
        """
        if tokens.shape[1] != grid[0] * grid[1]:
            raise ValueError(f"a token grid of {grid} needs {grid[0] * grid[1]} tokens, got {tokens.shape[1]}")
        height, width = xray.shape[-2:]
        dropped = torch.zeros(len(xray), dtype=torch.bool, device=xray.device) if drop is None else drop

        def seen(lifter: Lifter | None, dropped: Tensor, *xrays: Tensor) -> Condition:
            pooled, tokens, xray, camera = xrays
            where = view_token_positions_mm if self.views else token_positions_mm
            places = where(grid, camera, (height, width))
            return Condition(
                pooled=unit_rms(pooled),
                tokens=unit_rms(tokens),
                token_positions=places.masked_fill(dropped[:, None, None], 0),  # no X-ray, no geometry
                maps=() if lifter is None else tuple(lifter.pyramid(xray)),
                xray_camera=camera,
                dropped=dropped,
            )

        frontal = pooled, tokens, xray, xray_camera
        others = []
        for number, view in enumerate(self._further):
            values = [value[:, number] for value in views[:-1]] if views else frontal  # some X-ray, to be replaced
            missing = views[-1][:, number] if views else torch.ones_like(dropped)
            others.append(seen(view.lifter, dropped | missing, *values))
        return replace(seen(self.lifter, dropped, *frontal), views=tuple(others))

    def forward(self, x: Tensor, t: Tensor, condition: Condition, positions: Tensor, spacing: Tensor) -> Tensor:
        """Prediction (B, C, d, h, w) for the noisy latent.

        Args:
            x: (B, C, d, h, w), noisy latent.
            t: (B,) in [0, 1].
            condition: of B X-rays, or of one for B windows of the same patient.
            positions: (B, 3, d, h, w), z, y, x of the latent voxels in mm from the volume's centre.
            spacing: (B, 3), CT voxel size (d, h, w) in mm.
        """
        batch = len(x)
        if len(condition) not in (1, batch):
            raise ValueError(f"a condition of 1 or {batch} X-rays fits a batch of {batch}, got {len(condition)}")
        inputs, vector = [x, coordinate_channels(positions)], [patch_embedding(positions, spacing)]
        tokens: list[Tensor] = []
        places: list[Tensor] = []
        each: list[PatchDenoiser | FurtherView] = [self, *self._further]
        for view, seen in zip(each, (condition, *condition.views), strict=True):
            dropped = seen.dropped.expand(batch)
            if view.lifter is not None:
                lifted = view.lifter.lift(seen.maps, seen.xray_camera, positions)
                inputs.append(put_null(lifted, dropped, view.null_lifted, channel_axis=1))
            if view.null_pooled is not None:
                vector.append(put_null(seen.pooled.expand(batch, -1), dropped, view.null_pooled, channel_axis=1))
            if self.null_token is not None:
                shown = put_null(seen.tokens.expand(batch, -1, -1), dropped, self.null_token, channel_axis=2)
                mark = view.token_mark if isinstance(view, FurtherView) else None
                tokens.append(shown if mark is None else shown + mark)
                places.append(seen.token_positions.expand(batch, -1, -1))
        joined = (torch.cat(tokens, 1), torch.cat(places, 1)) if tokens else (None, None)
        return self.unet(torch.cat(inputs, 1), t, torch.cat(vector, 1), *joined, positions)

    @property
    def _further(self) -> list[FurtherView]:
        return list(self.views.values())  # type: ignore[arg-type]


def put_null(features: Tensor, dropped: Tensor, null: Tensor | None, channel_axis: int) -> Tensor:
    """Features (B, ...) with those of dropped samples (B,) replaced by `null` along the channel axis.

    A selection, not a branch: the null vector takes part in every step, as DistributedDataParallel wants.
    """
    if null is None:
        return features
    shape = [1] * features.ndim
    shape[channel_axis] = -1
    return torch.where(dropped.view(-1, *[1] * (features.ndim - 1)), null.view(shape).to(features.dtype), features)
