"""The network of stage 2 as training and sampling see it: noisy latent, time, X-ray and place in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.layers import inverse_rms
from ddpm.position import COORDINATE_CHANNELS, PATCH_EMBEDDING_DIM, coordinate_channels, patch_embedding
from ddpm.protocols import Lifter

CONDITIONS = ("pooled", "tokens", "lifted")


@dataclass(frozen=True)
class Condition:
    """All that one batch of X-rays tells the denoiser; encoded once per X-ray.

    Attributes:
        pooled: (B, P), one vector per X-ray.
        tokens: (B, N, T) with token_positions (B, N, 2), x and z in mm from the volume's centre.
        maps: features of the X-ray (B, c, h, w), fine to coarse, to lift along the rays of
            xray_camera (B, 3, 4).
        dropped: (B,) bool, X-rays that the network must do without.
    """

    pooled: Tensor
    tokens: Tensor
    token_positions: Tensor
    maps: tuple[Tensor, ...]
    xray_camera: Tensor
    dropped: Tensor

    def __len__(self) -> int:
        return len(self.dropped)

    def apply(self, function: Callable[[Tensor], Tensor]) -> Condition:
        """The condition with `function` applied to each tensor."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "maps"}
        return Condition(maps=tuple(map(function, self.maps)), **{k: function(v) for k, v in values.items()})

    def to(self, device: torch.device | str) -> Condition:
        return self.apply(lambda tensor: tensor.to(device))

    def __getitem__(self, index: Tensor | slice) -> Condition:
        """The condition of some of the X-rays, or of one of them several times."""
        return self.apply(lambda tensor: tensor[index])


