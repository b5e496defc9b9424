"""Muon: orthogonal steps for matrices and kernels, AdamW's for all else."""

import pytest
import torch
from torch import nn

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from pipeline.training.muon import Muon, orthogonal
from tests.test_resume import LENGTH, assert_same, stop_at
from tests.tiny import DDPM_CKPT, VQGAN_CKPT, Stopped, load, run

SMALL = "optimizer.smallest=4"


def parameters(*shapes, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=draws)) for shape in shapes]


def train(optimizer, weights, steps=3):
    draws = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=draws)
        optimizer.step()
    return [weight.detach() for weight in weights]


@pytest.mark.parametrize("shape", [(16, 16), (16, 400), (200, 24)])
def test_singular_values_are_near_one_and_directions_stay(shape):
    torch.manual_seed(0)
    matrices = torch.randn(2, *shape) * torch.tensor([1e-4, 1e4])[:, None, None]
    made = orthogonal(matrices)
    for matrix, near in zip(matrices, made, strict=True):
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        found = left.mT @ near @ right.mT
        large = sizes > 0.1 * sizes[0]
        assert ((found.diag()[large] > 0.65) & (found.diag()[large] < 1.25)).all()
        assert (found - torch.diag(found.diag())).abs().max() < 0.01


def test_all_that_is_no_matrix_gets_adamws_step():
    shapes = [(7,), (1, 32), (8, 40), (40, 8), (4, 4, 3, 3, 3)]
    ours, theirs = parameters(*shapes), parameters(*shapes)
    got = train(Muon(ours, lr=0.1, weight_decay=0.2), ours)
    expected = train(torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.2), theirs)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_a_kernel_steps_as_the_matrix_that_it_is():
    (kernel,), (matrix,) = parameters((16, 20, 3, 3, 3)), parameters((16, 540))
    (got,), (expected,) = train(Muon([kernel], lr=0.1), [kernel]), train(Muon([matrix], lr=0.1), [matrix])
    torch.testing.assert_close(got.flatten(1), expected)


def test_one_step_has_the_size_of_adamws_and_weights_decay():
    (weight,) = parameters((64, 256))
    before = weight.detach().clone()
    (after,) = train(Muon([weight], lr=0.01, weight_decay=0.5), [weight], steps=1)
    moved = (after - before * (1 - 0.01 * 0.5)) / 0.01
    assert moved.pow(2).mean().sqrt() == pytest.approx(0.2, rel=0.15)


def test_weights_of_one_shape_do_not_mix():
    together, apart = parameters((16, 32), (16, 32)), parameters((16, 32), (16, 32))
    got = train(Muon(together, lr=0.1), together, steps=1)
    draws = torch.Generator().manual_seed(1)
    for weight, expected in zip(apart, got, strict=True):
        weight.grad = torch.randn(weight.shape, generator=draws)
        Muon([weight], lr=0.1).step()
        torch.testing.assert_close(weight.detach(), expected)


def test_weights_without_a_gradient_stay():
    first, second = parameters((16, 16), (3,))
    Muon([first, second], lr=0.1).step()
    torch.testing.assert_close([first, second], parameters((16, 16), (3,)))


@pytest.mark.parametrize(
    ("stage", "train", "ckpt"),
    [("vqgan", train_vqgan_patches_4gpu, VQGAN_CKPT), ("ddpm", train_ddpm_patches_4gpu, DDPM_CKPT)],
)
def test_a_training_goes_on_as_if_nothing_had_been(stage, train, ckpt, workshop, elsewhere):
    command = [*getattr(workshop, stage), *LENGTH, "optimizer=muon", SMALL]
    run(train, *command, "checkpoint_dir=whole")
    with pytest.raises(Stopped):
        run(train, *command, stop_at(8))
    run(train, *command)
    found, expected = load(ckpt), load("whole/last.ckpt")
    for part in ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(found[part], expected[part])
    if stage == "ddpm":
        assert_same(found, expected)  # the averaged weights, too
    states = found["optimizer_states"][0]["state"].values()
    assert {"exp_avg"} in [set(state) for state in states]  # without a second moment: half of AdamW's memory


@pytest.mark.parametrize("start", ["adamw", "muon"])
def test_a_training_does_not_go_on_with_another_optimizer(start, workshop, elsewhere, refused):
    command = [*workshop.ddpm, *LENGTH]
    own = {"adamw": ["optimizer=adamw"], "muon": ["optimizer=muon", SMALL]}
    with pytest.raises(Stopped):
        run(train_ddpm_patches_4gpu, *command, *own.pop(start), stop_at(4))
    message = refused(train_ddpm_patches_4gpu, *command, *next(iter(own.values())))
    assert "optimizer=" in message
    assert load(DDPM_CKPT)["global_step"] == 4
