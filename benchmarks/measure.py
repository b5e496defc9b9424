"""What a piece of work takes: seconds, memory, operations."""

import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from common.memory import PeakMemory
from pipeline.versions import versions

ROOT = Path(__file__).resolve().parents[1]

log = logging.getLogger(__name__)


def now(device: torch.device) -> float:
    """Seconds on a clock; a GPU's work is waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class CpuClock:
    """CPU seconds of this process, of all its threads, while it is entered: `seconds` in all. What else the machine
    does prolongs them little."""

    def __init__(self) -> None:
        self.seconds, self._begun = 0.0, 0.0

    def __enter__(self) -> Self:
        self._begun = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._begun


def seconds_per_call(run: Callable[[], Any], seconds: float) -> float:
    """The mean over as many calls as fit into about so many seconds, after some to warm up, on one thread."""
    return Timer("run()", globals={"run": run}).blocked_autorange(min_run_time=seconds).mean


def run(script: str, settings: Sequence[str], every_s: float = 0.5) -> tuple[float, float]:
    """Seconds that a command of ours takes, and the most GB that it and its children hold.

    Ends with its status if it fails.
    """
    log.info("\n$ python %s", shlex.join([script, *settings]))
    started, memory = time.monotonic(), PeakMemory()
    command = [sys.executable, str(ROOT / script), *settings]
    if status := memory.watch(subprocess.Popen(command, stdout=sys.stderr), every_s):
        sys.exit(status)
    return round(time.monotonic() - started, 2), round(memory.peak_gb, 2)


def parameters(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def gflop(run: Callable[[], Any]) -> float:
    """10^9 operations of a call; a multiply-add counts as two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 1e9


def saved_bytes(loss: Callable[[], Tensor], network: nn.Module) -> int:
    """Unique bytes that a loss keeps for its backward pass, parameters excluded."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors, so that no storage is freed and its address used again

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss().backward()
    network.zero_grad()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def stamp() -> dict[str, Any]:
    """When, and with which versions, a figure was measured."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}
