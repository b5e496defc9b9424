"""Switches of speed and memory: they reach the network, and change nothing that it computes."""

import copy
import shutil

import pytest
import torch
from torch import nn

from ddpm.execution import Execution
from ddpm.unet3d import Stage, UNet3D
from tests.tiny import built_ddpm


def small_unet():
    """One level: few blocks to compile. Perturbed, since some of its weights begin as zeros."""
    torch.manual_seed(0)
    unet = UNet3D(4, 4, 8, None, dim=8, dim_mults=(1,), num_res_blocks=1, middle_blocks=1)
    with torch.no_grad():
        for p in unet.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return unet


def inputs():
    torch.manual_seed(1)
    return {"x": torch.randn(2, 4, 4, 4, 4), "t": torch.rand(2), "vector": torch.randn(2, 8)}


def flags(unet):
    stages = {stage.checkpointing for stage in unet.modules() if isinstance(stage, Stage)}
    return unet.channels_last, stages


def test_the_switches_reach_every_part_of_the_unet_and_nothing_else():
    network = nn.ModuleDict({"unet": small_unet(), "other": nn.Linear(2, 2)})
    Execution(checkpointing=True, channels_last=False).apply(network)
    assert flags(network["unet"]) == (False, {True})
    Execution().apply(network)
    assert flags(network["unet"]) == (True, {False})


@pytest.mark.parametrize("on", [True, False])
def test_the_settings_switch_the_module(on, workshop, elsewhere):
    word = str(on).lower()
    made = built_ddpm(*workshop.ddpm, f"model.checkpointing={word}", f"model.channels_last={word}")
    assert flags(made.module.denoiser.unet) == (on, {on})


def test_no_switch_is_written_into_a_checkpoint(workshop, elsewhere):
    parts = [
        built_ddpm(*workshop.ddpm, *s).module.meta["parts"] for s in ([], ["model.compile=true", "model.graph=true"])
    ]
    assert parts[0] == parts[1]
    assert "checkpointing" not in str(parts)


def strides(tensor):
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("on", [True, False])
def test_gradients_lie_in_memory_as_their_parameters_do(on):
    # where they did not, DDP would reorder each; its warning also counts axes of size 1, and is silenced for that
    torch.manual_seed(0)
    unet = UNet3D(4, 4, 8, None, dim=8, dim_mults=(1, 2), num_res_blocks=1, middle_blocks=1)
    Execution(channels_last=on).apply(unet)
    unet(**inputs()).square().sum().backward()
    wide = [p for p in unet.parameters() if p.ndim == 5 and max(p.shape[2:]) > 1]
    assert {p.is_contiguous(memory_format=torch.channels_last_3d) for p in wide} == {on}
    assert all(strides(p.grad) == strides(p) for p in unet.parameters())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_compute_the_same_and_keep_their_names():
    plain, batch = small_unet(), inputs()
    compiled = copy.deepcopy(plain)
    Execution(compile=True).apply(compiled)
    results = []
    for unet in (plain, compiled):
        predicted = unet(**batch)
        predicted.square().sum().backward()
        results.append([predicted, *(p.grad for p in unet.parameters())])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    assert any(part._compiled_call_impl for part in compiled.modules())
    plain.load_state_dict(compiled.state_dict())
