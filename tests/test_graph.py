"""What a CPU can show of CUDA graphs: which tensors a recording is given, and when it is replayed."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from common.errors import UserError
from ddpm.graph import GraphedPrediction, Prediction, Replayed
from ddpm.plan import SamplingPlan
from tests.test_generator import GRID, XRAY, make_generator
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


def replaying(function, sample, num_warmup_iters):
    """As `make_graphed_callables`: gradients lie in tensors that each replay fills anew."""
    lie_in = [torch.zeros_like(tensor) if tensor.requires_grad else None for tensor in sample]

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            ctx.given = [t.detach().requires_grad_(s.requires_grad) for t, s in zip(tensors, sample, strict=True)]
            with torch.enable_grad():
                ctx.answer = function(*ctx.given)
            return ctx.answer.detach()

        @staticmethod
        def backward(ctx, slope):
            wanted = [t for t in ctx.given if t.requires_grad]
            found = iter(torch.autograd.grad(ctx.answer, wanted, slope))
            return tuple(None if where is None else where.copy_(next(found)).detach() for where in lie_in)

    return Replay.apply


def test_gradients_that_add_up_are_those_of_single_kernels(training, monkeypatch):
    module, inputs, _ = training
    batches = inputs, [0.5 * inputs[0], *inputs[1:]]
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", replaying)
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(accumulate_grad_batches=2))
    eager = Prediction(module.denoiser, module._frozen[1].grid)
    optimizer = torch.optim.SGD(module.denoiser.parameters(), lr=0.0)

    def twice(predict):
        found = []
        module.zero_grad()
        for _ in range(2):  # what the first step leaves behind must not spoil the second
            module.optimizer_zero_grad(0, 0, optimizer)
            for inputs in batches:
                predict(*inputs).square().mean().backward()
            found.append({name: p.grad.clone() for name, p in module.denoiser.named_parameters()})
        return found

    expected = twice(eager)
    module._graphed = GraphedPrediction(eager, batches[0])
    for step, (wanted, found) in enumerate(zip(expected, twice(module._graphed), strict=True)):
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], msg=f"{name}, step {step}")


def test_what_cannot_be_recorded_says_what_helps(training, monkeypatch):
    module, inputs, _ = training
    eager = Prediction(module.denoiser, module._frozen[1].grid)

    def broken(error, first=None):
        def make(*_, **__):
            if first is None:
                raise error
            try:
                raise first
            finally:
                raise error  # noqa: B012  # as torch's graph does when it ends

        monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
        GraphedPrediction(eager, inputs)

    refused = RuntimeError("CUDA error: operation not permitted when stream is capturing\nSearch for more\n")
    with pytest.raises(UserError, match=r"is capturing\nmodel\.graph=false"):
        broken(refused)
    full = torch.OutOfMemoryError("Tried to allocate 2 GiB")  # which has advice of its own
    for case in ((full,), (refused, full)):
        with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
            broken(*case)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):  # a fault is told as one
        broken(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert torch.is_autocast_cache_enabled()


@pytest.mark.parametrize(("settings", "records"), [([], True), (["graph=false"], False), (["compile=true"], False)])
def test_a_gpu_records_unless_blocks_are_compiled(settings, records, workshop, elsewhere):
    made = built_ddpm(*workshop.ddpm, *(f"model.{word}" for word in settings))
    assert made.module._wants_graph is records


def test_nothing_is_collected_while_a_graph_is_recorded(training, monkeypatch):
    module, inputs, _ = training
    collects = []

    def make(function, sample, num_warmup_iters):
        collects.append(gc.isenabled())
        return function

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make)
    GraphedPrediction(Prediction(module.denoiser, module._frozen[1].grid), inputs)
    graph = SimpleNamespace(replay=lambda: None)
    monkeypatch.setattr(
        Replayed, "_record", lambda _, f, given: collects.append(gc.isenabled()) or (graph, given, f(*given))
    )
    Replayed()(torch.neg, torch.ones(2))
    assert collects == [False, False]
    assert gc.isenabled()


@pytest.mark.parametrize("mode", ["fused", "whole", "independent"])
def test_a_drawings_graphs_go_with_it(mode, monkeypatch):
    """Left to the garbage collector they would pile up, patient by patient."""
    generator, graphs = make_generator(), []
    make = generator._predictor

    def on_a_gpu(*args):
        guided = make(*args)
        guided._replayed = Replayed()
        graphs.append(weakref.ref(guided._replayed))
        return guided

    def record(_, function, given):
        return SimpleNamespace(replay=lambda: None), [tensor.clone() for tensor in given], function(*given)

    monkeypatch.setattr(Replayed, "_record", record)
    monkeypatch.setattr(generator, "_predictor", on_a_gpu)
    gc.disable()
    try:
        generator.latent(XRAY, GRID, SamplingPlan(2, mode=mode, guidance=2.0), 1)
        assert [graph() for graph in graphs] == [None]
    finally:
        gc.enable()
