"""A denoiser for windows as a denoiser for volumes: overlapping windows, blended at every step."""

from collections.abc import Callable

import torch
from torch import Tensor

from common.collectives import Team
from common.geometry import Triple, slices, triple
from common.patches import blend_window, grid_coords
from ddpm.samplers import Predict

# Predicts a batch of windows (N, C, d, h, w) at times (N,), given their first voxels, integers (N, 3).
PredictWindows = Callable[[Tensor, Tensor, Tensor], Tensor]


def fit_window(shape: Triple, window: Triple, stride: Triple) -> tuple[Triple, Triple]:
    """Window and stride, shrunk to a latent that is smaller than they are."""
    w = triple([min(a, b) for a, b in zip(window, shape, strict=True)])
    return w, triple([min(a, b) for a, b in zip(stride, w, strict=True)])


def fused(
    predict: PredictWindows,
    shape: Triple,
    window: Triple,
    stride: Triple,
    batch: int,
    team: Team | None = None,
) -> Predict:
    """Predict a volume (1, C, D, H, W) as the Hann-weighted mean of its windows' predictions.

    Blending at every step keeps neighbouring windows consistent (MultiDiffusion, Bar-Tal et al. 2023); weights are
    positive everywhere, so every voxel counts. Sums live where the volume does, wherever the network is.

    Args:
        batch: most windows in a call of `predict`; calls are as equal as can be.
        team: every member calls this with the same volume, sees its share of the windows and gets the whole result.
    """
    team = team or Team()
    window, stride = fit_window(shape, window, stride)
    coords = grid_coords(shape, window, stride)
    weights = blend_window(window, "hann")
    norm = torch.zeros(shape)
    placed: list[Tensor] = []  # weights and norm where the volume is, once it is known
    own = team.share(coords)
    calls = -(-len(own) // batch)
    batches = [own[n * len(own) // calls : (n + 1) * len(own) // calls] for n in range(calls)]
    for start in coords.tolist():
        norm[slices(start, window)] += weights

    def predict_volume(x: Tensor, t: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        if not placed:
            placed.extend((weights.to(total), norm.to(total)))
        here, summed = placed
        for some in batches:
            crops = torch.cat([x[(..., *slices(c, window))] for c in some.tolist()])
            out = predict(crops, t.expand(len(crops)), some).to(total)
            for start, crop in zip(some.tolist(), out, strict=True):
                total[(0, slice(None), *slices(start, window))] += crop * here
        return team.sum(total) / summed

    return predict_volume
