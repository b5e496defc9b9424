from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ddpm.attention import CrossAttention
from ddpm.layers import AlignedConv3d, norm_scale_shift_silu
from ddpm.position import axis_waves
from ddpm.unet3d import UNet3D

TOKENS, TOKEN_DIM, VECTOR_DIM = 5, 6, 7


def small_unet(**changes):
    settings: dict[str, Any] = {
        "dim": 8,
        "dim_mults": (1, 2),
        "num_res_blocks": 1,
        "middle_blocks": 1,
        "token_dim": TOKEN_DIM,
    }
    torch.manual_seed(0)
    unet = UNet3D(in_channels=3, out_channels=2, vector_dim=VECTOR_DIM, **(settings | changes))
    for parameter in unet.parameters():  # layers that start at zero would hide what is under test
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return unet


def inputs(size, batch=1):
    torch.manual_seed(1)
    return {
        "x": torch.randn(batch, 3, *size),
        "t": torch.rand(batch),
        "vector": torch.randn(batch, VECTOR_DIM),
        "tokens": torch.randn(batch, TOKENS, TOKEN_DIM),
        "token_positions": 100 * torch.randn(batch, TOKENS, 2),
        "positions": 100 * torch.randn(batch, 3, *size),
    }


def guide_unet():
    return UNet3D(in_channels=111, out_channels=64, vector_dim=593, token_dim=768)


def test_a_block_on_the_way_up_sees_what_its_mirror_image_was_given():
    unet = small_unet(dim_mults=(1, 2, 2), num_res_blocks=3)
    seen: dict[Any, Any] = {}
    for name in ("down", "up"):
        for level in range(2):
            for i, block in enumerate(getattr(unet, name)[level].blocks):
                block.register_forward_hook(lambda _, args, out, key=(name, level, i): seen.update({key: args}))
    unet(**inputs((8, 8, 8)))
    for level in range(2):
        for i in range(3):
            assert seen["up", level, i][2] is seen["down", level, 2 - i][0]


def test_the_guides_network_has_143_million_parameters_and_less_than_180_gflop():
    with torch.device("meta"):
        unet = guide_unet()
        x, places = torch.empty(1, 111, 32, 32, 32), torch.empty(1, 3, 32, 32, 32)
        with FlopCounterMode(display=False) as flops:
            unet(
                x,
                torch.empty(1),
                torch.empty(1, 593),
                torch.empty(1, 196, 768),
                torch.empty(1, 196, 2),
                places,
            )
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(143e6, rel=0.015)
    assert flops.get_total_flops() < 180e9


@pytest.mark.parametrize("dim_mults", [(1,), (1, 2), (1, 2, 2), (1, 1, 2, 2), (1, 1, 1, 2, 2)])
def test_any_number_of_levels_takes_any_size(dim_mults):
    size = (5, 8, 11)
    assert small_unet(dim_mults=dim_mults)(**inputs(size)).shape == (1, 2, *size)


def test_an_untrained_network_predicts_zero():
    unet = UNet3D(in_channels=3, out_channels=2, vector_dim=VECTOR_DIM, token_dim=TOKEN_DIM, dim=8, dim_mults=(1, 2))
    assert not unet(**inputs((4, 4, 4))).any()


def test_far_from_its_border_a_window_gives_what_the_whole_gives():
    unet = small_unet(token_dim=None, attention_levels=())
    whole = inputs((64, 4, 4))
    window = {k: v[:, :, 8:56] if v.ndim == 5 else v for k, v in whole.items()}
    halo = 16  # reach of the convolutions: 6 at full resolution, 4 at half of it, and the changes between
    expected, got = unet(**whole)[:, :, 8 + halo : 56 - halo], unet(**window)[:, :, halo:-halo]
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_all_three_axes_are_mixed_and_halved(axis):
    unet = small_unet(token_dim=None, attention_levels=())
    shapes = []
    unet.middle.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape[2:]))
    batch = inputs((8, 8, 8))
    before = unet(**batch)
    batch["x"] = batch["x"].clone()
    batch["x"].select(axis, 0).add_(1)
    change = (unet(**batch) - before).abs().movedim(axis, 0).flatten(1).amax(1)
    assert shapes[0] == (4, 4, 4)
    assert (change[:6] > 1e-6).all()


