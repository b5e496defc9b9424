"""Mean and variance of more values than fit into memory."""

from collections.abc import Iterable

import torch
from torch import Tensor


def mean_and_variance(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Of each row over all columns of all batches (R, N): float64 (R,).

    Raises:
        ValueError: there are no columns.
    """
    count, total, square = 0, torch.zeros(()), torch.zeros(())
    for rows in batches:
        rows = rows.float()  # the sums alone are float64: a volume's activations would not fit twice
        count += rows.shape[1]
        total = total + rows.sum(1, dtype=torch.float64)
        square = square + rows.square().sum(1, dtype=torch.float64)
    if count == 0:
        raise ValueError("no values to take mean and variance of")
    mean = total / count
    return mean, (square / count - mean.square()).clamp_min(0)
