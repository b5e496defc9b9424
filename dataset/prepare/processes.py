"""Worker processes that start fast and leave the other cores alone."""

import os
import sys
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


@contextmanager
def without_script() -> Iterator[None]:
    """Processes spawned meanwhile do not import the running script again: it loads torch, and they need none of it.

    What they run must live in a package, not in the script.
    """
    script = sys.modules["__main__"]
    path, spec = getattr(script, "__file__", None), script.__spec__
    script.__file__, script.__spec__ = None, None
    try:
        yield
    finally:
        script.__file__, script.__spec__ = path, spec
