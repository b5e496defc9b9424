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
from pathlib import Path
from threading import Thread
from typing import Any, Self

import torch

from benchmarks.command import benchmark
from benchmarks.measure import ROOT, stamp
from benchmarks.networks import SMALL
from benchmarks.train_step import CACHED
from benchmarks.workbench import workbench
from pipeline.checkpoints.restricted_pickle import OURS, load
from pipeline.devices import pick_device

LAUNCHER = ROOT / "launch_ddpm_patches_4gpu.sh"
TINY = [*SMALL.split(), "model.patch_size=[32,32,32]", "trainer.strategy=ddp", "model.val_every_n_epochs=100000"]
MOST_STEPS = 100000  # more than it takes before it is stopped


class Training:
    """A training under the launcher; what it says goes to stderr as it comes, and stays in `said`."""

    def __init__(self, settings: list[str], device: torch.device, port: int) -> None:
        environment = os.environ | {"NGPU": "1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        if device.type == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        command, pipe = [str(LAUNCHER), *settings], subprocess.PIPE
        self.process = subprocess.Popen(
            command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        self.said: list[str] = []
        self._listener = Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        for line in self.process.stdout or ():
            sys.stderr.write(line)
            self.said.append(line)

    def stop(self) -> float:
        """Tell the launcher to end; the seconds until it has."""
        told = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        return time.monotonic() - told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays behind when this benchmark itself is ended."""
        if self.process.poll() is None:
            self.stop()
        self._listener.join()


def end(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


def step_of(checkpoint: Path) -> int:
    return int(load(checkpoint, OURS)["global_step"])


@benchmark("train_ddpm")
def main(
    overrides: list[str], device: str = "auto", workers: int = 4, more: int = 20, port: int = 29517
) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, end)  # a time limit's
    where = pick_device(device)
    trained = [CACHED, f"model.num_workers={workers}", "model.checkpoint_every_n_steps=5", "model.max_epochs=-1"]
    with workbench("ddpm", [*TINY, *trained, *overrides]) as bench:
        last = Path(bench.settings().checkpoint_dir) / "last.ckpt"
        with Training([*bench.overrides, f"model.max_steps={MOST_STEPS}"], where, port) as first:
            while first.process.poll() is None and not last.is_file():
                time.sleep(0.05)
            seconds = first.stop()
        step = step_of(last) if last.is_file() else 0
        with Training([*bench.overrides, f"model.max_steps={step + more}"], where, port + 1) as second:
            status = second.process.wait()
        last_step = step_of(last) if last.is_file() else None
    said = "".join(second.said)
    continued = step > 0 and f"continuing from {last}" in said
    backend = next((name for name in ("nccl", "gloo") if f"distributed_backend={name}" in said), None)
    result = {
        "status_stopped": first.process.returncode,
        "seconds_to_stop": round(seconds, 2),
        "status_again": status,
        "step_stopped": step,
        "step_end": last_step,
        "continued": continued,
        "backend": backend,
        "workers": workers,
    }
    if status or not continued or last_step != step + more:
        raise RuntimeError(f"the training did not go on: {result}")
    return result | stamp()


if __name__ == "__main__":
    main()
