import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os.path import basename
from dataset.processes import without_script

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
