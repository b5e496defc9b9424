"""How much memory a command and all its children take, on Linux."""

import os
import subprocess
import time
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


class PeakMemory:
    """The most memory that watched processes and their children held at once; shared pages count once per
    process."""

    def __init__(self) -> None:
        self.peak_gb = 0.0

    def watch(self, process: subprocess.Popen[bytes], every_s: float = 0.5) -> int:
        """Wait for a process; its exit status."""
        while process.poll() is None:
            held = sum(_resident(pid) for pid in _family(process.pid))
            self.peak_gb = max(self.peak_gb, held / 1e9)
            time.sleep(every_s)
        return process.returncode


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # gone meanwhile, or not Linux
        return [pid]
    return [pid, *(member for child in children for member in _family(int(child)))]


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0
