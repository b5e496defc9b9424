"""Commands as processes of their own which need not load what they are made of: seconds less for each than by `script`.

They are forked from a process that has loaded it and has done nothing else: neither threads nor settings of pytest
are in them. Their signals, exit statuses and words are those of a command that Python starts.
"""

import atexit
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import psutil

from tests.processes import PATIENCE_S, ROOT, Running
from tests.tiny import free_port, run

_LOADED = ("pipeline.training.stages", "evaluate_ddpm_patches", "sample_ddpm_patches", "export_model", "tests.forks")
_ALIKE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
_context = multiprocessing.get_context("forkserver")


class Fork(Running):
    """A command under way, with all that it has started: its session."""

    def __init__(
        self, module: ModuleType, settings: tuple[str, ...], log: Path, variables: dict[str, str], first: Any
    ) -> None:
        self.log = log
        _context.set_forkserver_preload(list(_LOADED))
        with mock.patch.dict(os.environ, _ALIKE):
            forkserver.ensure_running()
        self.forked = _context.Process(target=_command, args=(module.__name__, settings, log, variables, first))
        self.forked.start()

    def _is_mine(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, ProcessLookupError):
            return process.status() != psutil.STATUS_ZOMBIE and os.getsid(process.pid) == self.forked.pid
        return False

    @property
    def ended(self) -> bool:
        return self.forked.exitcode is not None

    def signal(self, number: int, all_of_it: bool = False) -> None:
        """To the command, or to all its processes, as a terminal does."""
        assert self.forked.pid is not None
        (os.killpg if all_of_it else os.kill)(self.forked.pid, number)

    def status(self, seconds: float = PATIENCE_S) -> int:
        self.forked.join(seconds)
        assert self.forked.exitcode is not None, self.said
        return self.forked.exitcode

    def _reap(self) -> None:
        self.forked.join()


def _command(module: str, settings: tuple[str, ...], log: Path, variables: dict[str, str], first: Any) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # Linux' own again, for what the command starts
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and under nohup this one
    os.chdir(log.parent)
    os.environ.update(variables)
    with log.open("w") as said:
        for number in (1, 2):
            os.dup2(said.fileno(), number)
    status: str | int | None = 1
    try:
        if first is not None:
            first()
        run(importlib.import_module(module), *settings)
        status = 0
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


@contextmanager
def forked(
    module: ModuleType, *settings: str, log: Path, processes: int = 1, first: Any = None, **variables: str
) -> Iterator[list[Fork]]:
    """Start a command alone, or as torchrun starts the processes of one; at the end, kill what is left of it.

    Args:
        log: what it says goes to this file; what the others say, to files beside it. Its folder is where they run.
        first: called in each before the command.
    """
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "TORCHELASTIC_RUN_ID": "none"}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with ExitStack() as left:
        started = []
        for rank in range(processes):
            own = variables | (world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
            said = log.with_name(log.name + (str(rank) if rank else ""))
            started.append(Fork(module, settings, said, own, first))
            left.callback(started[-1].kill)
        yield started
