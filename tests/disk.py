"""What a process may not take: room on a disk that is full, files."""

import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    """This process may take no more of a resource, such as `resource.RLIMIT_NOFILE`."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


def largest_file(size: int) -> AbstractContextManager[None]:
    """Writing more than `size` bytes to a file fails as on a full disk, with another number (EFBIG)."""
    return limited(resource.RLIMIT_FSIZE, size)
