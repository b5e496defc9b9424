import os
import subprocess
import sys
from pathlib import Path

from dataset.prepare.processes import results_of

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os.path import basename
from dataset.prepare.processes import without_script

print("script loaded", flush=True)
if __name__ == "__main__":
    path = __file__
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with without_script():
            future = pool.submit(basename, "a/b")
        print("worker says", future.result(), __file__ == path)
"""


def test_workers_do_not_load_the_script_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["script loaded", "worker says b True"]


def threads_and_numpy(name):
    return os.environ.get(name), "numpy" in sys.modules


def test_workers_use_one_thread_from_the_start_and_this_process_as_many_as_before(monkeypatch):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("BLOSC_NTHREADS", raising=False)
    before = dict(os.environ)
    assert dict(results_of(threads_and_numpy, names, 2, "%d of %d")) == dict.fromkeys(names, ("1", False))
    assert dict(os.environ) == before


def test_results_are_told_with_the_items_they_belong_to(caplog):
    with caplog.at_level("INFO"):
        assert sorted(results_of(len, ["a", "bcd", ""], 2, "made %d of %d")) == [("", 0), ("a", 1), ("bcd", 3)]
    assert caplog.messages == ["made 1 of 3", "made 2 of 3", "made 3 of 3"]
