"""A Gaussian field whose exact denoiser is known, drawn through the project's own sampling in all its modes.

One axis of 128 latent voxels, windows of 32 with stride 24, covariance Matérn 3/2. A perfect network predicts from the
conditional mean given what it sees: one window, or the whole.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from common.geometry import STEP
from common.patches import grid_coords, stitch_patches
from ddpm.diffusion import RectifiedFlow
from ddpm.generator import VolumeGenerator
from ddpm.latent_scale import LatentScale
from ddpm.plan import Grid, SamplingPlan, XrayInput
from evaluation.seams import overlap_variance, seam_index, times_covered, window_planes

SIZE, WINDOW, STRIDE = 128, 32, 24  # latent voxels
LENGTH = 10.0  # of the covariance
STEPS = 40


def covariance(size: int) -> Tensor:
    """Matérn 3/2, unit variance (size, size)."""
    place = torch.arange(size, dtype=torch.float64)
    distance = 3**0.5 * (place[:, None] - place).abs() / LENGTH
    return (1 + distance) * torch.exp(-distance)


class ExactDenoiser(nn.Module):
    """Predicts the velocity of rectified flow for fields along the last axis; channels are independent realisations."""

    def __init__(self, realisations: int) -> None:
        super().__init__()
        self.latent_channels = realisations
        self._spectra: dict[int, Any] = {}

    def encode_condition(self, *features: Any) -> Tensor:
        return torch.zeros(2, 1)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, positions: Tensor, spacing: Tensor) -> Tensor:
        size = x.shape[-1]
        if size not in self._spectra:
            self._spectra[size] = torch.linalg.eigh(covariance(size))
        values, vectors = self._spectra[size]
        s = float(t[0])
        a = 1 - s
        # E[x0 | x] for x = a x0 + s noise, in the eigenbasis of the covariance
        x0 = ((x.double() @ vectors) * (a * values / (a**2 * values + s**2))) @ vectors.T
        return ((x - a * x0) / s - x0).to(x)


class NoFeatures(nn.Module):
    """Stands for the X-ray encoder: the field has no X-ray."""

    grid = (1, 1)

    def forward(self, cxr: Tensor) -> Any:
        return SimpleNamespace(pooled=torch.zeros(1, 1), tokens=torch.zeros(1, 1, 1))


NO_XRAY = XrayInput(torch.zeros(1, 2, 2), torch.zeros(3, 2, 2), torch.eye(3, 4))


class Field:
    """Draws many realisations (N, 1, 1, SIZE) at once.

    Args:
        realisations: N; the channels of one latent, each a field of its own.
    """

    def __init__(self, realisations: int) -> None:
        scale = LatentScale(torch.zeros(realisations), torch.ones(realisations))
        denoiser: Any = ExactDenoiser(realisations)
        no_codec: Any = nn.Identity()
        self.generator = VolumeGenerator(
            denoiser, RectifiedFlow(), scale, no_codec, NoFeatures(), (1, 1, WINDOW), (1, 1, STRIDE)
        )

    def draw(self, mode: str, size: int = SIZE, seed: int = 0) -> Tensor:
        grid = Grid((STEP, STEP, STEP * size), (1.0, 1.0, 1.0))
        plan = SamplingPlan(STEPS, mode=mode, bf16=False)
        return self.generator.latent(NO_XRAY, grid, plan, seed)[:, None].flatten(1, 2)

    def draw_with_own_noise(self, seed: int = 0) -> Tensor:
        """Windows drawn apart from noise of their own, then averaged: the guide's way to the letter."""
        coords = grid_coords((1, 1, SIZE), (1, 1, WINDOW), (1, 1, STRIDE))
        windows = [self.draw("whole", WINDOW, seed + 1 + i) for i in range(len(coords))]
        return stitch_patches(windows, coords, (1, 1, SIZE))


def measure(realisations: int) -> dict[str, float]:
    """Seam index and overlap variance of each mode; both are 1 for the field itself."""
    field = Field(realisations)
    drawn = {f"toy_{mode}": field.draw(mode) for mode in ("independent", "fused", "whole")}
    drawn["toy_independent_own_noise"] = field.draw_with_own_noise()
    planes = [[], [], window_planes(SIZE, WINDOW, STRIDE)]
    covered = times_covered((1, 1, SIZE), (1, 1, WINDOW), (1, 1, STRIDE))
    index = {name: round(seam_index(fields.numpy(), planes), 3) for name, fields in drawn.items()}
    return index | {
        f"{name}_overlap_variance": round(overlap_variance(fields.numpy(), covered), 3)
        for name, fields in drawn.items()
    }
