"""Processes of torchrun, with the loader processes that are shipped: real signals, real NaN."""

import math
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import sample_ddpm_patches
import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from pipeline import versions
from tests.forks import forked
from tests.processes import PATIENCE_S, launcher, running, torchrun
from tests.test_resume import stop_at
from tests.tiny import DDPM_CKPT, DDPM_FOLDER, built_ddpm, free_port, load, run

ENDLESS = ["model.max_epochs=100000", "model.num_workers=4"]
AT_ONCE_S = 30  # torchrun kills what has not ended by then
pytestmark = pytest.mark.slow


class PlantNaN(pl.Callback):
    """Spoils the batch of one rank in one step."""

    def __init__(self, step: int, rank: int) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            batch["ct_context"][:] = math.nan


class Tell(pl.Callback):
    """Writes a file when a training has come to a step, or to the validation after it; there it takes its time."""

    def __init__(self, file: str, step: int, validating: bool = False) -> None:
        self.file, self.step, self.validating = Path(file), step, validating

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step and not self.validating:
            self.file.touch()

    def on_validation_batch_start(self, trainer, *_):
        if trainer.global_step >= self.step and self.validating:
            self.file.touch()
            time.sleep(0.5)


def callback(name, **how):
    how = {"_target_": f"tests.test_ranks.{name}"} | how
    return f"+callbacks.{name.lower()}={{{', '.join(f'{key}: {value}' for key, value in how.items())}}}"


@pytest.mark.parametrize(
    ("asked", "validating"), [(signal.SIGTERM, False), (signal.SIGUSR1, False), (signal.SIGTERM, True)]
)
def test_a_signal_to_the_launcher_costs_no_step(asked, validating, workshop, elsewhere):
    there = callback("Tell", file=elsewhere / "there", step=4, validating=validating)
    more = [f"run_dir={elsewhere}/run", f"checkpoint_dir={elsewhere}/{DDPM_FOLDER}"]  # it runs in the project's folder
    more += ["model.val_patches_per_volume=200"] if validating else ["model.val_every_n_epochs=1000000"]
    command = launcher("ddpm", *workshop.ddpm, *ENDLESS, *more, there)
    with running(command, elsewhere / "log", NGPU="2", MASTER_PORT=str(free_port())) as launched:
        launched.until(Path("there").is_file)
        end(launched, asked)
        assert launched.status() == 1  # torchrun's, whatever its processes end with
    said = launched.said
    assert "DataLoader worker" not in said
    step = load(DDPM_CKPT)["global_step"]
    assert f"{asked.name} at step {step}: wrote" in said, said
    assert step >= 4


def test_a_nan_of_one_rank_stops_both_before_a_checkpoint(workshop, elsewhere):
    settings = [*workshop.ddpm, *ENDLESS, "model.checkpoint_every_n_steps=1", callback("PlantNaN", step=2, rank=1)]
    with training(elsewhere, *settings) as launched:
        assert launched.status() == 1
    said = launched.said
    assert load(DDPM_CKPT)["global_step"] == 2
    assert said.count("the loss became NaN or infinite at step 3") == 1, said
    (dump,) = Path("outputs/ddpm_4gpu_patches").glob("bad_batch_*.pt")
    assert dump.name == "bad_batch_step3_rank1.pt"
    assert str(dump) in said
    made = built_ddpm(*workshop.ddpm)
    made.module.load_state_dict(load(DDPM_CKPT)["state_dict"])
    assert not made.module.loss(load(dump)).isfinite()


def test_ranks_that_see_different_checkpoints_are_refused(workshop, elsewhere):
    Path("of0").mkdir()
    shutil.copy(workshop.ddpm_ckpt, "of0/last.ckpt")
    own = "checkpoint_dir=of${oc.env:RANK}"
    every_other = "model.val_every_n_epochs=2"  # so that only one of them makes ready for a validation
    with training(elsewhere, *workshop.ddpm, "model.max_epochs=3", own, every_other) as launched:
        assert launched.status() == 1
    assert launched.said.count("all ranks must go on from the same checkpoint") == 1, launched.said
    assert "step 4" in launched.said
    assert "step 0" in launched.said


def test_ranks_of_other_settings_are_refused(workshop, elsewhere):
    settings = [*workshop.ddpm, *ENDLESS, "seed='${oc.decode:${oc.env:RANK}}'", "model.max_steps=2"]
    with training(elsewhere, *settings) as launched:
        assert launched.status() == 1
    said = "all ranks must run the same code with the same settings"
    assert launched.said.count(said) == 1, launched.said
    assert "seed: 0 and 1" in launched.said
    assert not Path(DDPM_CKPT).exists()


