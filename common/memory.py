"""How much memory this process, or a command and all its children, takes."""

from __future__ import annotations

import resource
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:  # a command that only watches others starts without torch
    import torch

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """What this process holds now."""
    return int(psutil.Process().memory_info().rss)


def peak_bytes(device: torch.device | None = None) -> int:
    """The most that was held at once: on a GPU by tensors, else by this process, since it began or `forget_peak`."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if not _STATUS.is_file():  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # not getrusage, which also counts what the parent held when it started this process
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def forget_peak() -> None:
    """Let `peak_bytes` of this process count from now on. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")


class PeakMemory:
    """The most memory that watched processes and their children held at once; shared pages count once per
    process."""

    def __init__(self) -> None:
        self.peak_gb = 0.0

    def watch(self, process: subprocess.Popen[bytes], every_s: float = 0.5) -> int:
        """Wait for a process; its exit status."""
        while process.poll() is None:
            self.peak_gb = max(self.peak_gb, _family_bytes(process.pid) / 1e9)
            time.sleep(every_s)
        return process.returncode


def _family_bytes(pid: int) -> int:
    held = 0
    with suppress(psutil.NoSuchProcess):  # it may end at any time
        root = psutil.Process(pid)
        for member in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                held += member.memory_info().rss
    return held
