"""An optimizer that steps by orthogonal matrices."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's iteration: fast at first, near enough to 1 in the end
_ITERATIONS = 5
_ADAM_RMS = 0.2  # what AdamW's updates have, so that its learning rates and weight decay hold here


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for kernels and matrices, AdamW for all else, at one learning rate.

    A kernel (out, in, ...) counts as a matrix (out, in · ...). Its averaged gradient is replaced by the nearest
    orthogonal matrix, of the size of AdamW's updates (Liu et al. 2025, arXiv 2502.16982). What has fewer than
    `smallest` rows or columns, such as gains, biases and a head of few channels, gets AdamW's step.

    Args:
        lr, betas, weight_decay: as torch's AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        smallest: int = 16,
    ) -> None:
        own = {"momentum": 0.95, "betas": betas, "eps": 1e-8, "smallest": smallest}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **own})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: defaultdict[Any, list[Tensor]] = defaultdict(list)
            others: list[Tensor] = []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                shape = parameter.flatten(1).shape if parameter.ndim > 1 else (1,)
                (others if min(shape) < group["smallest"] else alike[shape]).append(parameter)
            for parameters in alike.values():
                self._step_matrices(parameters, group)
            self._step_others(others, group)
        return loss

    def _step_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """All of one shape, together."""
        averaged = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg"].lerp_(parameter.grad, 1 - group["momentum"])
            averaged.append(parameter.grad.lerp(state["exp_avg"], group["momentum"]).flatten(1))  # type: ignore[union-attr]
        updates = orthogonal(torch.stack(averaged))
        size = _ADAM_RMS * max(updates.shape[1:]) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.view_as(parameter), alpha=-group["lr"] * size)

    def _step_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        for state, parameter in zip(states, parameters, strict=True):
            if not state:
                state.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(parameter))
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonal(matrices: Tensor) -> Tensor:
    """Near the closest matrices (N, rows, columns) whose singular values are one: within 0.7 and 1.2.

    On a GPU in bfloat16, which is enough for it.
    """
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    x = wide.bfloat16() if wide.is_cuda else wide
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = a * x + torch.baddbmm(square, square, square, beta=b, alpha=c) @ x
    return (x if wide is matrices else x.mT).to(matrices.dtype)
