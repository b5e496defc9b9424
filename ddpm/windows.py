"""A denoiser for windows as a denoiser for volumes: overlapping windows, blended at every step."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from dataset.patches import Triple, blend_window, box, grid_coords, triple
from ddpm.samplers import Predict

# Predicts a batch of windows (N, C, d, h, w) at times (N,), given their first voxels, integers (N, 3).
PredictWindows = Callable[[Tensor, Tensor, Tensor], Tensor]


def fit_window(shape: Triple, window: Triple, stride: Triple) -> tuple[Triple, Triple]:
    """Window and stride, shrunk to a latent that is smaller than they are."""
    w = triple([min(a, b) for a, b in zip(window, shape, strict=True)])
    return w, triple([min(a, b) for a, b in zip(stride, w, strict=True)])


def fused(predict: PredictWindows, shape: Triple, window: Triple, stride: Triple, batch: int) -> Predict:
    """Predict a volume (1, C, D, H, W) as the Hann-weighted mean of its windows' predictions.

    Blending at every step keeps neighbouring windows consistent (MultiDiffusion, Bar-Tal et al. 2023); weights are
    positive everywhere, so every voxel counts.
    """
    window, stride = fit_window(shape, window, stride)
    coords = grid_coords(shape, window, stride)
    weights = blend_window(window, "hann")
    norm = torch.zeros(shape)
    for start in coords.tolist():
        norm[box(start, window)] += weights

    def predict_volume(x: Tensor, t: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for some in _batches(coords, batch):
            crops = torch.cat([x[(..., *box(c, window))] for c in some.tolist()])
            out = predict(crops, t.expand(len(crops)), some)
            for start, crop in zip(some.tolist(), out, strict=True):
                total[(0, slice(None), *box(start, window))] += crop.to(total) * weights.to(total)
        return total / norm.to(total)

    return predict_volume


def _batches(coords: Tensor, batch: int) -> Iterable[Tensor]:
    return coords.split(max(1, batch))
