import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from dataset.prepare.processes import single_threaded

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


def test_processes_started_meanwhile_use_one_thread_and_the_settings_come_back(monkeypatch):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("BLOSC_NTHREADS", raising=False)
    before = dict(os.environ)
    told = [sys.executable, "-c", f"import os; print(*(os.environ[name] for name in {names}))"]
    with suppress(ZeroDivisionError), single_threaded():
        assert subprocess.run(told, capture_output=True, text=True, check=True).stdout.split() == ["1"] * 4
        raise ZeroDivisionError
    assert dict(os.environ) == before
