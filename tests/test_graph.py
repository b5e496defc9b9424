"""What a CPU can show of CUDA graphs: which tensors a recording is given, and when it is replayed."""

import pytest
import torch

from ddpm.graph import GraphedPrediction, Prediction
from tests.tiny import built_ddpm


@pytest.fixture
def training(workshop):
    """A module that has learned something, in training mode, and two batches' inputs of its prediction."""
    made = built_ddpm(*workshop.ddpm)
    module = made.module.train()
    for parameter in module.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    module.latent_scale.measure([module._raw_latents(made.batch)])
    inputs = module._noised(made.batch)[0]
    return module, inputs, [tensor.flip(0) for tensor in inputs]


@pytest.fixture
def recorded(monkeypatch):
    """`make_graphed_callables` that records what it was given, and computes instead of replaying."""
    calls = []

    def make(function, sample, num_warmup_iters):
        def replay(*tensors):
            calls.append(tensors)
            return function(*tensors)

        assert all(t.is_leaf for t in sample)
        assert not torch.is_autocast_cache_enabled()
        replay.sample = sample
        return replay

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    return calls


def gradients(module, predict, inputs):
    module.zero_grad()
    answer = predict(*inputs)
    answer.square().mean().backward()
    return answer.detach(), {name: p.grad.clone() for name, p in module.denoiser.named_parameters()}


def test_a_replay_is_given_this_steps_inputs_and_weights(training, recorded):
    module, inputs, others = training
    eager = Prediction(module.denoiser, module._frozen[1].grid)
    graphed = GraphedPrediction(eager, inputs)
    expected, wanted = gradients(module, eager, others)
    answer, found = gradients(module, graphed, others)
    assert len(recorded) == 1
    assert torch.equal(answer, expected)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    sample = graphed._replay.sample
    weights = list(module.denoiser.parameters())
    for given, weight in zip(sample[len(inputs) :], weights, strict=True):
        assert given is not weight  # whose node may belong to another stream
        assert given.data_ptr() == weight.data_ptr()  # so that steps of the optimizer are seen
        assert given.requires_grad
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(sample, inputs, strict=False))


def test_other_sizes_and_validation_are_computed(training, recorded):
    module, inputs, _ = training
    graphed = GraphedPrediction(Prediction(module.denoiser, module._frozen[1].grid), inputs)
    graphed(*(tensor[:1] for tensor in inputs))
    with torch.no_grad():
        graphed(*inputs)
    module.eval()
    graphed(*inputs)
    assert recorded == []
