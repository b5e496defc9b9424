"""Worker processes that leave the other cores alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")


@contextmanager
def single_threaded() -> Iterator[None]:
    """Processes started meanwhile use one thread each: libraries read these variables when loaded."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
