"""Two trainings in one folder, on one port: the second is told so."""

import multiprocessing
import os
import socket
import time
from pathlib import Path

import pytest

import train_ddpm_patches_4gpu
from common.errors import UserError
from common.locks import claimed
from tests.tiny import DDPM_FOLDER, run


def hold(path, held, children):
    with claimed(path, "another training"):
        for _ in range(children):
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,), daemon=True).start()
        held.set()
        time.sleep(1000)


@pytest.fixture
def holder():
    """Starts a process that holds a lock file, and processes of its own as a loader has them."""
    context, started = multiprocessing.get_context("fork"), []

    def hold_it(path, children=0):
        held = context.Event()
        started.append(context.Process(target=hold, args=(path, held, children)))
        started[-1].start()
        assert held.wait(60)
        return started[-1]

    yield hold_it
    for process in started:
        process.kill()
        process.join()


def test_a_claimed_folder_names_its_holder_and_is_free_when_that_is_killed(tmp_path, holder):
    process = holder(tmp_path / ".lock", children=2)
    with pytest.raises(UserError, match=f"in use by process {process.pid} on {socket.gethostname()}"):
        claimed(tmp_path / ".lock", "another training").__enter__()
    process.kill()
    process.join()
    with claimed(tmp_path / ".lock", "another training"):  # although its children live
        pass


@pytest.mark.parametrize("check", ["true", "false"])
@pytest.mark.parametrize("folder", [DDPM_FOLDER, "outputs/ddpm_4gpu_patches"])
def test_a_second_training_in_a_folder_is_refused(folder, check, workshop, elsewhere, refused, holder):
    holder(Path(folder, ".training.lock"))
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, f"check={check}")
    assert f"{Path(folder).resolve()} is in use by process" in message
    assert "model.name=NEW" in message
    assert not Path(DDPM_FOLDER, "last.ckpt").exists()


def test_a_taken_port_is_one_message_of_the_check(workshop, elsewhere, refused, monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        monkeypatch.setenv("MASTER_PORT", port)
        monkeypatch.delenv("NODE_RANK", raising=False)
        assert f"port {port} of this machine is in use" in refused(
            train_ddpm_patches_4gpu, *workshop.ddpm, "check=true"
        )
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "check=true")


def test_what_a_killed_training_left_half_written_is_removed(workshop, elsewhere):
    left = Path(DDPM_FOLDER, f".tmp{'0' * 12}-last.ckpt")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    os.utime(left)
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.max_steps=1")
    assert not left.exists()
