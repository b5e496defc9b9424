"""Does a training under the launcher outlive SIGTERM? `python -m benchmarks.restart [device=cuda] [overrides]`

Starts stage 2 on phantoms through launch_ddpm_patches_4gpu.sh, as DistributedDataParallel on one process (NCCL on a
GPU) with `workers` loader processes, sends the launcher SIGTERM once it has written a checkpoint, and starts the same
command again for `more` steps. The last line is one JSON object: exit status of both, the step that last.ckpt had when
it was stopped and at the end, whether the second start went on from it, the backend, seconds from SIGTERM to the end.
Ends with status 1 if the training did not go on. What the trainings said goes to stderr.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import benchmark
from benchmarks.measure import ROOT, stamp
from benchmarks.networks import SMALL
from benchmarks.train_step import CACHED
from benchmarks.workbench import workbench
from pipeline.devices import pick_device

LAUNCHER = ROOT / "launch_ddpm_patches_4gpu.sh"
TINY = [*SMALL.split(), "model.patch_size=[32,32,32]", "trainer.strategy=ddp", "model.val_every_n_epochs=100000"]
MOST_STEPS = 100000  # more than it takes before it is stopped


def start(settings: list[str], log: Path, device: torch.device, port: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"NGPU": "1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    if device.type == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with log.open("wb") as said:
        return subprocess.Popen([str(LAUNCHER), *settings], env=environment, stdout=said, stderr=said)


def stopped(settings: list[str], log: Path, device: torch.device, last: Path, port: int) -> tuple[int, float]:
    """Exit status of a training that is told to stop once it has saved, and the seconds that it took to end."""
    training = start(settings, log, device, port)
    try:
        while training.poll() is None and not last.is_file():
            time.sleep(0.05)
        training.send_signal(signal.SIGTERM)
        told = time.monotonic()
        return training.wait(), time.monotonic() - told
    finally:
        with suppress(ProcessLookupError):
            training.kill()


def step_of(checkpoint: Path) -> int:
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"]


@benchmark("train_ddpm")
def main(
    overrides: list[str], device: str = "auto", workers: int = 4, more: int = 20, port: int = 29517
) -> dict[str, Any]:
    where = pick_device(device)
    trained = [CACHED, f"model.num_workers={workers}", "model.checkpoint_every_n_steps=5", "model.max_epochs=-1"]
    with workbench("ddpm", [*TINY, *trained, *overrides]) as bench:
        folder = Path(bench.settings().checkpoint_dir)
        last, logs = folder / "last.ckpt", [folder.parent / f"{name}.log" for name in ("stopped", "again")]
        first, seconds = stopped([*bench.overrides, f"model.max_steps={MOST_STEPS}"], logs[0], where, last, port)
        step = step_of(last) if last.is_file() else None
        second = start([*bench.overrides, f"model.max_steps={(step or 0) + more}"], logs[1], where, port + 1).wait()
        said = [log.read_text(errors="replace") for log in logs]
        for text in said:
            sys.stderr.write(f"{text}\n")
        end = step_of(last) if last.is_file() else None
        continued = bool(step) and f"continuing from {last}" in said[1]
    backend = next((name for name in ("nccl", "gloo") if f"distributed_backend={name}" in said[1]), None)
    result: dict[str, Any] = {"status_stopped": first, "seconds_to_stop": round(seconds, 2), "status_again": second}
    result |= {"step_stopped": step, "step_end": end, "continued": continued, "backend": backend, "workers": workers}
    if second or not continued or end != (step or 0) + more:
        raise RuntimeError(f"the training did not go on: {result}")
    return result | stamp()


if __name__ == "__main__":
    main()
