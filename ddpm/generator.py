"""One X-ray in, one whole CT out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.collectives import Team
from common.errors import UserError
from common.geometry import STEP, Triple, latent_shape, slices, triple
from common.patches import grid_coords, stitch_patches
from ddpm import gpu_memory
from ddpm.condition import Condition
from ddpm.denoiser import PatchDenoiser
from ddpm.diffusion import Diffusion, Regression
from ddpm.finite import FiniteSteps
from ddpm.guided import GuidedDenoiser
from ddpm.latent_scale import LatentScale
from ddpm.plan import AUTO, Grid, SamplingPlan, XrayInput
from ddpm.protocols import Codec
from ddpm.samplers import MEAN, SAMPLERS, Predict
from ddpm.windows import fit_window, fused


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

    @property
    def device(self) -> torch.device:
        return self.latent_scale.mean.device

    @torch.no_grad()
    def latent(
        self,
        xray: XrayInput,
        grid: Grid,
        plan: SamplingPlan,
        seed: int,
        progress: Callable[[], Any] = lambda: None,
        team: Team | None = None,
    ) -> Tensor:
        """Draw a latent (C, d, h, w), unscaled, that covers the grid.

        The noise is drawn once for the volume, on the CPU: the result depends on the seed, not on windows, batches,
        devices or the size of the team (up to rounding).

        Args:
            progress: called before each evaluation of the network.
            team: processes that all call this alike and share the windows of "fused".

        Raises:
            UserError: the network's answer at a step is not finite.
        """
        team = team or Team()
        plan = self.settle(plan, xray, grid, team)
        shape = self.latent_shape(grid)
        stream = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, self.denoiser.latent_channels, *shape, generator=stream)
        noise = noise.to("cpu" if plan.latent_device == "cpu" else self.device)
        predictor = self._predictor(xray, grid, plan)
        watch = FiniteSteps(predictor, self.diffusion.times(plan.steps), plan, team)

        def counted(x: Tensor, t: Tensor, coords: Tensor) -> Tensor:
            progress()
            return watch.windows(x, t, coords)

        def draw(predict: Predict, noise: Tensor) -> Tensor:
            def step(x: Tensor, t: Tensor) -> Tensor:
                predictor.at(t)
                return predict(x, t)

            return SAMPLERS[plan.sampler](watch.volume(step), self.diffusion, noise, plan.steps, stream)

        window, stride = self._window(shape, plan.mode)
        if plan.mode == "fused":
            drawn = draw(fused(counted, shape, window, stride, plan.windows_per_call, team), noise)
        else:
            coords = grid_coords(shape, window, stride)
            crops = [noise[(..., *slices(corner, window))] for corner in coords.tolist()]
            patches = [draw(partial(counted, coords=c[None]), crop)[0] for c, crop in zip(coords, crops, strict=True)]
            drawn = stitch_patches(patches, coords, shape)[None]
        return watch.latent(self.latent_scale.restore(drawn))[0]

    @torch.no_grad()
    def settle(self, plan: SamplingPlan, xray: XrayInput, grid: Grid, team: Team | None = None) -> SamplingPlan:
        """The plan with every "auto" replaced; on a GPU one window is evaluated, to see what memory it takes.

        Raises:
            ValueError: a plan that cannot be followed here.
        """
        self.diffusion.times(plan.steps)  # refuses steps that the model does not have
        self._check(plan)
        shape, on_gpu, team = self.latent_shape(grid), self.device.type == "cuda", team or Team()
        window, _ = self._window(shape, "fused")
        shared = team.size > 1
        if plan.mode == AUTO:
            plan = replace(plan, mode="whole" if window == shape and not shared else "fused")
        if shared and plan.mode != "fused":
            raise UserError(f"processes share the windows of mode=fused only, got mode={plan.mode}")
        if plan.latent_device == "cuda" and not on_gpu:
            raise UserError("latent_device=cuda needs the network on a GPU too (device=cuda)")
        plan = replace(plan, bf16=team.agree(self.in_bf16(plan)))
        size = 4 * self.denoiser.latent_channels * shape[0] * shape[1] * shape[2]
        if plan.latent_device == AUTO:
            beside = team.agree(on_gpu and gpu_memory.latents_fit(size, self.device))
            plan = replace(plan, latent_device="cuda" if beside else "cpu")
        if plan.window_batch == AUTO and (plan.mode != "fused" or not on_gpu):
            plan = replace(plan, window_batch=1)  # on a CPU more at once are no faster
        if plan.window_batch == AUTO:
            reserved = gpu_memory.LATENT_COPIES * size if plan.latent_device == "cuda" else 0
            one = self.window_of(xray, grid, replace(plan, window_batch=1, guidance=1.0))
            plan = replace(plan, window_batch=gpu_memory.windows_that_fit(one, reserved, self.device))
        return plan

    def _check(self, plan: SamplingPlan) -> None:
        """UserError for a plan that this model cannot follow."""
        if isinstance(self.diffusion, Regression) and plan.sampler != MEAN:
            raise UserError(
                "this checkpoint was trained to give the expected CT (diffusion=regression), so there is nothing that"
                f" sampler={plan.sampler} could draw; set sampler=mean"
            )
        if self.diffusion.prediction == "noise" and plan.sampler == MEAN:
            raise UserError(
                "sampler=mean asks the network for the CT where there is noise only, which one that predicts noise"
                " cannot tell; take another sampler, or a checkpoint of another diffusion.prediction"
            )
        if plan.guidance != 1 and not self.denoiser.knows_no_xray:
            raise UserError(
                f"guidance={plan.guidance:g} starts from what the network gives without an X-ray, which this one never"
                " learned, as its training dropped none; set guidance=1, or train with model.condition_dropout above 0"
            )

    def in_bf16(self, plan: SamplingPlan) -> bool:
        """Whether the network is evaluated in bfloat16."""
        if plan.bf16 != AUTO:
            return bool(plan.bf16)
        return self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)

    @torch.no_grad()
    def window_of(self, xray: XrayInput, grid: Grid, plan: SamplingPlan) -> Callable[[], Tensor]:
        """One call of the network as the plan makes them, guidance included, to measure what it takes."""
        shape = self.latent_shape(grid)
        window, _ = self._window(shape, plan.mode)
        n = min(plan.windows_per_call, self.windows(grid)) if plan.mode == "fused" else 1
        x = torch.zeros(n, self.denoiser.latent_channels, *window, device=self.device)
        t, corners = torch.full((n,), plan.guidance_interval[1]), torch.zeros(n, 3, dtype=torch.int64)
        predict = self._predictor(xray, grid, plan)
        predict.at(t)
        return torch.no_grad()(lambda: predict(x, t, corners))

    @torch.no_grad()
    def decode(
        self,
        latent: Tensor,
        tile: int = 32,
        half: bool = False,
        own: slice = slice(None),  # noqa: B008 (frozen)
    ) -> Iterator[tuple[Triple, Tensor]]:
        """Tiles (first voxel, (1, d, h, w) in [-1, 1]) of the volume, padded at the high ends as the latent is.

        half: convolve in float16; own: which of the tiles. See `FrozenCodec.decode_tiles`.
        """
        yield from self.codec.decode_tiles(latent, tile, half, own)

    def evaluations(self, grid: Grid, plan: SamplingPlan, team: Team | None = None) -> int:
        """Calls of `progress` while a latent is drawn, on the team's first member. The plan must be settled."""
        if plan.mode == AUTO:
            raise ValueError("mode=auto is no mode yet; VolumeGenerator.settle chooses one")
        looks = max(plan.steps, 2 * plan.steps - 2) if plan.sampler == "heun" else plan.steps
        windows = self.windows(grid, plan.mode)
        if plan.mode != "fused":
            return looks * windows
        share = -(-windows // (team or Team()).size)
        return looks * -(-share // plan.windows_per_call)

    def windows(self, grid: Grid, mode: str = "fused") -> int:
        """Windows that cover the grid."""
        shape = self.latent_shape(grid)
        return len(grid_coords(shape, *self._window(shape, mode)))

    def latent_shape(self, grid: Grid) -> Triple:
        return latent_shape(grid.shape, triple([n * STEP for n in self.window]))

    def condition(self, xray: XrayInput) -> Condition:
        """What the X-ray tells, followed by the null condition of guidance: a batch of two."""
        device = self.device
        features = self.xray_encoder(xray.cxr[None].to(device))
        twice = [features.pooled, features.tokens, xray.xray[None].to(device), xray.camera[None].to(device)]
        pooled, tokens, image, camera = (v.expand(2, *v.shape[1:]) for v in twice)
        drop = torch.tensor([xray.dropped, True], device=device)
        grid = self.xray_encoder.grid
        views = [self._views(xray.views)] if xray.views else []
        return self.denoiser.encode_condition(pooled, tokens, grid, image, camera, drop, *views)  # type: ignore[arg-type]

    def _views(self, given: Mapping[str, XrayInput]) -> tuple[Tensor, ...]:
        """The further views as the denoiser takes them, for a batch of two."""
        names, some = list(self.denoiser.views), next(iter(given.values()))
        if unknown := sorted(set(given) - set(names)):
            raise UserError(
                f"this checkpoint takes the views {names} besides the frontal X-ray (model.views of its training), got"
                f" {', '.join(unknown)}: leave it out, or take a checkpoint that was trained with it"
            )
        shown = [given.get(name, some) for name in names]  # what stands for a missing one is not looked at
        features = self.xray_encoder(torch.stack([view.cxr for view in shown]).to(self.device))
        images, cameras = (torch.stack([getattr(v, key) for v in shown]).to(self.device) for key in ("xray", "camera"))
        missing = torch.tensor([name not in given for name in names], device=self.device)
        values = features.pooled, features.tokens, images, cameras, missing
        return tuple(value[None].expand(2, *value.shape) for value in values)

    def _window(self, shape: Triple, mode: str) -> tuple[Triple, Triple]:
        """Window and stride within a latent of `shape`; "whole" has one window as large as the latent."""
        return (shape, shape) if mode == "whole" else fit_window(shape, self.window, self.stride)

    def _predictor(self, xray: XrayInput, grid: Grid, plan: SamplingPlan) -> GuidedDenoiser:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=plan.bf16 is True):
            return GuidedDenoiser(self.denoiser, self.condition(xray), grid, plan, self.device)