def token_positions_mm(grid: tuple[int, int], xray_camera: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Where the rays of tokens cross the patient's middle plane y = 0: x and z in mm (B, N, 2).

    Args:
        grid: (rows, columns) of tokens, which tile the image row by row.
        xray_camera: (B, 3, 4), (x, y, z mm, 1) -> homogeneous (column, row), pixel centres at integers.
        image_size: (height, width) in pixels.
    """
    rows, columns = (
        (torch.arange(n, device=xray_camera.device) + 0.5) * (size / n) - 0.5
        for n, size in zip(grid, image_size, strict=True)
    )
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    pixels = column.flatten(), row.flatten()
    to_x, _, to_z, origin = xray_camera[:, :, None].unbind(-1)  # each (B, 3, 1)
    (a, b, u), (c, d, v) = (
        (to_x[:, i] - at * to_x[:, 2], to_z[:, i] - at * to_z[:, 2], at * origin[:, 2] - origin[:, i])
        for i, at in enumerate(pixels)
    )  # a x + b z = u and c x + d z = v, each (B, N)
    # Cramer's rule: autocast would round a matrix product, and the CPU waits for the GPU in torch.linalg.inv
    return torch.stack([d * u - b * v, a * v - c * u], -1) / (a * d - b * c)[..., None]


def unit_rms(features: Tensor) -> Tensor:
    """Float32 features whose last axis has a root mean square of 1, whatever the encoder's scale."""
    features = features.float()
    return features * inverse_rms(features, -1)


class PatchDenoiser(nn.Module):
    """A UNet that knows where its patch lies and what the X-ray shows there.

    Args:
        unet: makes the network from in_channels, out_channels, vector_dim and token_dim.
        latent_channels: of the noisy latent and of the prediction.
        pooled_dim, token_dim: widths of the X-ray encoder's features.
        lifter: brings X-ray features to 3D places; needed when `cond` has "lifted", else left out.
        cond: what to use of the X-ray, any of "pooled", "tokens", "lifted".
        global_context: it is given the `wide_view` of the noisy whole latent too, after the noisy latent's channels.
    """

    def __init__(
        self,
        unet: Callable[..., nn.Module],
        latent_channels: int,
        pooled_dim: int,
        token_dim: int,
        lifter: Lifter | None = None,
        cond: Sequence[str] = CONDITIONS,
        global_context: bool = False,
    ) -> None:
        super().__init__()
        unknown = sorted(set(cond) - set(CONDITIONS))
        if unknown:
            raise UserError(f"cond takes any of {list(CONDITIONS)}, got {unknown}: remove or correct them")
        if "lifted" in cond and lifter is None:
            raise UserError('cond has "lifted" but there is no lifter: give one, or take "lifted" out of cond')
        self.latent_channels, self.global_context = latent_channels, global_context
        self.lifter = lifter if "lifted" in cond else None
        self.null_pooled = nn.Parameter(torch.zeros(pooled_dim)) if "pooled" in cond else None
        self.null_token = nn.Parameter(torch.zeros(token_dim)) if "tokens" in cond else None
        self.null_lifted = None if self.lifter is None else nn.Parameter(torch.zeros(self.lifter.channels))
        lifted_channels = 0 if self.lifter is None else self.lifter.channels
        self.unet = unet(
            in_channels=self.noisy_channels + COORDINATE_CHANNELS + lifted_channels,
            out_channels=latent_channels,
            vector_dim=PATCH_EMBEDDING_DIM + (pooled_dim if "pooled" in cond else 0),
            token_dim=token_dim if "tokens" in cond else None,
        )

    @property
    def noisy_channels(self) -> int:
        """Of what it is given as x."""
        return 2 * self.latent_channels + 1 if self.global_context else self.latent_channels

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
    ) -> Condition:
        """What the X-rays tell, once per X-ray: it serves any number of patches and steps.

        Args:
            pooled: (B, P) and
            tokens: (B, N, T) of the frozen encoder, its token `grid` (rows, columns) row by row.
            xray: (B, 1, H, W), the whole image, in [0, 1].
            xray_camera: (B, 3, 4), (x, y, z mm, 1) -> homogeneous (column, row) of `xray`.
            drop: (B,) bool, X-rays to replace by what the network learns for "no X-ray".
        """
        if tokens.shape[1] != grid[0] * grid[1]:
            raise ValueError(f"a token grid of {grid} needs {grid[0] * grid[1]} tokens, got {tokens.shape[1]}")
        height, width = xray.shape[-2:]
        dropped = torch.zeros(len(xray), dtype=torch.bool, device=xray.device) if drop is None else drop
        places = token_positions_mm(grid, xray_camera, (height, width))
        return Condition(
            pooled=unit_rms(pooled),
            tokens=unit_rms(tokens),
            token_positions=places.masked_fill(dropped[:, None, None], 0),  # no X-ray, no geometry
            maps=() if self.lifter is None else tuple(self.lifter.pyramid(xray)),
            xray_camera=xray_camera,
            dropped=dropped,
        )

    def forward(self, x: Tensor, t: Tensor, condition: Condition, positions: Tensor, spacing: Tensor) -> Tensor:
        """Prediction (B, C, d, h, w) for the noisy latent.

        Args:
            x: (B, noisy_channels, d, h, w), noisy latent.
            t: (B,) in [0, 1].
            condition: of B X-rays, or of one for B windows of the same patient.
            positions: (B, 3, d, h, w), z, y, x of the latent voxels in mm from the volume's centre.
            spacing: (B, 3), CT voxel size (d, h, w) in mm.
        """
        batch = len(x)
        if len(condition) not in (1, batch):
            raise ValueError(f"a condition of 1 or {batch} X-rays fits a batch of {batch}, got {len(condition)}")
        dropped = condition.dropped.expand(batch)
        inputs, vector = [x, coordinate_channels(positions)], [patch_embedding(positions, spacing)]
        tokens = None
        if self.lifter is not None:
            lifted = self.lifter.lift(condition.maps, condition.xray_camera, positions)
            inputs.append(replace(lifted, dropped, self.null_lifted, channel_axis=1))
        if self.null_pooled is not None:
            vector.append(replace(condition.pooled.expand(batch, -1), dropped, self.null_pooled, channel_axis=1))
        if self.null_token is not None:
            tokens = replace(condition.tokens.expand(batch, -1, -1), dropped, self.null_token, channel_axis=2)
        places = condition.token_positions.expand(batch, -1, -1)
        return self.unet(torch.cat(inputs, 1), t, torch.cat(vector, 1), tokens, places, positions)


def replace(features: Tensor, dropped: Tensor, null: Tensor | None, channel_axis: int) -> Tensor:
    """Features (B, ...) with those of dropped samples (B,) replaced by `null` along the channel axis.

    A selection, not a branch: the null vector takes part in every step, as DistributedDataParallel wants.
    """
    if null is None:
        return features
    shape = [1] * features.ndim
    shape[channel_axis] = -1
    return torch.where(dropped.view(-1, *[1] * (features.ndim - 1)), null.view(shape).to(features.dtype), features)
