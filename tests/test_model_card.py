"""The card of a preset: the guide's counts, costs that follow from sizes, and mistakes as readable as the scripts'."""

import json
import sys

import pytest
import torch
from torch import nn

from benchmarks import measure, model_card
from tests.tiny import load


@pytest.fixture
def card(monkeypatch, capsys):
    def make(*arguments):
        monkeypatch.setattr(sys, "argv", ["model_card", *arguments])
        model_card.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return make


def test_the_guides_preset_has_the_guides_counts(card):
    made = card("model=ddpm_4gpu_patches")
    assert made["unet3d_params"] == pytest.approx(143e6, rel=0.015)
    assert made["vqgan_autoencoder_params"] == pytest.approx(22.2e6, rel=0.03)
    assert made["vqgan_discriminator_params"] == pytest.approx(13.8e6, rel=0.01)
    assert made["vqgan_perceptual_params"] == pytest.approx(14.7e6, rel=0.01)
    assert made["xray_encoder_params"] == pytest.approx(86.2e6, rel=0.001)
    assert made["perceptual_params"] == pytest.approx(23.5e6, rel=0.001)
    assert made["decoder_gflop"] < 5000
    assert made["unet3d_gflop"] < 443 / 2  # the ancestors' network


def test_channels_beside_the_noisy_latent_count(card):
    plain, wide = card(), card("model.lifted_channels=64")
    assert plain["unet3d_params"] < wide["unet3d_params"]


def test_the_recommended_preset_has_few_channels_and_the_same_unet(card):
    guide, recommended = card("model=ddpm_4gpu_patches"), card("model=ddpm_4gpu_patches_8ch")
    assert recommended["vqgan"] == "vqgan_patches_4gpu_8ch"
    assert recommended["unet3d_params"] == pytest.approx(143e6, rel=0.015)
    assert recommended["unet3d_params"] < guide["unet3d_params"]
    assert recommended["unet3d_gflop"] < guide["unet3d_gflop"]


def test_costs_follow_the_patch_size(card):
    whole, eighth = card(), card("model.patch_size=[64,64,64]")
    for key in ("encoder_gflop", "decoder_gflop"):
        assert whole[key] == pytest.approx(8 * eighth[key], rel=1e-3)
    assert whole["unet3d_params"] == eighth["unet3d_params"]


def test_every_published_xray_encoder_has_a_card(card):
    millions = {name: card(f"xray_encoder={name}")["xray_encoder_params"] / 1e6 for name in ("medclip", "rad_dino")}
    assert millions == pytest.approx({"medclip": 27.9, "rad_dino": 86.6}, rel=0.005)


def test_a_multiply_add_counts_as_two_operations():
    layer = nn.Linear(1000, 1000, bias=False)
    assert measure.gflop(lambda: layer(torch.empty(1000, 1000))) == pytest.approx(2)


def test_the_checkpoint_has_the_predicted_size(card, workshop):
    stored = load(workshop.ddpm_ckpt)
    average = next(v for k, v in stored["callbacks"].items() if k.startswith("WeightAverage"))["average"]
    moments = [t for state in stored["optimizer_states"][0]["state"].values() for t in state.values()]
    floats = sum(t.numel() for t in [*stored["state_dict"].values(), *average.values(), *moments] if t.ndim)
    predicted = card(*[s for s in workshop.ddpm if not s.startswith(("model.vqgan_ckpt", "dataset.root"))])
    assert predicted["checkpoint_mb"] == pytest.approx(4 * floats / 1e6, abs=0.06)


def test_another_stage_1_can_be_chosen(card):
    assert card("vqgan=vqgan_patches_4gpu_8ch")["vqgan"] == "vqgan_patches_4gpu_8ch"


def test_a_mistake_is_one_message(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["model_card", "batch_size=3"])
    with pytest.raises(SystemExit) as stop:
        model_card.main()
    assert stop.value.code == 2
    assert "did you mean model.batch_size" in capsys.readouterr().err
