"""The network's kernels as CUDA graphs, in training with their backward pass: some thousand launched as one.

A step of the guide's network at batch 2 keeps a GPU busy for a small part of the time that a CPU takes to launch its
kernels one by one. A graph launches the very same kernels, so results do not change.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from common.errors import UserError
from ddpm.denoiser import PatchDenoiser

WARM_UP = 3  # evaluations before recording: libraries make their plans and choose their algorithms


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
        *views: Tensor,
    ) -> Tensor:
        """Shapes as `PatchDenoiser.encode_condition` and `PatchDenoiser.forward` have them."""
        condition = self.denoiser.encode_condition(pooled, tokens, self.grid, xray, xray_camera, dropped, views)
        return self.denoiser(x_t, t, condition, positions, spacing)


class GraphedPrediction:
    """`Prediction` that replays CUDA graphs in training, for inputs of the recorded sizes; others are computed as ever.

    The answer and the parameters' gradients lie where the next call writes its own: a gradient must be used up, or
    added to another tensor, before that: see `PatchDDPM.optimizer_zero_grad`.

    Args:
        sample: inputs of a training batch, on the GPU; to be recorded under the autocast that training uses.

    Raises:
        UserError: the network does what cannot be recorded.
    """

    def __init__(self, prediction: Prediction, sample: Sequence[Tensor]) -> None:
        self.eager, self._sizes = prediction, _sizes(sample)
        self._parameters = dict(prediction.named_parameters())

        def predict(*tensors: Tensor) -> Tensor:
            weights = dict(zip(self._parameters, tensors[len(sample) :], strict=True))
            answer: Tensor = functional_call(prediction, weights, tensors[: len(sample)])
            return answer

        # The weights are inputs that lie where the module's do. The module's own would break the recording wherever
        # DistributedDataParallel has tied them to another stream.
        weights = (p.detach().requires_grad_() for p in self._parameters.values())
        inputs = (*(tensor.clone() for tensor in sample), *weights)
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # weights rounded once would stay as they were when recorded
        try:
            with nothing_collected():
                self._replay: Any = torch.cuda.make_graphed_callables(predict, inputs, num_warmup_iters=WARM_UP)
        except RuntimeError as error:
            _explain(error)
            raise
        finally:
            torch.set_autocast_cache_enabled(cached)

    def __call__(self, *inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.eager.denoiser.training and _sizes(inputs) == self._sizes:
            replayed: Tensor = self._replay(*inputs, *self._parameters.values())
            return replayed
        answer: Tensor = self.eager(*inputs)
        return answer


class Replayed:
    """A function of tensors on a GPU, without gradients, whose kernels are recorded once for each size of its inputs.

    Whatever else it reads must stay where and as it is. Graphs share their memory: one replay at a time. The function
    comes with each call, and always the same one: kept here, its owner would be kept by what it owns.
    """

    def __init__(self) -> None:
        self._recorded: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}
        self._pool: Any = None

    def __call__(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        key = tuple(_sizes(inputs))
        if key not in self._recorded:
            with nothing_collected():
                self._recorded[key] = self._record(function, inputs)
        graph, given, answer = self._recorded[key]
        for tensor, value in zip(given, inputs, strict=True):
            tensor.copy_(value)
        graph.replay()
        return answer.clone()

    def _record(
        self, function: Callable[..., Tensor], inputs: Sequence[Tensor]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        given, stream = [tensor.clone() for tensor in inputs], torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        tried = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True  # replays pay back what trying algorithms takes
        with torch.cuda.stream(stream):
            function(*given)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # loaders run beside it: what their threads ask of the GPU is none of this recording's
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            answer = function(*given)
        torch.backends.cudnn.benchmark = tried
        self._pool = graph.pool()
        return graph, given, answer


def _explain(error: BaseException) -> None:
    """Raise what is behind an error in a recording: no memory, or an operation that cannot be recorded, such as one of
    a network of one's own that asks the GPU for a number."""
    earlier = error.__context__
    if isinstance(earlier, torch.OutOfMemoryError):  # after which ending the recording failed too
        raise earlier
    said = str(error).partition("\n")[0]
    if "captur" in said:
        raise UserError(f"no CUDA graph of a training step: {said}\nmodel.graph=false trains without") from error


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Python's garbage collector waits: if it comes upon another graph during a recording, that breaks off."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _sizes(inputs: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in inputs]
