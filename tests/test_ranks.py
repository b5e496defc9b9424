"""Two processes of torchrun that train together, with the loader processes that are shipped: real signals, real NaN."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import pytorch_lightning as pl

from tests.test_resume import stop_at
from tests.tiny import DDPM_CKPT, built_ddpm, free_port, load

ROOT = Path(__file__).resolve().parents[1]
ENDLESS = ["model.max_epochs=100000", "model.num_workers=4"]
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


def start(folder, *settings, processes=2, log="log"):
    """The launcher's torchrun, with two processes; what it says goes to a file."""
    words = (ROOT / "launch.sh").read_text()
    handled = next(word for word in words.split() if word.startswith("--signals-to-handle="))
    command = [sys.executable, "-m", "torch.distributed.run", handled, f"--nproc_per_node={processes}"]
    command += [f"--master_port={free_port()}", str(ROOT / "train_ddpm_patches_4gpu.py"), *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    with Path(folder, log).open("w") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stderr=said, stdout=said)


def until(is_so, process, seconds=240):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        assert process.poll() is None, Path("log").read_text()
        time.sleep(0.05)


def family(process):
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize(
    ("asked", "validating"), [(signal.SIGTERM, False), (signal.SIGUSR1, False), (signal.SIGTERM, True)]
)
def test_a_signal_to_the_launcher_costs_no_step(asked, validating, workshop, elsewhere):
    there = callback("Tell", file="there", step=4, validating=validating)
    more = ["model.val_patches_per_volume=200"] if validating else ["model.val_every_n_epochs=1000000"]
    process = start(elsewhere, *workshop.ddpm, *ENDLESS, *more, there)
    until(Path("there").is_file, process)
    members, began = family(process), time.monotonic()
    process.send_signal(asked)
    status = process.wait(60)
    _, alive = psutil.wait_procs(members, timeout=max(0, 30 - (time.monotonic() - began)))
    said = Path("log").read_text()
    assert not alive, said
    assert time.monotonic() - began < 30
    assert status == 1  # torchrun's, whatever its processes end with
    assert "DataLoader worker" not in said
    step = load(DDPM_CKPT)["global_step"]
    assert f"{asked.name} at step {step}: wrote" in said, said
    assert step >= 4


def test_a_nan_of_one_rank_stops_both_before_a_checkpoint(workshop, elsewhere):
    settings = [*workshop.ddpm, *ENDLESS, "model.checkpoint_every_n_steps=1", callback("PlantNaN", step=2, rank=1)]
    process = start(elsewhere, *settings)
    assert process.wait(240) == 1
    said = Path("log").read_text()
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
    process = start(elsewhere, *workshop.ddpm, *ENDLESS, "checkpoint_dir=of${oc.env:RANK}")
    assert process.wait(240) == 1
    said = Path("log").read_text()
    assert said.count("all ranks must go on from the same checkpoint") == 1, said
    assert "step 4" in said
    assert "step 0" in said


def test_sigterm_to_one_process_ends_all(workshop, elsewhere):
    command = [*workshop.ddpm, "model.max_epochs=10"]
    stopped = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
        + [str(ROOT / "train_ddpm_patches_4gpu.py"), *command, stop_at(5, signal="SIGTERM", rank=1)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "SIGTERM at step 6: wrote" in stopped.stderr, stopped.stderr  # told after it, heard in the validation
    assert load(DDPM_CKPT)["global_step"] == 6
