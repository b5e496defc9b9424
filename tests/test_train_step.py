"""The benchmark of training's speed measures what it says, on sizes that mean nothing."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks import against_monai, measure, train_step
from benchmarks.timing import StepClock, train
from benchmarks.workbench import workbench
from tests.tiny import DDPM, VQGAN

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench():
    with workbench("ddpm", [*train_step.ON_CPU, *DDPM]) as made:
        yield made


def test_the_training_script_trains_on_cached_latents_and_on_the_fly(bench):
    for latents, key in (("always", "latent"), ("never", "ct_hu")):
        cfg = bench.settings(f"dataset.latents={latents}")
        module, data = bench.build(cfg)
        assert key in next(iter(data.train_dataloader()))
        assert module.latent_scale.is_known  # or its measurement would count as a step
    speed = train(bench, CPU, 1, 2, ["dataset.latents=always", "model.batch_size=3"])
    assert speed["samples_per_s"] == pytest.approx(3 * speed["it_per_s"])
    assert 0 <= speed["data_wait"] < 1
    assert speed["reserved_gb"] is None


def test_what_a_benchmark_saves_is_no_trainings_checkpoint(bench):
    cfg = bench.settings()
    assert cfg.checkpoint_dir == cfg.run_dir == cfg.callbacks.stop.folder
    assert str(cfg.dataset.root).startswith(cfg.run_dir.removesuffix("run"))  # in the folder that is removed


def test_the_frozen_networks_have_the_sizes_of_the_settings(bench):
    module, _ = bench.build(bench.settings("dataset.latents=never"))
    codec, encoder, _ = module._frozen
    assert codec.channels == 4
    assert sum(p.numel() for p in codec.vqgan.parameters()) > 20e6  # the guide's VQ-GAN
    assert encoder.token_dim == 64


def test_random_frozen_networks_stay_those_of_the_cache():
    small = ["_target_=medclip_cond.biomedclip.BiomedCLIPNetwork", "width=64", "layers=1", "mlp_width=64"]
    encoder = ["xray_encoder=biomedclip", "~xray_encoder.weights", *(f"++xray_encoder.{s}" for s in small)]
    settings = [*train_step.ON_CPU, *(s for s in DDPM if s != "xray_encoder=tiny_random"), *encoder]
    with workbench("ddpm", settings) as made:
        for seed in (1, 2):
            torch.manual_seed(seed)
            module, _ = made.build(made.settings("dataset.latents=always"))  # refuses a cache of other networks
            assert module._frozen[1].token_dim == 64


def test_steps_are_timed_after_the_warm_up(monkeypatch):
    now = SimpleNamespace(t=0.0)
    monkeypatch.setattr("benchmarks.measure.time.perf_counter", lambda: now.t)
    clock = StepClock(warmup=2)
    trainer = SimpleNamespace(global_step=0, max_steps=5, strategy=SimpleNamespace(root_device=CPU))
    for seconds, waited in ((100, 90), (50, 10), (1, 0.5), (2, 0.5), (6, 0.5)):
        now.t += seconds
        trainer.global_step += 1
        clock.clock.waited_s += waited
        clock.on_train_batch_end(trainer)
    speed = clock.speed(batch_size=4, device=CPU)
    assert (speed["it_per_s"], speed["samples_per_s"], speed["step_ms"]) == (3 / 9, 4 * 3 / 9, 2000)
    assert speed["data_wait"] == pytest.approx(1.5 / 9)


def test_mfu_is_the_share_of_the_chips_peak():
    assert train_step.mfu(4 * 98.9e12, "NVIDIA H200") == {"mfu": pytest.approx(0.4), "peak_flops": 989e12}
    assert train_step.mfu(1e12, "NVIDIA H100 PCIe")["peak_flops"] == 756e12
    assert train_step.mfu(1e12, "Some Other GPU") == {"mfu": None, "peak_flops": None}


def test_the_perceptual_loss_counts_once_in_its_pauses(bench, monkeypatch):
    monkeypatch.setattr(train_step, "train", lambda *_: {"it_per_s": 0.5})  # a step with it takes 2 s
    assert bench.settings().model.perceptual_every == 8
    assert train_step.perceptual_ratio(bench, CPU, seconds=1, steps=1) == pytest.approx(8 / 9)


def test_memory_kept_for_backward_is_counted_once_and_without_parameters():
    layer, x = nn.Linear(8, 8, bias=False), torch.randn(16, 8)

    def loss():
        return (layer(x).square() * x).sum()  # keeps x twice, and the product

    assert measure.saved_bytes(loss, layer) == 2 * 16 * 8 * 4


def test_monai_takes_the_same_batch(bench, monkeypatch):
    small = against_monai.monai_unet
    monkeypatch.setattr(
        against_monai, "monai_unet", lambda i, o: small(i, o, channels=(32, 32), num_res_blocks=1, norm_num_groups=8)
    )
    module, data = bench.build(bench.settings("dataset.latents=always"))
    result = against_monai.compare(module, next(iter(data.train_dataloader())), CPU, steps=2)
    assert result["ratio_time_monai_over_ours"] == pytest.approx(result["ms_monai"] / result["ms_ours"])
    assert result["ratio_memory_monai_over_ours"] == pytest.approx(result["saved_gb_monai"] / result["saved_gb_ours"])
    assert all(value > 0 for value in result.values())


def test_monais_network_has_the_parameters_that_were_agreed_on():
    with torch.device("meta"):
        network = against_monai.monai_unet(64, 64)
    assert against_monai.parameters(network) == pytest.approx(149.3e6, rel=1e-3)
    assert against_monai.monai_gflop(64, (32, 32, 32), 196) == pytest.approx(260, rel=0.01)


def test_stage_1_from_the_command_line(monkeypatch, capsys):
    arguments = [
        "stage=vqgan",
        "compare=none",
        "device=cpu",
        "steps=2",
        "warmup=1",
        "variants=model.batch_size=1",
        *VQGAN,
    ]
    monkeypatch.setattr(sys, "argv", ["train_step", *arguments])
    train_step.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["stage"], result["steps"], result["mfu"]) == ("vqgan", 2, None)
    assert result["samples_per_s"] == pytest.approx(2 * result["it_per_s"], rel=1e-3)
    assert result["params_ours"] < 1e6
    assert result["variants"]["model.batch_size=1"]["batch_size"] == 1
    assert {"command", "date", "versions", "step_ms", "peak_gb", "data_wait", "gflop_ours"} <= result.keys()


@pytest.mark.parametrize("argument", ["stage=both", "compare=everything", "device=nowhere", "batch_size=4"])
def test_mistakes_are_one_message(argument, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_step", "compare=onthefly", argument])
    with pytest.raises(SystemExit) as stop:
        train_step.main()
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert argument.split("=")[1] in message or "model.batch_size" in message
