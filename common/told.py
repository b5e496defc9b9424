"""Being told to end, as by `kill`, SLURM, a container's engine or a terminal that closes: as an exception, so that
nothing half done stays.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from common.launcher import rank_and_world


class Told(SystemExit):
    """Ends the process with the status that a shell gives one that the signal has ended: 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


def asking() -> list[signal.Signals]:
    """The signals by which others ask a process to end. Under nohup that of a terminal that closes is none."""
    of_terminal = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGUSR1, *of_terminal]


def end(number: int, _: object) -> NoReturn:
    """A signal's handler."""
    raise Told(number)


@contextmanager
def hearing_signals() -> Iterator[None]:
    """SIGTERM, SIGUSR1 and SIGHUP raise `Told` meanwhile; not in one of several processes, which end at once.

    One that waits for the others, in a library, would not hear.
    """
    numbers = asking() if rank_and_world()[1] == 1 else []
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def heard_later() -> Iterator[None]:
    """Signals that raise, Ctrl-C among them, do so when the block has ended; the second one at once.

    For what cannot be left in the middle, such as threads that wait for one another's locks.
    """
    met: list[int] = []
    before: dict[int, Callable[[int, FrameType | None], Any]] = {}
    if threading.current_thread() is threading.main_thread():  # the only one that hears
        for number in map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)):
            if callable(handler := signal.getsignal(number)):
                before[number] = handler

    def note(number: int, frame: FrameType | None) -> None:
        met.append(number)
        if len(met) > 1:
            before[number](number, frame)

    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if len(met) == 1:
            signal.raise_signal(met[0])
