"""What a network draws that is still being trained."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from common.geometry import STEP, triple
from ddpm.diffusion import CosineDDPM, Regression
from ddpm.generator import VolumeGenerator
from ddpm.module import PatchDDPM
from ddpm.plan import Grid, SamplingPlan, XrayInput
from ddpm.samplers import MEAN


class _Known(nn.Module):
    """In place of the X-ray encoder, where an X-ray's features are known: those, whatever it is shown."""

    def __init__(self, pooled: Tensor, tokens: Tensor, grid: tuple[int, int]) -> None:
        super().__init__()
        self.features, self.grid = SimpleNamespace(pooled=pooled, tokens=tokens), grid

    def forward(self, cxr: Tensor) -> SimpleNamespace:
        return self.features


@torch.no_grad()
def draw_while_training(
    module: PatchDDPM,
    weights: Mapping[str, Tensor],
    patient: Mapping[str, Tensor],
    grid: Grid,
    steps: int,
    dropped: bool = False,
    seed: int = 0,
) -> Tensor:
    """A latent (C, d, h, w), unscaled, as `VolumeGenerator.latent` draws it. The module stays as it is.

    Args:
        weights: of the module, by name, to draw with; others are as they are now.
        patient: its frontal X-ray as the items of `XrayCTPAPatchDataset` have it.
        steps: of DDIM, as far as the diffusion has as many.
        dropped: draw as if there were no X-ray.
    """
    denoiser = deepcopy(module.denoiser)  # drawing wants it frozen, and training goes on
    for name, parameter in denoiser.named_parameters():
        parameter.copy_(weights.get(f"denoiser.{name}", parameter))
    kept = [key for key in ("xray_pooled", "xray_tokens", "cxr") if key in patient]
    batch = {key: patient[key][None].to(module.device) for key in kept}
    known = _Known(*module._features(batch), module._frozen[1].grid)
    patch, stride = (triple([n // STEP for n in module.meta[key]]) for key in ("patch_size", "stride"))
    generator = VolumeGenerator(denoiser, module.diffusion, module.latent_scale, module.codec, known, patch, stride)
    xray = XrayInput(patient["xray"], patient["xray"], patient["xray_camera"], dropped)
    return generator.latent(xray, grid, _plan(module, steps), seed).cpu()


def _plan(module: PatchDDPM, steps: int) -> SamplingPlan:
    plan = SamplingPlan(steps, window_batch=1)
    if isinstance(module.diffusion, Regression):
        return replace(plan, sampler=MEAN)
    if isinstance(module.diffusion, CosineDDPM):
        return replace(plan, steps=min(steps, module.diffusion.num_steps))
    return plan
