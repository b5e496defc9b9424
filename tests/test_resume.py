"""Interrupted trainings go on, by the same command, as if nothing had happened."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from tests.tiny import DDPM_CKPT, DDPM_FOLDER, VQGAN_CKPT, Record, Stopped, built_ddpm, load, run

ROOT = Path(__file__).resolve().parents[1]
RECORD = "+callbacks.record={_target_: tests.tiny.Record}"
LENGTH = ["model.max_epochs=3", "model.checkpoint_every_n_steps=2", RECORD]  # 3 epochs of 4 steps


def stop_at(step, **how):
    how = {"_target_": "tests.tiny.StopAt", "step": step} | how
    return f"+callbacks.stop_here={{{', '.join(f'{key}: {value}' for key, value in how.items())}}}"


def average(checkpoint):
    return next(state for name, state in checkpoint["callbacks"].items() if name.startswith("WeightAverage"))


def assert_same(a, b):
    """Weights, averages, optimizer, schedule and counters of two checkpoints are the same."""
    assert (a["global_step"], a["epoch"]) == (b["global_step"], b["epoch"])
    assert a["lr_schedulers"] == b["lr_schedulers"]
    assert a["optimizer_states"][0]["param_groups"] == b["optimizer_states"][0]["param_groups"]
    torch.testing.assert_close(a["state_dict"], b["state_dict"])
    torch.testing.assert_close(a["optimizer_states"][0]["state"], b["optimizer_states"][0]["state"])
    assert average(a)["updates"] == average(b)["updates"]
    torch.testing.assert_close(average(a)["average"], average(b)["average"])


@pytest.fixture(scope="module")
def uninterrupted(workshop, tmp_path_factory):
    """The last checkpoint of a training that nobody disturbed, and the draws of its steps."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    places = [f"run_dir={folder}", f"checkpoint_dir={folder}"]
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *LENGTH, *places)
    return load(folder / "last.ckpt"), list(Record.seen)


@pytest.mark.parametrize(
    ("step", "resumed_at", "num_workers"),
    [(3, 2, 0), (3, 2, 2), (4, 4, 0), (8, 8, 2), (11, 10, 0)],
)
def test_an_interrupted_training_ends_like_one_that_was_not(
    step, resumed_at, num_workers, workshop, uninterrupted, elsewhere
):
    command = [*workshop.ddpm, *LENGTH, f"model.num_workers={num_workers}"]
    with pytest.raises(Stopped):
        run(train_ddpm_patches_4gpu, *command, stop_at(step))
    assert load(DDPM_CKPT)["global_step"] == resumed_at
    run(train_ddpm_patches_4gpu, *command)
    expected, draws = uninterrupted
    assert Record.seen == draws[resumed_at:]
    assert_same(load(DDPM_CKPT), expected)


def test_an_interrupted_validation_costs_no_training(workshop, uninterrupted, elsewhere):
    command = [*workshop.ddpm, *LENGTH, "model.num_workers=2"]
    with pytest.raises(Stopped):
        run(train_ddpm_patches_4gpu, *command, stop_at(4, validating=True))
    run(train_ddpm_patches_4gpu, *command)
    assert Record.seen == uninterrupted[1][4:]
    assert_same(load(DDPM_CKPT), uninterrupted[0])


def test_interruptions_add_up_to_nothing(workshop, uninterrupted, elsewhere):
    command = [*workshop.ddpm, *LENGTH]
    for step in (2, 5, 9):
        with pytest.raises(Stopped):
            run(train_ddpm_patches_4gpu, *command, stop_at(step))
    run(train_ddpm_patches_4gpu, *command)
    assert_same(load(DDPM_CKPT), uninterrupted[0])
    assert sorted(p.name for p in Path(DDPM_FOLDER).glob("last*")) == ["last.ckpt"]


