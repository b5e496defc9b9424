"""RMS normalisation: torch's own where the channels are last, and the same along any other axis."""

import pytest
import torch

from common.layers import RMSNorm


def randomized(channels, axes, eps):
    norm = RMSNorm(channels, axes, eps)
    torch.nn.init.uniform_(norm.gain, 0.5, 2)
    return norm


@pytest.mark.parametrize(("axes", "shape"), [(0, (2, 5, 8)), (2, (2, 8, 3, 5)), (3, (2, 8, 3, 4, 5))])
def test_it_is_torchs_norm_along_the_channels(axes, shape):
    x, norm = torch.randn(shape, requires_grad=True), randomized(8, axes, 1e-2)
    theirs = torch.nn.functional.rms_norm(x.movedim(-1 - axes, -1), (8,), norm.gain.flatten(), 1e-2)
    torch.testing.assert_close(norm(x), theirs.movedim(-1, -1 - axes))
    here, there = (torch.autograd.grad(y.square().sum(), x, retain_graph=True)[0] for y in (norm(x), theirs))
    torch.testing.assert_close(here, there)


def test_every_voxel_gets_unit_mean_square_and_zeros_stay():
    x = torch.randn(2, 8, 3, 4, 5) * torch.logspace(-1, 2, 5)
    torch.testing.assert_close(RMSNorm(8, 3)(x).square().mean(1), torch.ones(2, 3, 4, 5), rtol=0.02, atol=0)
    assert RMSNorm(8, 3)(torch.zeros(1, 8, 1, 1, 1)).eq(0).all()


def test_half_precision_in_and_out_but_statistics_are_wide():
    x = torch.full((1, 4, 2, 2, 2), 300.0, dtype=torch.float16)  # whose square is infinite in float16
    y = RMSNorm(4, 3)(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, torch.ones_like(x), rtol=1e-2, atol=0)
