"""Being told to end, as by `kill`, SLURM or a container's engine: as an exception, so that nothing half done stays."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from common.launcher import rank_and_world


class Told(SystemExit):
    """Ends the process with the status that a shell gives one that the signal has ended: 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


def end(number: int, _: object) -> NoReturn:
    """A signal's handler."""
    raise Told(number)


@contextmanager
def hearing_signals() -> Iterator[None]:
    """SIGTERM and SIGUSR1 raise `Told` meanwhile; not in one of several processes, which end at once.

    One that waits for the others, in a library, would not hear.
    """
    numbers = (signal.SIGTERM, signal.SIGUSR1) if rank_and_world()[1] == 1 else ()
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