@pytest.mark.slow
def test_a_killed_process_is_continued_by_the_same_command(workshop, uninterrupted, elsewhere):
    command = [*workshop.ddpm, *LENGTH]
    killed = subprocess.run(
        [sys.executable, str(ROOT / "train_ddpm_patches_4gpu.py"), *command, stop_at(7, signal="SIGKILL")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert load(DDPM_CKPT)["global_step"] == 6
    run(train_ddpm_patches_4gpu, *command)
    assert_same(load(DDPM_CKPT), uninterrupted[0])


@pytest.mark.parametrize(("asked", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138)])
def test_being_told_to_stop_costs_no_step(asked, status, workshop, uninterrupted, elsewhere, caplog):
    command = [*workshop.ddpm, *LENGTH, "model.checkpoint_every_n_steps=1000"]
    with pytest.raises(SystemExit) as ended, caplog.at_level("INFO"):
        run(train_ddpm_patches_4gpu, *command, stop_at(6, signal=asked))
    assert ended.value.code == status
    assert f"{asked} at step 7: wrote {DDPM_CKPT}; the same command goes on" in caplog.text
    assert load(DDPM_CKPT)["global_step"] == 7
    run(train_ddpm_patches_4gpu, *command)
    assert Record.seen == uninterrupted[1][7:]
    assert_same(load(DDPM_CKPT), uninterrupted[0])


class TellAtStart(pl.Callback):
    """Signals the process when the training begins, before its first batch."""

    def on_train_start(self, *_):
        os.kill(os.getpid(), signal.SIGTERM)


def test_being_told_to_stop_before_the_first_step_is_not_forgotten(workshop, elsewhere):
    tell = "+callbacks.tell={_target_: tests.test_resume.TellAtStart}"
    with pytest.raises(SystemExit) as ended:
        run(train_ddpm_patches_4gpu, *workshop.ddpm, *LENGTH, tell)
    assert ended.value.code == 143
    assert load(DDPM_CKPT)["global_step"] == 1


def test_being_told_to_stop_breaks_off_a_validation_and_costs_no_step(workshop, uninterrupted, elsewhere):
    command = [*workshop.ddpm, *LENGTH, "model.checkpoint_every_n_steps=1000"]
    with pytest.raises(SystemExit) as ended:
        run(train_ddpm_patches_4gpu, *command, stop_at(8, signal="SIGTERM", validating=True))
    assert ended.value.code == 143
    assert load(DDPM_CKPT)["global_step"] == 8
    assert len(list(Path(DDPM_FOLDER).glob("ddpm-patches-*"))) == 1  # half a validation judges nothing
    run(train_ddpm_patches_4gpu, *command)
    assert Record.seen == uninterrupted[1][8:]
    assert_same(load(DDPM_CKPT), uninterrupted[0])


def test_ctrl_c_during_validation_is_not_kept_waiting(workshop, elsewhere, capsys):
    with pytest.raises(SystemExit) as ended:
        run(train_ddpm_patches_4gpu, *workshop.ddpm, stop_at(4, signal="SIGINT", validating=True))
    assert ended.value.code == 130
    assert "interrupted; what is finished is kept, and the same command goes on" in capsys.readouterr().err


def test_cached_latents_resume_alike(workshop, tiny_latents, elsewhere):
    command = [*workshop.ddpm, *LENGTH, f"dataset.latents_dir={tiny_latents}"]
    run(train_ddpm_patches_4gpu, *command, "model.name=whole")
    with pytest.raises(Stopped):
        run(train_ddpm_patches_4gpu, *command, "model.name=broken", stop_at(5))
    run(train_ddpm_patches_4gpu, *command, "model.name=broken")
    assert_same(load("checkpoints/broken/last.ckpt"), load("checkpoints/whole/last.ckpt"))


def test_the_vqgan_goes_on_too(workshop, elsewhere):
    command = [*workshop.vqgan, *LENGTH, "model.n_codes=4"]
    places = ["run_dir=whole"]
    run(train_vqgan_patches_4gpu, *command, *places)
    draws = list(Record.seen)
    with pytest.raises(Stopped):
        run(train_vqgan_patches_4gpu, *command, stop_at(6))
    run(train_vqgan_patches_4gpu, *command)
    assert Record.seen == draws[6:]
    whole, resumed = load("whole/checkpoints/last.ckpt"), load(VQGAN_CKPT)
    assert (resumed["global_step"], resumed["epoch"]) == (whole["global_step"], whole["epoch"])
    for state in resumed["optimizer_states"][0]["state"].values():
        assert state["step"] in (12, 10)  # the discriminators begin at step 2


@pytest.fixture(scope="module")
def trained(workshop):
    """Settings under which the workshop's checkpoints would be continued."""
    places = {
        "ddpm": [f"checkpoint_dir={workshop.ddpm_ckpt.parent}"],
        "vqgan": [f"checkpoint_dir={workshop.vqgan_ckpt.parent}"],
    }
    return {"ddpm": [*workshop.ddpm, *places["ddpm"]], "vqgan": [*workshop.vqgan, *places["vqgan"]]}


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("model.dim=16", "dim: 8 in the checkpoint, 16 now"),
        ("model.timesteps=50", "num_steps: 1000 in the checkpoint, 50 now"),
        ("xray_encoder.seed=1", "seed: 0 in the checkpoint, 1 now"),
        ("diffusion=flow", "CosineDDPM in the checkpoint, RectifiedFlow now"),
    ],
)
def test_settings_that_shape_the_weights_must_stay(setting, named, trained, elsewhere, refused):
    message = refused(train_ddpm_patches_4gpu, *trained["ddpm"], setting)
    assert named in message
    assert all(remedy in message for remedy in ("model.name=NEW", "resume=never", "init_from="))


