"""Averaged weights."""

import pytest
import torch
from torch import nn

from ddpm.ema import WeightAverage, load_weights, trainable


def network():
    layer = nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    return layer


def train(module, value):
    with torch.no_grad():
        module.weight.fill_(value)


def test_the_average_is_that_of_its_formula():
    module, ema = network(), WeightAverage(0.5)
    train(module, 0.0)
    expected, values = None, [1.0, -2.0, 4.0, 8.0, 3.0, 3.0, 7.0, 1.0, 2.0, 5.0, 9.0, 6.0]
    for n, value in enumerate(values, start=1):
        train(module, value)
        ema.update(module)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    torch.testing.assert_close(ema.average["weight"], torch.full((1, 2), expected))
    assert ema.updates == len(values)


def test_only_trainable_weights_are_averaged_and_they_are_copies():
    module, ema = network(), WeightAverage()
    ema.update(module)
    assert list(ema.average) == list(trainable(module)) == ["weight"]
    train(module, 99.0)
    assert (ema.average["weight"] != 99).all()


def test_swapping_in_and_out_leaves_the_trained_weights():
    module, ema = network(), WeightAverage(0.0)
    train(module, 1.0)
    ema.update(module)
    train(module, 2.0)
    ema.swap_in(module)
    ema.swap_in(module)  # a second time changes nothing
    assert (module.weight == 1).all()
    ema.swap_out(module)
    assert (module.weight == 2).all()
    ema.swap_out(module)
    assert (module.weight == 2).all()


def test_an_average_survives_saving():
    module, ema, other = network(), WeightAverage(0.5), WeightAverage(0.5)
    ema.update(module)
    other.load_state_dict(ema.state_dict())
    train(module, 5.0)
    for average in (ema, other):
        average.update(module)
    assert torch.equal(ema.average["weight"], other.average["weight"])
    assert other.updates == 2


def test_averages_of_another_network_are_refused():
    with pytest.raises(ValueError, match="another network.*other"):
        load_weights(network(), {"other": torch.zeros(1)})


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_lies_below_1(decay):
    with pytest.raises(ValueError, match="decay"):
        WeightAverage(decay)
