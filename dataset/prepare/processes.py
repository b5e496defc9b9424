"""Work spread over processes that start fast and leave the other cores alone."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from typing import TypeVar, cast

from tqdm import tqdm

from common.errors import UserError
from common.launcher import end_with_parent
from common.told import Told, end

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")
Item = TypeVar("Item")
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


def results_of(
    work: Callable[[Item], Result], items: Sequence[Item], num_workers: int, done: str
) -> Iterator[tuple[Item, Result]]:
    """Every item with what `work` makes of it, as soon as it is ready.

    Args:
        num_workers: processes; 0 works in this one.
        done: about ten log lines such as "prepared %d of %d cases"; on a terminal stands a bar instead.

    Raises:
        UserError: a process was killed, most likely for want of memory.
    """
    results = _in_pool(work, items, num_workers) if num_workers > 0 else ((item, work(item)) for item in items)
    if sys.stderr.isatty():
        yield from tqdm(results, total=len(items), unit="case")
        return
    every = max(1, len(items) // 10)
    for count, result in enumerate(results, start=1):
        if count % every == 0 or count == len(items):
            _log.info(done, count, len(items))
        yield result


def _in_pool(work: Callable[[Item], Result], items: Sequence[Item], num_workers: int) -> Iterator[tuple[Item, Result]]:
    context = get_context("spawn")
    with ProcessPoolExecutor(min(num_workers, len(items) or 1), mp_context=context, initializer=_begin) as pool:
        with without_script(), _deaf():  # processes start as tasks are submitted
            futures = {pool.submit(_done, work, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, most likely for want of memory (each needs about four times the size of"
                f" a volume); got dataset.prepare_workers={num_workers}. Lower it (0: no other processes) and run this"
                " again: finished cases are kept."
            ) from None
        except BaseException:  # Ctrl-C and the like: none ends its case first
            for process in (pool._processes or {}).values():
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    """One thread, in libraries that a worker loads later; told to end, or left by who started it, it clears up."""
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, end)
    end_with_parent()


def _done(work: Callable[[Item], Result], item: Item) -> Result:
    try:
        return work(item)
    except Told as told:
        os._exit(cast(int, told.code))  # else the pool would give it the next one


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started meanwhile do not hear what a terminal or SLURM tells all: who started them ends them."""
    resource_tracker.ensure_running()  # where it starts, it lets signals through again
    told = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, told)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
