"""Folders and disks that are not as a training would have them: a message before it, or it goes on; nothing is lost."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
from tensorboard.summary.writer.record_writer import RecordWriter

import encode_latents
import evaluate_ddpm_patches
import prepare_data
import sample_ddpm_patches
import train_ddpm_patches_4gpu
from common import atomic
from tests.test_resume import stop_at
from tests.tiny import DDPM_CKPT, DDPM_FOLDER, Stopped, load, run

AT_ONCE = ["model.checkpoint_every_minutes=1e-9", "model.max_steps=4"]


class Remove(pl.Callback):
    """Somebody removes the checkpoint folder before the third step."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            shutil.rmtree(DDPM_FOLDER)


@pytest.mark.parametrize("check", ["true", "false"])
@pytest.mark.parametrize("setting", ["checkpoint_dir", "run_dir"])
@pytest.mark.parametrize("place", ["file", "file/folder"])
def test_a_folder_that_cannot_be_made_is_refused_before_the_training(
    place, setting, check, workshop, elsewhere, refused
):
    Path("file").write_text("no folder")
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, f"{setting}={place}", f"check={check}")
    assert f"{elsewhere / place.partition('/')[0]} is no folder; set run_dir and checkpoint_dir" in message
    assert sorted(path.name for path in elsewhere.iterdir()) == ["file"]


@pytest.mark.parametrize("check", ["true", "false"])
def test_a_folder_that_may_not_be_written_is_refused_before_the_training(
    check, workshop, elsewhere, refused, monkeypatch
):
    locked, may = elsewhere / "locked", os.access
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and may(path, mode))  # root may always
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, "checkpoint_dir=locked/new", f"check={check}")
    assert f"{locked} may not be written" in message
    assert list(locked.iterdir()) == []


def test_a_link_is_followed_and_replaced_and_what_it_leads_to_stays(workshop, elsewhere):
    shutil.copy(workshop.ddpm_ckpt, "archived.ckpt")
    before = Path("archived.ckpt").read_bytes()
    Path(DDPM_FOLDER).mkdir(parents=True)
    Path(DDPM_CKPT).symlink_to(elsewhere / "archived.ckpt")
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.max_epochs=2")
    assert not Path(DDPM_CKPT).is_symlink()
    assert load(DDPM_CKPT)["global_step"] == 8  # 4 of them the archived one's
    assert Path("archived.ckpt").read_bytes() == before


def test_a_link_to_nothing_does_not_start_a_training_anew(workshop, elsewhere, refused):
    Path(DDPM_FOLDER).mkdir(parents=True)
    Path(DDPM_CKPT).symlink_to("/scratch/gone.ckpt")
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm)
    assert f"{DDPM_CKPT} is a link to /scratch/gone.ckpt, where nothing is" in message
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "resume=never", "model.max_steps=1")
    assert load(DDPM_CKPT)["global_step"] == 1


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_folder_in_the_place_of_the_last_checkpoint(resume, workshop, elsewhere, refused):
    Path(DDPM_CKPT).mkdir(parents=True)
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, f"resume={resume}", "check=true")
    assert f"{DDPM_CKPT} is a folder, where a file belongs" in message


def test_a_checkpoint_folder_that_is_removed_meanwhile_is_made_again(workshop, elsewhere):
    remove = "+callbacks.remove={_target_: tests.test_places.Remove}"
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *AT_ONCE, remove)
    assert load(DDPM_CKPT)["global_step"] == 4


def test_a_clock_that_goes_backwards_keeps_no_checkpoint_back(workshop, elsewhere, monkeypatch):
    left = Path(DDPM_FOLDER, f".tmp{'0' * 12}-last.ckpt")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")  # by a training that was killed before the clock was set
    now = [time.time()]

    def backwards():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    with pytest.raises(Stopped):
        run(train_ddpm_patches_4gpu, *workshop.ddpm, *AT_ONCE, stop_at(3))
    assert load(DDPM_CKPT)["global_step"] == 3
    assert not left.exists()


def test_a_disk_that_is_full_for_the_curves_ends_the_training_and_keeps_its_checkpoint(
    workshop, elsewhere, refused, monkeypatch
):
    write = RecordWriter.write

    def until_full(self, data):
        if Path(DDPM_CKPT).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", until_full)
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, *AT_ONCE, "trainer.log_every_n_steps=1")
    assert "No space left on device" in message
    assert "outputs/ddpm_4gpu_patches" in message
    assert load(DDPM_CKPT)["global_step"] > 0
    monkeypatch.undo()
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *AT_ONCE)
    assert load(DDPM_CKPT)["global_step"] == 4


def commands(workshop):
    """Command and settings with which it ends well, by name."""
    drawn = [f"ckpt={workshop.ddpm_ckpt}", "steps=1"]
    return {
        "prepare": (prepare_data, [workshop.data, "dataset.store=out", "dataset.prepare_workers=0"]),
        "encode": (encode_latents, [*workshop.encode, "dataset.latents_dir=out"]),
        "train": (train_ddpm_patches_4gpu, [*workshop.ddpm, "model.max_steps=1", "run_dir=out"]),
        "sample": (
            sample_ddpm_patches,
            [f"xray={workshop.xray}", "output=out/ct.nii.gz", "shape=[16,16,16]", *drawn],
        ),
        "evaluate": (evaluate_ddpm_patches, [workshop.data, *drawn, "num_cases=1", "controls=false", "run_dir=out"]),
    }


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("prepare", name) for name in ("phantom0001.json", "report.html", "splits.json", "manifest.jsonl")),
        *(("encode", name) for name in ("phantom0001.json", "latents.json")),
        *(("train", name) for name in ("config.yaml", "run.json")),
        *(("sample", name) for name in ("ct.nii.gz", "ct.png", "ct.json")),
        *(("evaluate", name) for name in ("report.html", "metrics.json")),
    ],
)
def test_a_disk_that_is_full_for_a_small_file(command, name, workshop, elsewhere, refused, monkeypatch):
    script, settings = commands(workshop)[command]
    sync = atomic._sync

    def full(path):
        if path.name.endswith(f"-{name}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    monkeypatch.setattr(atomic, "_sync", full)
    message = refused(script, *settings)
    assert "no space left on" in message.lower()
    assert ("ct.nii.gz" if command == "sample" else name) in message  # the others belong to the CT
    assert [path for path in elsewhere.rglob("*") if path.name in (name,) or path.name.startswith(".tmp")] == []
    monkeypatch.undo()
    monkeypatch.chdir(elsewhere)
    run(script, *settings)
    assert any(path.name == name for path in Path("out").rglob("*"))
