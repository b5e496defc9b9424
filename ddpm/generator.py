"""One X-ray in, one whole CT out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dataset.patches import Triple, box, grid_coords, padded_shape, positions_mm, stitch_patches, triple
from ddpm.denoiser import Condition, PatchDenoiser
from ddpm.diffusion import Diffusion
from ddpm.latent_scale import LatentScale
from ddpm.samplers import SAMPLERS, Predict, Sampler
from ddpm.windows import PredictWindows, fit_window, fused

STEP = 4  # voxels per latent voxel and axis


class Codec(Protocol):
    """What sampling needs of `vq_gan_3d.codec.FrozenCodec`."""

    def decode_tiles(self, z: Tensor, tile: int = 32) -> Iterator[tuple[Triple, Tensor]]: ...


@dataclass(frozen=True)
class XrayInput:
    """An X-ray as the networks take it.

    xray: (1, 512, 512) in [0, 1]; cxr: (3, S, S), normalised; affine: (2, 3), patient mm → pixels of `xray`.
    """

    xray: Tensor
    cxr: Tensor
    affine: Tensor


@dataclass(frozen=True)
class Grid:
    """The volume to draw: shape (D, H, W) in voxels, spacing (d, h, w) in mm."""

    shape: Triple
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class SamplingPlan:
    """How to draw.

    steps: of the sampler, a name in `ddpm.samplers.SAMPLERS`.
    mode: "whole" (the whole latent per step), "fused" (windows, blended at every step) or "independent" (windows
        drawn apart and averaged, the guide's baseline).
    guidance: 1 follows the X-ray as trained, more exaggerates it (classifier-free guidance, Ho & Salimans 2021).
    window_batch: windows evaluated at once.
    bf16: evaluate the network in bfloat16.
    """

    steps: int
    sampler: str = "ddim"
    mode: str = "fused"
    guidance: float = 1.0
    window_batch: int = 1
    bf16: bool = False

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {sorted(SAMPLERS)}, got {self.sampler!r}")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {sorted(MODES)}, got {self.mode!r}")


class VolumeGenerator(nn.Module):
    """Draws latents of whole volumes and decodes them.

    Args:
        denoiser, diffusion, latent_scale: of a stage-2 checkpoint.
        codec, xray_encoder: the frozen networks that it was trained with.
        window, stride: (d, h, w) in latent voxels.
    """

    def __init__(
        self,
        denoiser: PatchDenoiser,
        diffusion: Diffusion,
        latent_scale: LatentScale,
        codec: Codec,
        xray_encoder: nn.Module,
        window: Triple,
        stride: Triple,
    ) -> None:
        super().__init__()
        self.denoiser, self.diffusion, self.latent_scale = denoiser, diffusion, latent_scale
        self.codec, self.xray_encoder = codec, xray_encoder
        self.window, self.stride = window, stride
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def latent(
        self,
        xray: XrayInput,
        grid: Grid,
        plan: SamplingPlan,
        seed: int,
        progress: Callable[[], Any] = lambda: None,
    ) -> Tensor:
        """Draw a latent (C, d, h, w), unscaled, that covers the grid.

        The noise is drawn once for the volume, on the CPU: the result depends on the seed, not on windows, batches
        or devices (up to rounding).

        Args:
            progress: called before each evaluation of the network.
        """
        device = self.latent_scale.mean.device
        shape = self.latent_shape(grid)
        stream = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, self.denoiser.latent_channels, *shape, generator=stream).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
            predict = self._predictor(self.condition(xray), grid, plan.guidance)

        def counted(x: Tensor, t: Tensor, coords: Tensor) -> Tensor:
            progress()
            with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
                return predict(x, t, coords)

        task = _Task(self, counted, plan, noise, shape, stream)
        return self.latent_scale.restore(MODES[plan.mode](task))[0]

    @torch.no_grad()
    def decode(self, latent: Tensor, tile: int = 32) -> Iterator[tuple[Triple, Tensor]]:
        """Tiles (first voxel, (1, d, h, w) in [-1, 1]) of the volume, padded at the high ends as the latent is."""
        yield from self.codec.decode_tiles(latent, tile)

    def evaluations(self, grid: Grid, plan: SamplingPlan) -> int:
        """Calls of `progress` while a latent is drawn (one more per step for samplers that look twice)."""
        shape = self.latent_shape(grid)
        windows = len(grid_coords(shape, *fit_window(shape, self.window, self.stride)))
        looks = 2 * plan.steps - 2 if plan.sampler == "heun" else plan.steps
        per_look = {"whole": 1, "fused": -(-windows // plan.window_batch), "independent": windows}
        return looks * per_look[plan.mode]

    def latent_shape(self, grid: Grid) -> Triple:
        patch = triple([n * STEP for n in self.window])
        return triple([n // STEP for n in padded_shape(grid.shape, patch, STEP)])

    def condition(self, xray: XrayInput) -> Condition:
        """What the X-ray tells, followed by the null condition of guidance: a batch of two."""
        device = self.latent_scale.mean.device
        features = self.xray_encoder(xray.cxr[None].to(device))
        twice = [features.pooled, features.tokens, xray.xray[None].to(device), xray.affine[None].to(device)]
        pooled, tokens, image, affine = (v.expand(2, *v.shape[1:]) for v in twice)
        drop = torch.tensor([False, True], device=device)
        grid = self.xray_encoder.grid
        return self.denoiser.encode_condition(pooled, tokens, grid, image, affine, drop)  # type: ignore[arg-type]

    def _predictor(self, condition: Condition, grid: Grid, guidance: float) -> PredictWindows:
        device = self.latent_scale.mean.device
        spacing, volume = (
            torch.tensor([grid.spacing], device=device),
            torch.tensor([grid.shape], device=device),
        )

        def predict(x: Tensor, t: Tensor, coords: Tensor) -> Tensor:
            n = len(x)
            places = positions_mm(
                coords.to(device) * STEP, spacing.expand(n, 3), volume.expand(n, 3), triple(x.shape[2:]), STEP
            )
            seen = self.denoiser(x, t, condition[:1], places, spacing.expand(n, 3)).float()
            if guidance == 1:
                return seen
            unseen = self.denoiser(x, t, condition[1:], places, spacing.expand(n, 3)).float()
            return unseen + guidance * (seen - unseen)

        return predict


@dataclass(frozen=True)
class _Task:
    generator: VolumeGenerator
    predict: PredictWindows
    plan: SamplingPlan
    noise: Tensor  # (1, C, d, h, w)
    shape: Triple
    stream: torch.Generator

    def run(self, predict: Predict, noise: Tensor) -> Tensor:
        sampler: Sampler = SAMPLERS[self.plan.sampler]
        return sampler(predict, self.generator.diffusion, noise, self.plan.steps, self.stream)


def _at(predict: PredictWindows, corner: Tensor) -> Predict:
    """The prediction of one window that begins at `corner` (3,)."""
    return lambda x, t: predict(x, t, corner[None])


def _whole(task: _Task) -> Tensor:
    return task.run(_at(task.predict, torch.zeros(3, dtype=torch.int64)), task.noise)


def _fused(task: _Task) -> Tensor:
    generator = task.generator
    predict = fused(task.predict, task.shape, generator.window, generator.stride, task.plan.window_batch)
    return task.run(predict, task.noise)


def _independent(task: _Task) -> Tensor:
    window, stride = fit_window(task.shape, task.generator.window, task.generator.stride)
    coords = grid_coords(task.shape, window, stride)
    patches = []
    for corner in coords:
        noise = task.noise[(..., *box(corner.tolist(), window))]
        patches.append(task.run(_at(task.predict, corner), noise)[0])
    return stitch_patches(patches, coords, task.shape)[None]


MODES: dict[str, Callable[[_Task], Tensor]] = {"whole": _whole, "fused": _fused, "independent": _independent}
