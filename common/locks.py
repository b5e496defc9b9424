"""One process at a time, also on several machines that share a file system."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

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
