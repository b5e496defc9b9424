"""Training steps as CUDA graphs: some thousand small kernels and their backward pass, each launched as one.

A step of the guide's network at batch 2 keeps a GPU busy for a small part of the time that a CPU takes to launch its
kernels one by one. A graph launches the very same kernels, so results do not change.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddpm.denoiser import PatchDenoiser

WARM_UP = 11  # evaluations before recording; DistributedDataParallel wants 11


class Prediction(nn.Module):
    """The denoiser's answer to a batch of patches, from tensors alone, which is all that a graph can be given.

    Args:
        grid: (rows, columns) of the X-ray encoder's tokens.
    """

    def __init__(self, denoiser: PatchDenoiser, grid: tuple[int, int]) -> None:
        super().__init__()
        self.denoiser, self.grid = denoiser, grid

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        pooled: Tensor,
        tokens: Tensor,
        xray: Tensor,
        xray_camera: Tensor,
        dropped: Tensor,
        positions: Tensor,
        spacing: Tensor,
    ) -> Tensor:
        """Shapes as `PatchDenoiser.encode_condition` and `PatchDenoiser.forward` have them."""
        condition = self.denoiser.encode_condition(pooled, tokens, self.grid, xray, xray_camera, dropped)
        return self.denoiser(x_t, t, condition, positions, spacing)


class GraphedPrediction:
    """`Prediction` that replays CUDA graphs in training, for inputs of the recorded sizes; others are computed as ever.

    The answer and the parameters' gradients lie where the next call writes its own: a gradient must be used up, or
    added to another tensor, before that (`optimizer.zero_grad(set_to_none=False)` where gradients accumulate).

    Args:
        sample: inputs of a training batch, on the GPU; to be recorded under the autocast that training uses.
    """

    def __init__(self, prediction: Prediction, sample: Sequence[Tensor]) -> None:
        self.eager, self._sizes = prediction, _sizes(sample)
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # weights rounded once would stay as they were when recorded
        try:
            inputs = tuple(tensor.clone() for tensor in sample)
            self.graphed: Any = torch.cuda.make_graphed_callables(
                Prediction(prediction.denoiser, prediction.grid).train(), inputs, num_warmup_iters=WARM_UP
            )
        finally:
            torch.set_autocast_cache_enabled(cached)

    def __call__(self, *inputs: Tensor) -> Tensor:
        replays = torch.is_grad_enabled() and self.eager.denoiser.training and _sizes(inputs) == self._sizes
        predict = self.graphed if replays else self.eager
        return predict(*inputs)


def _sizes(inputs: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in inputs]