@pytest.mark.parametrize("name", ["t", "vector", "tokens", "token_positions", "positions"])
def test_each_condition_changes_the_prediction(name):
    unet, batch = small_unet(), inputs((4, 4, 4))
    changed = batch | {name: batch[name] + 0.3 * torch.rand_like(batch[name])}
    assert not torch.allclose(unet(**changed), unet(**batch), atol=1e-4)


@pytest.mark.parametrize("change", [{"checkpointing": True}, {"channels_last": False}])
def test_switches_change_neither_the_prediction_nor_the_gradients(change):
    batch, results = inputs((4, 6, 4), batch=2), []
    for unet in (small_unet(), small_unet(**change)):
        predicted = unet(**batch)
        predicted.square().sum().backward()
        results.append([predicted, *(p.grad for p in unet.parameters())])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def saved_bytes(unet, batch):
    """Unique bytes kept for the backward pass, parameters excluded."""
    kept = {}
    parameters = {p.untyped_storage().data_ptr() for p in unet.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = unet(**batch).sum()
    loss.backward()
    return sum(kept.values())


def test_checkpointing_keeps_less_than_half():
    batch = inputs((16, 16, 16))
    sizes = [
        saved_bytes(small_unet(token_dim=None, attention_levels=(), num_res_blocks=3, checkpointing=on), batch)
        for on in (False, True)
    ]
    assert sizes[1] < 0.5 * sizes[0]


def test_half_precision_follows_full_precision():
    unet, batch = small_unet(dim=16), inputs((8, 8, 8))
    full = unet(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = unet(**batch)
    assert (half - full).std() < 0.03 * full.std()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_the_fused_norm_has_the_value_and_gradients_of_its_formula(layout):
    x = torch.randn(2, 5, 2, 3, 2, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    scale, shift = (torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for n in (2, 1))

    def formula(x, scale, shift):
        normed = x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return torch.nn.functional.silu(normed * scale[..., None, None, None] + shift[..., None, None, None])

    got, expected = norm_scale_shift_silu(x, scale, shift), formula(x, scale, shift)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(got)
    for mine, right in zip(*(torch.autograd.grad(y, (x, scale, shift), grad) for y in (got, expected)), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-9, atol=1e-9)


def test_before_training_a_voxel_looks_at_the_token_where_it_projects_to():
    torch.manual_seed(0)
    attention = CrossAttention(channels=64, token_dim=4)
    line = torch.linspace(-150, 150, 7)  # mm
    z, x = (v.flatten() for v in torch.meshgrid(line, line, indexing="ij"))
    y = 300 * torch.rand(49) - 150
    queries = attention.query_place(axis_waves(torch.stack([z, y, x], -1)[None]))
    keys = attention.key_place(axis_waves(torch.stack([x, z], -1)[None]))
    assert torch.equal((queries @ keys.mT)[0].argmax(1), torch.arange(49))


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match=r"attention_levels must lie in 0\.\.1"):
        small_unet(attention_levels=(2,))
    with pytest.raises(ValueError, match="dim_mults"):
        small_unet(dim_mults=())
    with pytest.raises(ValueError, match="needs tokens"):
        small_unet()(torch.zeros(1, 3, 4, 4, 4), torch.zeros(1), torch.zeros(1, VECTOR_DIM))


class OnGpu(torch.Tensor):
    """A tensor that says that it lies on a GPU."""

    is_cuda = True


def test_channels_filled_up_for_a_gpu_change_neither_the_result_nor_the_gradients(monkeypatch):
    layer, x = AlignedConv3d(11, 4, 3, padding=1), torch.randn(2, 11, 5, 5, 5)
    found, widths = [], []
    computed = layer._conv_forward
    monkeypatch.setattr(
        layer, "_conv_forward", lambda x, w, b: (widths.append((x.shape[1], w.shape[1])), computed(x, w, b))[1]
    )
    for given in (x.clone(), x.clone().as_subclass(OnGpu)):
        layer.zero_grad()
        given.requires_grad_()
        out = layer(given)
        out.square().sum().backward()
        found.append((out, layer.weight.grad.clone(), layer.bias.grad.clone(), given.grad))
    assert widths == [(11, 11), (16, 16)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other.as_subclass(torch.Tensor), rtol=1e-4, atol=1e-4)
