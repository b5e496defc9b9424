"""Worker processes that start fast."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
