"""Commands as real processes: alone, under torchrun, under the launchers. None outlives its test."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import psutil

from tests.tiny import free_port

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 1200.0  # of tests that wait for a process: the machine may be busy with others
_MARK = "XRAY2CTPA_TEST"


class Running:
    """A command under way, with all that it has started.

    Args:
        log: what it says goes to this file.
    """

    def __init__(self, command: list[str], log: Path, **variables: str) -> None:
        self.log, self._mark = log, uuid4().hex
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", _MARK: self._mark} | variables
        with log.open("w") as said:
            self.process = subprocess.Popen(command, cwd=log.parent, env=environment, stdout=said, stderr=said)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def members(self) -> list[psutil.Process]:
        """The processes that live, also those whose parent is gone."""
        return [process for process in psutil.process_iter() if self._is_mine(process)]

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and process.environ().get(_MARK) == self._mark
        except psutil.Error:
            return False

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def signal(self, number: int) -> None:
        """To the process that was started, not to its own."""
        self.process.send_signal(number)

    def until(self, is_so: Any, seconds: float = PATIENCE_S) -> None:
        """Wait for a condition, while the command runs."""
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, self.said
            assert not self.ended, self.said
            time.sleep(0.05)

    def status(self, seconds: float = PATIENCE_S) -> int:
        """Wait for its end."""
        return self.process.wait(seconds)

    def gone(self, seconds: float) -> bool:
        """Whether all its processes end in this time."""
        deadline = time.monotonic() + seconds
        while self.members() and time.monotonic() < deadline:
            time.sleep(0.1)
        return not self.members()

    def kill(self) -> None:
        while left := self.members():
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=1)
        self._reap()

    def _reap(self) -> None:
        self.process.wait()


@contextmanager
def running(command: list[str], log: Path, **variables: str) -> Iterator[Running]:
    """Start a command; at the end, kill what is left of it."""
    started = Running(command, log, **variables)
    try:
        yield started
    finally:
        started.kill()


def script(module: ModuleType, *settings: str) -> list[str]:
    """A command, alone."""
    return [sys.executable, str(ROOT / f"{module.__name__}.py"), *settings]


def torchrun(module: ModuleType, *settings: str, processes: int = 2, options: tuple[str, ...] = ()) -> list[str]:
    """A command on several processes, which answers the signals that launch.sh names."""
    words = (ROOT / "launch.sh").read_text(encoding="utf-8").split()
    heard = next(word.removeprefix("signals=") for word in words if word.startswith("signals="))
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command.append(f"--signals-to-handle={heard}")
    return [*command, *(options or (f"--master_port={free_port()}",)), *script(module, *settings)[1:]]


def launcher(stage: str, *settings: str) -> list[str]:
    return [str(ROOT / f"launch_{stage}_patches_4gpu.sh"), *settings]