def test_ranks_of_other_code_are_refused(workshop, elsewhere):
    first = train_of_another_commit
    settings = [*workshop.ddpm, "model.max_steps=2"]
    with forked(train_ddpm_patches_4gpu, *settings, log=elsewhere / "log", processes=2, first=first) as ranks:
        assert ranks[0].status() == 2, ranks[0].said
    assert "commit: 0 and 1" in ranks[0].said
    assert not Path(DDPM_CKPT).exists()


def test_ranks_of_other_cases_are_refused(workshop, elsewhere):
    """As on machines each of which has prepared a copy of its own."""
    shutil.copytree(workshop.root, "data1")
    manifest = Path("data1/store/manifest.jsonl")
    manifest.write_text("".join(line for line in manifest.open() if "phantom0000" not in line))
    Path("data0").symlink_to(workshop.root)
    settings = [*workshop.ddpm, "dataset.root=data${oc.env:RANK}", "model.max_steps=2"]
    with forked(train_ddpm_patches_4gpu, *settings, log=elsewhere / "log", processes=2) as ranks:
        assert ranks[0].status() == 2, ranks[0].said
    assert "on the same cases; rank 0 on" in ranks[0].said
    assert "differ in cases of training: " in ranks[0].said
    assert not Path(DDPM_CKPT).exists()


def test_ranks_of_another_vqgan_are_refused(workshop, elsewhere):
    """As on machines that share no disk, where a path leads to a file of each one's own."""
    Path("of0").symlink_to(workshop.vqgan_ckpt.parent)
    run(train_vqgan_patches_4gpu, *workshop.vqgan, "seed=7", "model.max_steps=1", f"checkpoint_dir={elsewhere}/of1")
    settings = [*workshop.ddpm, "model.vqgan_ckpt=of${oc.env:RANK}/last.ckpt", "model.max_steps=2"]
    with forked(train_ddpm_patches_4gpu, *settings, log=elsewhere / "log", processes=2) as ranks:
        assert ranks[0].status() == 2, ranks[0].said
    assert "differ in VQ-GAN: " in ranks[0].said
    assert not Path(DDPM_CKPT).exists()


def test_ranks_that_go_on_from_another_state_are_refused(workshop, elsewhere):
    """Of the same step: checkpoints of two trainings, or one that was not copied anew."""
    content = load(workshop.ddpm_ckpt)
    for rank in range(2):
        Path(f"of{rank}").mkdir()
        torch.save(content, f"of{rank}/last.ckpt")
        content["optimizer_states"][0]["state"][0]["exp_avg"] += 1
    settings = [*workshop.ddpm, "checkpoint_dir=of${oc.env:RANK}", "model.max_epochs=3"]
    with forked(train_ddpm_patches_4gpu, *settings, log=elsewhere / "log", processes=2) as ranks:
        assert ranks[0].status() == 2, ranks[0].said
    assert "all ranks must go on from the same checkpoint" in ranks[0].said
    assert ranks[0].said.count("step 4, state ") == 2


def train_of_another_commit():
    versions._commit = lambda: os.environ["RANK"]


def test_sigterm_to_one_process_ends_all(workshop, elsewhere):
    with training(elsewhere, *workshop.ddpm, "model.max_epochs=10", stop_at(5, signal="SIGTERM", rank=1)) as launched:
        assert launched.status() == 1
    assert "SIGTERM at step 6: wrote" in launched.said  # told after it, heard in the validation
    assert load(DDPM_CKPT)["global_step"] == 6


def test_a_training_ends_with_the_torchrun_that_started_it(workshop, elsewhere):
    there = callback("Tell", file="there", step=4)
    with training(elsewhere, *workshop.ddpm, *ENDLESS, "model.val_every_n_epochs=1000000", there) as launched:
        launched.until(Path("there").is_file)
        end(launched, signal.SIGKILL)
    assert "SIGTERM at step" in launched.said
    assert load(DDPM_CKPT)["global_step"] >= 4


def test_drawing_ends_too(workshop, elsewhere):
    """Also a process that only waits for the others, in a library, where it hears nothing."""
    settings = [f"ckpt={workshop.ddpm_ckpt}", "steps=1000", f"xray={workshop.xray}", "output=cts/ct.nii.gz"]
    with running(torchrun(sample_ddpm_patches, *settings, "distribute=xrays"), elsewhere / "log") as launched:
        launched.until(Path("cts").exists)
        time.sleep(3)  # the second has no X-ray; it comes to wait
        end(launched, signal.SIGTERM)
        assert launched.status() == 1
    assert "a fault of the program" not in launched.said
    assert not any(Path("cts").iterdir())


def training(folder, *settings):
    return running(torchrun(train_ddpm_patches_4gpu, *settings), folder / "log")


def end(launched, asked):
    """Signal a torchrun; all that it started must be gone soon. Where it cannot wait itself, nobody kills them."""
    launched.process.send_signal(asked)
    assert launched.gone(PATIENCE_S if asked == signal.SIGKILL else AT_ONCE_S), launched.said
