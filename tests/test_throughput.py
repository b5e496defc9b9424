"""What training says of its own speed, and that the switches of speed change nothing else."""

import re

import pytest
import torch
from pytorch_lightning.trainer.connectors.logger_connector import result
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from dataset.xray_ctpa_patch_dataset import XrayCTPAPatchDataset
from tests.tiny import load, run

DELAY_S = 0.25


def logged(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}


@pytest.mark.parametrize("stage", ["vqgan", "ddpm"])
def test_tensorboard_tells_speed_waiting_and_learning_rate(stage, workshop, elsewhere):
    script = {"vqgan": train_vqgan_patches_4gpu, "ddpm": train_ddpm_patches_4gpu}[stage]
    run(script, *getattr(workshop, stage), "model.name=spoken", "trainer.log_every_n_steps=2", "model.max_epochs=2")
    scalars = logged("outputs/spoken/tensorboard")
    steps = [event.step for event in scalars["speed/samples_per_s"]]
    assert steps == [2, 4, 6, 8]  # two epochs of four batches
    assert all(event.value > 0 for event in scalars["speed/samples_per_s"])
    assert all(0 <= event.value < 1 for event in scalars["speed/data_wait"])
    assert any(tag.startswith("lr-") for tag in scalars)
    assert ("speed/gpu_peak_gb" in scalars) == torch.cuda.is_available()


@pytest.mark.parametrize("stage", ["vqgan", "ddpm"])
def test_a_steps_loss_is_read_only_where_it_is_shown(stage, workshop, elsewhere, monkeypatch, capsys):
    read = []
    monkeypatch.setattr(result, "convert_tensors_to_scalars", read.append)  # of what progress bars are handed
    script = {"vqgan": train_vqgan_patches_4gpu, "ddpm": train_ddpm_patches_4gpu}[stage]
    run(script, *getattr(workshop, stage), "model.val_every_n_epochs=2", "model.name=shown")
    assert read == []
    assert re.search(r"step 4/4 .* train/loss \d+\.\d{4}\n", capsys.readouterr().err)


def test_slow_data_shows_as_waiting_and_as_fewer_samples(workshop, elsewhere, monkeypatch):
    original = XrayCTPAPatchDataset.packed_item

    def slow(self, index):
        import time

        time.sleep(DELAY_S)
        return original(self, index)

    for name in ("quick", "slow"):
        if name == "slow":
            monkeypatch.setattr(XrayCTPAPatchDataset, "packed_item", slow)
        run(train_vqgan_patches_4gpu, *workshop.vqgan, f"model.name={name}", "trainer.log_every_n_steps=4")
    quick, slowed = (logged(f"outputs/{name}/tensorboard") for name in ("quick", "slow"))
    assert slowed["speed/data_wait"][0].value > quick["speed/data_wait"][0].value
    speed = slowed["speed/samples_per_s"][0].value
    assert speed < 1 / DELAY_S
    assert slowed["speed/data_wait"][0].value == pytest.approx(DELAY_S * speed, rel=0.3)


def test_an_epoch_shorter_than_the_logging_interval_is_logged_at_its_end(workshop):
    scalars = logged(workshop.folder / "outputs" / "ddpm_4gpu_patches" / "tensorboard")
    assert [event.step for event in scalars["speed/samples_per_s"]] == [4]


def test_another_profiler_is_refused_with_a_remedy(workshop, elsewhere, refused):
    message = refused(train_vqgan_patches_4gpu, *workshop.vqgan, "trainer.profiler=null")
    assert "throughput.FetchClock" in message
    assert "~callbacks.throughput" in message


def test_a_run_goes_on_with_other_switches_of_speed(workshop, elsewhere):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.checkpointing=true")
    switches = ["model.checkpointing=false", "model.channels_last=false"]
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *switches, "model.max_epochs=2")
    assert load("checkpoints/ddpm_4gpu_patches/last.ckpt")["global_step"] == 8
