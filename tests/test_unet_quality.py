"""`benchmarks.unet_quality`: MONAI's UNet is told what ours is told, and both are treated alike."""

import pytest
import torch
from hydra.utils import instantiate

from benchmarks import unet_quality
from benchmarks.unet_quality import ConditionedMonai, check_sizes, demo_settings, learning_rate
from pipeline.cli import composed


def inputs():
    torch.manual_seed(0)
    return {
        "x": torch.randn(2, 5, 4, 4, 4),
        "t": torch.rand(2),
        "vector": torch.randn(2, 6),
        "tokens": torch.randn(2, 9, 8),
        "token_positions": torch.randn(2, 9, 2) * 100,
        "positions": torch.randn(2, 3, 4, 4, 4) * 100,
    }


@pytest.mark.parametrize("told", ["x", "t", "vector", "tokens", "token_positions"])
def test_monais_unet_uses_all_that_it_is_told(told):
    torch.manual_seed(0)
    network = ConditionedMonai(5, 3, 6, 8, channels=(32, 32), num_res_blocks=1).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    given = inputs()
    with torch.no_grad():
        before = network(**given)
        given[told] = given[told].flip(0)
        after = network(**given)
    assert before.shape == (2, 3, 4, 4, 4)
    assert (before - after).abs().max() > 1e-3 * before.std()


def test_the_learning_rate_rises_and_falls_with_the_time():
    shares = [learning_rate(i / 100) for i in range(101)]
    assert shares[0] == 0
    assert max(shares) == shares[5] == 1
    assert shares[100] == pytest.approx(0.01)
    assert shares[5:] == sorted(shares[5:], reverse=True)


def test_unequal_sizes_are_refused():
    check_sizes(100, 104)
    with pytest.raises(ValueError, match=r"equal parameters \(within 5%\), got 100 \(ours\) and 120 \(MONAI\)"):
        check_sizes(100, 120)


def test_without_a_demo_it_says_what_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="python run_demo.py"):
        demo_settings(tmp_path, [])


def test_both_train_and_are_validated_on_the_same(workshop, tiny_latents, monkeypatch):
    monkeypatch.setattr(unet_quality, "TOLERANCE", 10.0)
    cfg = composed("train_ddpm", [*workshop.ddpm, f"dataset.latents_dir={tiny_latents}"])
    result = unet_quality.compare(cfg, seconds=0.3, seeds=2, lrs=[1e-3, 2e-3], channels=[32, 32], res_blocks=1)
    for name in ("ours", "monai"):
        assert len(result[f"val_loss_{name}"]) == len(result[f"it_per_s_{name}"]) == 2
        assert all(0 < loss < 10 for loss in result[f"val_loss_{name}"])
        assert result[f"params_{name}"] > 0
        grid = result[f"grid_{name}"]
        assert set(grid) == {"0.001", "0.002"}
        assert grid[f"{result[f'lr_{name}']:g}"] == min(grid.values())


def test_the_default_sizes_are_equal():
    with torch.device("meta"):
        theirs = ConditionedMonai(51, 4, 145, 64, unet_quality.CHANNELS, unet_quality.RES_BLOCKS)
        cfg = composed("train_ddpm", ["model.dim_mults=[1,2,4]", *unet_quality.OURS.split()])
        ours = torch.nn.Module()
        ours.unet = instantiate(cfg.module.denoiser.unet)(51, 4, 145, 64)
    check_sizes(unet_quality.parameters(ours), unet_quality.parameters(theirs))
