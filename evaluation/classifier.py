"""Classifiers that ask whether CTs, or features of X-rays, carry a label."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad

_LEAST = 32  # voxels along each axis that the network needs
_SHIFT = 0.04  # of a side, by which training CTs are shifted at random


def densenet() -> nn.Module:
    """A 3D DenseNet-121 (Huang et al. 2017; MONAI's): (B, 1, D, H, W) → (B, 1), from random weights."""
    from monai.networks.nets import DenseNet121  # here: it takes a moment to load

    network: nn.Module = DenseNet121(spatial_dims=3, in_channels=1, out_channels=1)
    return network


def train_classifier(
    network: Callable[[], nn.Module],
    cts: Tensor,
    labels: Sequence[bool],
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    device: torch.device,
) -> Callable[[Tensor], NDArray[np.float64]]:
    """Train on CTs (N, D, H, W) in [-1, 1], of any float type; → a function that scores such CTs, (N,).

    AdamW with a cosine schedule; both classes weigh alike; each CT is shifted at random by up to 4 % of its sides. The
    last batch of an epoch is left out where it holds a single CT, which batch normalisation does not stand.
    """
    cts = _large_enough(cts)
    target = torch.tensor(np.asarray(labels), dtype=torch.float32)
    balance = (target == 0).sum() / (target == 1).sum().clamp(min=1)
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net = network().to(device).train()
    steps = [part for part in range(0, len(cts), batch_size) if len(cts) - part > 1]
    optimizer = torch.optim.AdamW(net.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(steps))
    for _ in range(epochs):
        shuffled = torch.randperm(len(cts), generator=order)
        for first in steps:
            chosen = shuffled[first : first + batch_size]
            batch = torch.stack([_shifted(ct, order) for ct in cts[chosen]])[:, None].float().to(device)
            loss = binary_cross_entropy_with_logits(
                net(batch)[:, 0], target[chosen].to(device), pos_weight=balance.to(device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()

    @torch.no_grad()
    def score(some: Tensor) -> NDArray[np.float64]:
        return np.array([float(net(ct[None, None].float().to(device))) for ct in _large_enough(some)])

    return score


def _large_enough(cts: Tensor) -> Tensor:
    short = [max(0, _LEAST - n) for n in cts.shape[1:]]
    sides = [side for n in reversed(short) for side in (n // 2, n - n // 2)]
    return pad(cts, sides, value=-1.0) if any(short) else cts


def _shifted(ct: Tensor, order: torch.Generator) -> Tensor:
    by = [round(float((2 * torch.rand((), generator=order) - 1) * _SHIFT * n)) for n in ct.shape]
    return torch.roll(ct, by, (0, 1, 2))


def logistic(features: NDArray, labels: Sequence[bool], ridge: float = 1.0) -> Callable[[NDArray], NDArray[np.float64]]:
    """Logistic regression on features (N, P), standardised; → a function that scores such features, (N,).

    Minimises the summed log loss plus ridge / 2 times the weights' squares; the intercept is free.
    """
    mean, std = features.mean(0), features.std(0)
    std = np.where(std > 0, std, 1)
    x = torch.from_numpy((features - mean) / std).double()
    y = torch.tensor(np.asarray(labels), dtype=torch.float64)
    weights, intercept = torch.zeros(x.shape[1], dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    parameters = [weights.requires_grad_(), intercept.requires_grad_()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=1000, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = binary_cross_entropy_with_logits(x @ weights + intercept, y, reduction="sum")
        value = value + ridge / 2 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    fitted = weights.detach().numpy()
    return lambda some: np.asarray((some - mean) / std @ fitted + float(intercept.detach()), dtype=np.float64)