def test_another_vqgan_stops_stage_2(workshop, trained, elsewhere, refused):
    run(train_vqgan_patches_4gpu, *workshop.vqgan, "seed=7", "model.max_steps=1")
    message = refused(train_ddpm_patches_4gpu, *trained["ddpm"], f"model.vqgan_ckpt={VQGAN_CKPT}")
    assert "codec_hash" in message


def test_other_discriminators_stop_stage_1(trained, elsewhere, refused):
    message = refused(train_vqgan_patches_4gpu, *trained["vqgan"], "model.disc_channels=8")
    assert "adversarial" in message
    assert "resume=never" in message


def test_resume_never_starts_anew_and_its_last_checkpoint_is_the_last(workshop, elsewhere):
    run(train_ddpm_patches_4gpu, *workshop.ddpm)
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.dim=16", "resume=never")
    assert load(DDPM_CKPT)["xray2ctpa"]["parts"]["denoiser"]["unet"]["dim"] == 16
    assert sorted(p.name for p in Path(DDPM_FOLDER).glob("last*")) == ["last.ckpt"]


def test_a_new_training_starts_from_given_weights(workshop, elsewhere):
    settings = [*workshop.ddpm, "model.name=new", f"init_from={workshop.ddpm_ckpt}"]
    made = built_ddpm(*settings)
    stored = load(workshop.ddpm_ckpt)
    averaged = average(stored)["average"]
    assert not all(torch.equal(averaged[name], stored["state_dict"][name]) for name in averaged)
    expected = stored["state_dict"] | averaged
    torch.testing.assert_close(dict(made.module.state_dict()), expected, rtol=0, atol=0)
    assert made.resume_from is None


def test_weights_made_for_another_xray_encoder_are_refused(workshop, elsewhere, refused):
    settings = [*workshop.ddpm, "model.name=new", f"init_from={workshop.ddpm_ckpt}", "xray_encoder.seed=1"]
    message = refused(train_ddpm_patches_4gpu, *settings)
    assert "another X-ray encoder" in message
    assert load(workshop.ddpm_ckpt)["xray2ctpa"]["encoder_hash"][:12] in message


def test_weights_of_another_shape_are_refused(workshop, elsewhere, refused):
    settings = [*workshop.ddpm, "model.name=new", f"init_from={workshop.ddpm_ckpt}", "model.dim=16"]
    assert "another shape" in refused(train_ddpm_patches_4gpu, *settings)
