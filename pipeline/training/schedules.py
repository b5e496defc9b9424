"""How the learning rate moves over a training."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup(optimizer: Optimizer, total_steps: float, warmup_steps: int, final: float) -> LambdaLR:
    """Linear rise over `warmup_steps`, then half a cosine to the share `final` at `total_steps`; 1 stays level.

    torch's SequentialLR rises again after the end, and restores length and rates of the training that it was saved in.
    """

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if final == 1 or math.isinf(total_steps):
            return 1.0
        done = min(1.0, (step - warmup_steps) / max(1.0, total_steps - warmup_steps))
        return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, share)


def restart(schedule: LambdaLR) -> None:
    """Set the learning rates of the schedule's step anew, from the `initial_lr` that its optimizer has now."""
    groups = schedule.optimizer.param_groups
    schedule.base_lrs = [group["initial_lr"] for group in groups]
    shares = [share(schedule.last_epoch) for share in schedule.lr_lambdas]
    schedule._last_lr = [base * share for base, share in zip(schedule.base_lrs, shares, strict=True)]
    for group, lr in zip(groups, schedule._last_lr, strict=True):
        group["lr"] = lr
