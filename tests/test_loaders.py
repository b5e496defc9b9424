"""Loader processes: a machine that cannot hold what they need is told before they start; one that dies is told."""

import multiprocessing
import os
import re
import resource
import signal
import time
from multiprocessing import resource_sharer
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from pipeline import mistakes
from pipeline.training import loaders
from tests.disk import limited
from tests.tiny import run

WORKERS = "model.num_workers=4"


def open_files(most):
    return limited(resource.RLIMIT_NOFILE, most)


def shared_memory(monkeypatch, free):
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


@pytest.mark.parametrize("check", ["true", "false"])
def test_too_few_open_files(check, workshop, elsewhere, refused):
    with open_files(64):
        message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, WORKERS, f"check={check}")
    assert "model.num_workers=4 needs about" in message
    assert "this shell allows 64; ulimit -n" in message


class KillLoader(pl.Callback):
    """Kills a loader process, as Linux does where memory runs out."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 1:
            trainer.datamodule._loaders[0]._iterator._workers[0].kill()


def test_a_loader_process_that_the_system_kills_is_one_message(workshop, elsewhere, refused):
    settings = [*workshop.ddpm, WORKERS, "model.patches_per_volume=200"]
    message = refused(train_ddpm_patches_4gpu, *settings, "+callbacks.kill={_target_: tests.test_loaders.KillLoader}")
    assert re.search("a loader process is (killed by signal: Killed|gone)", message)  # whatever is seen first
    assert "fewer model.num_workers" in message


def _hand_over(connection, moment):
    """Offers an open file as loader processes offer tensors, and is killed before it is asked for it or meanwhile."""
    if moment == "meanwhile":
        resource_sharer._ResourceSharer._serve = lambda sharer: sharer._listener._listener._socket.accept() and die()
    connection.send(resource_sharer.DupFd(0))
    if moment == "before":
        die()
    time.sleep(60)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_a_loader_process_that_dies_before_its_tensor_is_fetched(moment):
    """The connection breaks before the system says that the process is gone, so torch does not know it yet."""
    here, there = multiprocessing.Pipe()
    worker = multiprocessing.Process(target=_hand_over, args=(there, moment), daemon=True)
    worker.start()
    held = here.recv()
    if moment == "before":
        worker.join()
    with pytest.raises((ConnectionError, EOFError)) as caught:
        held.detach()
    message = mistakes.explain(caught.value, "train_ddpm")
    assert message is not None
    assert message.startswith("a loader process is gone")


def test_a_loader_process_that_took_its_connection_along(tmp_path):
    """One that ends by itself removes its socket, under a name that the error does not tell."""
    with pytest.raises(FileNotFoundError) as caught:
        resource_sharer.DupFd.detach(SimpleNamespace(_id=(str(tmp_path / "gone"), 1)))
    assert "a loader process is gone" in str(mistakes.explain(caught.value, "train_ddpm"))


TORCHS = {
    "DataLoader worker (pid 7) is killed by signal: Killed. ": "is killed by signal: Killed,",
    "DataLoader worker (pid(s) 7, 8) exited unexpectedly": "exited unexpectedly,",
    "Pin memory thread exited unexpectedly": "is gone,",
}


@pytest.mark.parametrize("text", TORCHS)
def test_what_torch_says_of_loader_processes_is_known(text):
    assert f"a loader process {TORCHS[text]}" in str(mistakes.explain(RuntimeError(text), "train_ddpm"))


def test_as_many_open_files_as_are_asked_for_are_enough(workshop, elsewhere, refused):
    settings = [*workshop.ddpm, WORKERS, "model.patches_per_volume=20"]
    with open_files(64):
        asked = refused(train_ddpm_patches_4gpu, *settings).split("ulimit -n ")[1].split()[0]
    with open_files(int(asked)):
        run(train_ddpm_patches_4gpu, *settings)


def test_a_container_with_little_shared_memory(workshop, elsewhere, refused, monkeypatch):
    monkeypatch.setenv("NGPU", "4")
    shared_memory(monkeypatch, 60_000)
    message = refused(train_vqgan_patches_4gpu, *workshop.vqgan, WORKERS, "check=true")
    assert "0 MB free" in message
    assert "--shm-size=1g" in message
    run(train_vqgan_patches_4gpu, *workshop.vqgan, "check=true")  # without loader processes


@pytest.mark.parametrize(("free", "enough"), [(200e6, False), (210e6, True)])
def test_the_guides_patches_need_201_mb_a_gpu(free, enough, monkeypatch):
    item = {"ct_hu": loaders.Tensor([]).new_zeros(128, 128, 128).short()}
    data = SimpleNamespace(num_workers=4, batch_size=4, train=SimpleNamespace(packed_item=lambda _: item))
    monkeypatch.delenv("NGPU", raising=False)
    shared_memory(monkeypatch, free)
    if enough:
        loaders.check_loaders(data)
    else:
        with pytest.raises(ValueError, match="201 MB of shared memory"):
            loaders.check_loaders(data)
