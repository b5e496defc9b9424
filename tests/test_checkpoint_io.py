"""Checkpoints of a training: whole or not at all, wherever temporary files lie."""

import errno
import multiprocessing
import os
import random
import tempfile
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
import torch

import train_ddpm_patches_4gpu
from pipeline.training.checkpoint_io import AtomicCheckpointIO
from tests.disk import largest_file
from tests.tiny import DDPM_FOLDER, load, run

OTHER_DISK = Path("/dev/shm")
KILLS = 50
WEIGHTS = 1_000_000  # 4 MB: a save takes some milliseconds


@pytest.fixture
def temporary(monkeypatch):
    """`$TMPDIR` on another file system, as where a cluster's nodes have a scratch disk."""
    if not OTHER_DISK.is_dir():
        pytest.skip("no second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def save(step, path):
    AtomicCheckpointIO().save_checkpoint({"step": step, "weights": torch.full((WEIGHTS,), step)}, path)


def save_on_and_on(path, first, finished):
    for step in range(first, 1_000_000):
        save(step, path)
        finished.value = step


def test_kill_9_while_writing_leaves_the_last_finished_checkpoint_or_a_newer_one(tmp_path, temporary):
    path, context, chance = tmp_path / "last.ckpt", multiprocessing.get_context("fork"), random.Random(0)
    resource_tracker.ensure_running()  # the killed must not have to start one
    finished, newest, started = context.Value("q", 0, lock=False), 0, time.monotonic()
    save(0, path)
    a_save_takes = time.monotonic() - started
    for _ in range(KILLS):
        writer = context.Process(target=save_on_and_on, args=(path, newest + 1, finished))
        writer.start()
        before, deadline = finished.value, time.monotonic() + 30
        while finished.value == before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.random() * a_save_takes)
        writer.kill()
        writer.join()
        stored = load(path)
        assert stored["step"] >= finished.value > newest
        assert (stored["weights"] == stored["step"]).all()
        newest = stored["step"]
    assert not any(temporary.iterdir())


def test_a_checkpoint_is_on_the_disk_before_it_takes_the_place_of_the_old_one(tmp_path, monkeypatch):
    """Else a power cut may leave neither: the new name without the new bytes."""
    path, done, sync, replace = tmp_path / "last.ckpt", [], os.fsync, os.replace

    def note_sync(number):
        sync(number)
        done.append(os.fstat(number).st_ino)

    def note_replace(*paths):
        replace(*paths)
        done.append("replaced")

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    save(1, path)
    assert done == [path.stat().st_ino, "replaced", tmp_path.stat().st_ino]


def test_a_full_disk_names_the_checkpoint_and_leaves_the_old_one(tmp_path, temporary):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    before = path.read_bytes()
    with largest_file(100_000), pytest.raises(OSError, match="File too large") as failed:
        AtomicCheckpointIO().save_checkpoint({"step": 2, "weights": torch.zeros(WEIGHTS)}, path)
    assert (failed.value.errno, failed.value.filename) == (errno.EFBIG, str(path))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert not any(temporary.iterdir())


def test_a_training_on_a_full_disk_says_which_checkpoint_did_not_fit(workshop, elsewhere, temporary, capfd):
    run(train_ddpm_patches_4gpu, *workshop.ddpm)
    before = {path.name: path.read_bytes() for path in Path(DDPM_FOLDER).iterdir()}
    with largest_file(len(before["last.ckpt"]) // 2), pytest.raises(SystemExit) as ended:
        run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.max_epochs=2")
    assert ended.value.code == 2
    assert f"error: File too large: {DDPM_FOLDER}/last.ckpt" in capfd.readouterr().err
    assert {path.name: path.read_bytes() for path in Path(DDPM_FOLDER).iterdir()} == before
