"""One process at a time, also on several machines that share a file system."""

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from common.errors import UserError

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # some network file systems
_log = logging.getLogger(__name__)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, made if missing; waits until nobody else holds it. Freed if the process dies.

    Where the file system has no locks it goes on without: use it only around work that is right, if wasteful, twice.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, fallback_to_soft=False)  # a soft lock would outlive a process that dies
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.info("the file system of %s has no locks; going on without", path.parent)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def claimed(path: Path, whose: str) -> Iterator[None]:
    """Hold the lock file `path`, made if missing; UserError if another process does. Freed if the process dies.

    Where the file system has no locks it goes on without.

    Args:
        whose: what the other process is said to be then, and what to do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            # the process' own, not flock: loader processes would hold that on when this one is killed
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise UserError(f"{path.parent} is in use by {file.read()}, {whose}") from None
            if error.errno not in _NO_LOCKS:
                raise
            _log.info("the file system of %s has no locks; going on without", path.parent)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
