"""A GPU on paper sees what a GPU would refuse, where the host would wait for it, and what it would hold."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from benchmarks.fake_backward import backward
from benchmarks.fake_gpu import BLOCK, CUDA, FakeGPU

SIDE = 64


@pytest.fixture
def gpu():
    with FakeGPU() as made:
        yield made


def layers(count):
    with torch.device("meta"):
        return nn.Sequential(*(nn.Linear(SIDE, SIDE) for _ in range(count)))


def test_tensors_count_while_somebody_holds_them_and_views_do_not(gpu):
    a = torch.zeros(3, BLOCK, dtype=torch.uint8, device=CUDA)
    b = torch.zeros(1, device=CUDA)
    view = a[1:]
    assert gpu.live == 4 * BLOCK
    del a, b
    assert gpu.live == 3 * BLOCK  # of the view
    del view
    assert gpu.live == 0
    assert gpu.peak == 4 * BLOCK


def test_what_is_on_the_host_is_computed(gpu):
    there = torch.arange(3)
    assert there.tolist() == [0, 1, 2]
    assert there.to(CUDA).device == CUDA
    assert torch.tensor([1.0], device="cuda").device == CUDA
    assert gpu.waits == {}


def test_tensors_of_two_devices_do_not_meet(gpu):
    with pytest.raises(RuntimeError, match=r"cpu.*cuda|cuda.*cpu"):
        torch.ones(2, device=CUDA) + torch.ones(2)


@pytest.mark.parametrize(
    "read",
    [lambda x: x.sum().item(), lambda x: float(x[0]), lambda x: x.cpu(), lambda x: x.tolist(), lambda x: bool(x.any())],
)
def test_reading_numbers_back_is_seen(gpu, read):
    read(torch.ones(1, device=CUDA))
    assert list(gpu.waits) == ["tests/test_fake_gpu.py:<lambda>"]


def test_sizes_that_depend_on_numbers_are_refused(gpu):
    with pytest.raises(Exception, match="nonzero"):
        torch.ones(3, device=CUDA).nonzero()


def test_the_backward_pass_gives_every_parameter_a_gradient_and_lets_go_of_what_it_used(gpu):
    network = gpu.put(layers(3))
    weights = gpu.live
    x = torch.zeros(8, SIDE, device=CUDA)
    network(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in network.parameters())
    del x
    assert gpu.live == 2 * weights


def test_checkpoints_keep_less(gpu):
    network, peaks = gpu.put(layers(8)), []
    for forward in (network, lambda x: checkpoint(network, x, use_reentrant=False, preserve_rng_state=False)):
        network.zero_grad()
        x = torch.zeros(64 * SIDE, SIDE, device=CUDA)
        gpu.begin()
        loss = forward(x).sum()
        peaks.append(gpu.live)
        loss.backward()
        assert all(p.grad is not None for p in network.parameters())
        del loss
    assert peaks[1] < 0.5 * peaks[0]


def test_gradients_are_those_of_torch():
    """On the host, where there are numbers: branches that meet, shapes that are broadcast, a function of our own."""
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4)), torch.randn(5, 4)

    def loss():
        h = network(x)
        return (h * network[0].bias + h.square()).mean() + network[2](h).sum()

    loss().backward()
    wanted = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    backward(loss())
    for parameter, grad in zip(network.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_attention_holds_no_matrix_of_all_pairs(gpu):
    q = torch.zeros(1, 1, 4096, 64, dtype=torch.bfloat16, device=CUDA, requires_grad=True)
    gpu.begin()
    scaled_dot_product_attention(q, q, q)
    assert gpu.peak - gpu.kept < 4 * q.nbytes


def test_afterwards_there_is_no_gpu():
    before = torch.Tensor.backward
    with FakeGPU():
        assert torch.cuda.is_available()
        assert torch.autocast("cuda", torch.bfloat16)._enabled
    assert not torch.cuda.is_available()
    assert torch.Tensor.backward is before


def test_what_comes_back_to_the_host_can_be_worked_with(gpu):
    there = torch.ones(2, device=CUDA)
    assert there.cpu().numpy().shape == (2,)
    host = torch.ones(2)
    assert host.copy_(there) is host
    assert sum(gpu.waits.values()) == 2


def test_a_copy_may_arrive_later(gpu):
    host, sent = torch.empty(3), torch.cuda.Event()
    host.copy_(torch.ones(3, device=CUDA), non_blocking=True)
    sent.record()
    assert gpu.waits == {}
    sent.synchronize()
    assert list(gpu.waits) == ["tests/test_fake_gpu.py:test_a_copy_may_arrive_later"]
