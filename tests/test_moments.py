"""Mean and variance of more values than fit into memory."""

import pytest
import torch

from common.moments import mean_and_variance


def test_batches_together_give_what_one_would():
    rows = torch.randn(3, 90, dtype=torch.float64) * torch.tensor([[1.0], [2.0], [0.5]]) + torch.tensor(
        [[0.0], [9], [-4]]
    )
    mean, variance = mean_and_variance(rows.float().split([1, 59, 30], 1))
    torch.testing.assert_close(mean, rows.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance, rows.var(1, correction=0), rtol=1e-4, atol=0)


def test_half_precision_does_not_limit_the_sums():
    ones = torch.ones(1, 4096, dtype=torch.float16)  # float16 counts no further than 2048
    mean, variance = mean_and_variance([ones, ones])
    assert (mean.item(), variance.item()) == (1, 0)


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="no values"):
        mean_and_variance([])
